import t from "tap";
import { leaveByLeader } from "../../../manager/membership/leave.ts";
import { ClusterError, type ErrorCode, outcomeUnknownText } from "../../../model/errors.ts";

/** A leader each: what the manager that leads at the time answers. */
async function leave(answers: readonly (ErrorCode | "removed")[], signal = new AbortController().signal) {
  const left = [...answers];
  let asked = 0;
  const ask = async (): Promise<void> => {
    asked += 1;
    const answer = left.shift() ?? "removed";
    if (answer !== "removed") throw new ClusterError(answer, outcomeUnknownText);
  };
  await leaveByLeader({ ask, pause: async () => {} }, signal);
  return asked;
}

const cases = [
  { name: "the leader removes it", answers: ["removed"], asked: 1 },
  {
    name: "the leader died over the request: the next one is asked",
    answers: ["unavailable", "removed"],
    asked: 2,
  },
  { name: "the leader lost its office over it", answers: ["no-leader", "removed"], asked: 2 },
  { name: "the leader says nothing", answers: ["deadline-exceeded", "no-leader", "removed"], asked: 3 },
] as const;

for (const { name, answers, asked } of cases) {
  t.test(`a manager leaves: ${name}`, async (t) => {
    t.equal(await leave(answers), asked);
  });
}

t.test("a refusal is final", async (t) => {
  await t.rejects(leave(["unavailable", "failed-precondition", "removed"]), { code: "failed-precondition" });
});

t.test("nobody is asked once the time is up", async (t) => {
  const reason = new ClusterError("deadline-exceeded", "leaving took too long");
  await t.rejects(leave(["unavailable"], AbortSignal.abort(reason)), reason);
});
