import t from "tap";
import { seededRandom } from "../../runtime/random.ts";
import { type FaultKind, faultKinds } from "../faults/faults.ts";
import { runFault } from "../faults/run.ts";
import { labForTests, noLab, unhandledErrors } from "./fixture.ts";

const chosen = [
  "kill -9 of the leader's manager",
  "power cut of all",
  "pause of the leader",
  "leader cut off",
  "leader hears nobody",
  "constrained election: leader gone, the rest connected to one that lags",
];

t.test("what clients see of managers under faults is linearizable", { skip: noLab }, async (t) => {
  const { lab } = await labForTests(t, { name: "e-hist", managers: 5, workers: 0 });
  const random = seededRandom(1);
  for (const name of chosen) {
    const kind = faultKinds.find((each): each is FaultKind => each.name === name);
    if (kind === undefined) throw new Error(`no fault is called ${name}`);
    const result = await runFault(lab, kind, random.integer(2 ** 31));
    t.match(result, { registers: { kind: "linearizable" }, lists: { kind: "linearizable" } }, name);
    t.ok(result.operations > 0, `${result.operations} operations`);
  }
  t.strictSame(await unhandledErrors(lab), []);
});
