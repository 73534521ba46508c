import t from "tap";
import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { Execs } from "../../../worker/containers/execs.ts";
import { ExecRefused, type ExecSession } from "../../../worker/engine/exec-session.ts";
import type { LocalEngine } from "../../../worker/engine/local.ts";

const containerId = "c".repeat(64);
const options = { attached: true, tty: false };

function execsOver(openSession: () => Promise<Partial<ExecSession>>): Execs {
  const inspect = () => Promise.resolve({ status: { state: "running" } });
  return new Execs({
    engine: { inspect, openSession } as unknown as LocalEngine,
    random: systemRandom,
    log: silentLog,
    facts: { lastCapability: 40 },
    emit: () => Promise.resolve(),
  });
}

t.test("the caller is told that a command is accepted before it runs", async (t) => {
  const seen: string[] = [];
  const execs = execsOver(() => {
    seen.push("runs");
    return Promise.resolve({ pid: 42, exited: new Promise<number>(() => undefined) });
  });
  const id = await execs.create(containerId, { Cmd: ["true"] });
  await execs.start(id, { ...options, onAccepted: () => void seen.push("accepted") });
  t.strictSame(seen, ["accepted", "runs"]);
});

t.test("of two who start a command, one does, and the other is not told that it was accepted", async (t) => {
  const execs = execsOver(() => Promise.resolve({ pid: 42, exited: new Promise<number>(() => undefined) }));
  const id = await execs.create(containerId, { Cmd: ["true"] });
  let accepted = 0;
  const start = (): Promise<unknown> =>
    execs.start(id, { ...options, onAccepted: () => void (accepted += 1) });
  const ends = await Promise.allSettled([start(), start()]);
  t.strictSame(
    ends.map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
  t.match(ends[1], { reason: { code: "conflict", message: /already running/ } });
  t.equal(accepted, 1);
});

t.test("a command that cannot run has ended with its code", async (t) => {
  const refused = new ExecRefused(127, "no such file", undefined);
  const execs = execsOver(() => Promise.reject(refused));
  const id = await execs.create(containerId, { Cmd: ["nothing"] });
  await t.rejects(execs.start(id, options), refused);
  t.match(execs.require(id), { state: "ended", exitCode: 127 });
  await t.rejects(execs.start(id, options), { code: "conflict", message: /has already run/ });
});
