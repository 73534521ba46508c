import t from "tap";

import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { DesiredState, Task, TaskState } from "../../../model/task.ts";
import type { Session } from "../../../manager/dispatcher/session.ts";
import { Withdrawals, withdrawalLimitMs, withdraws } from "../../../manager/dispatcher/withdrawals.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { id } from "../../sim/objects.ts";

const task = id<TaskId>("t1");

const [n1, n2] = [id<NodeId>("n1"), id<NodeId>("n2")];

/** All that is looked at of a session. */
function sessionAt(nodeId: NodeId, sequenceOfMarked: number, applied = 0, started = true): Session {
  return { nodeId, sequenceOfMarked, applied, started } as Session;
}

function opened(): { clock: VirtualClock; told: TaskId[]; withdrawals: Withdrawals } {
  const clock = new VirtualClock();
  const told: TaskId[] = [];
  return { clock, told, withdrawals: new Withdrawals(clock, (taskId) => void told.push(taskId)) };
}

t.test("a task is told once every host has applied what it was sent", async (t) => {
  const { told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  t.equal(withdrawals.holds(task), "running");
  withdrawals.sent(task, [sessionAt(n1, 7), sessionAt(n2, 3)], []);
  withdrawals.applied(n1, 7);
  withdrawals.applied(n2, 2);
  t.strictSame(told, [], "the second is not that far yet");
  withdrawals.applied(n2, 4);
  t.strictSame(told, [task]);
  t.equal(withdrawals.holds(task), undefined);
});

t.test("who is removed is not waited for", async (t) => {
  const { told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [sessionAt(n1, 7)], [n2]);
  withdrawals.gone(n1);
  t.strictSame(told, []);
  withdrawals.gone(n2);
  t.strictSame(told, [task]);
});

t.test(
  "a host whose worker restarts is waited for until it has applied what its new session says",
  async (t) => {
    const { told, withdrawals } = opened();
    withdrawals.hold({ id: task, desiredState: "running" });
    withdrawals.sent(task, [sessionAt(n1, 7)], []);
    withdrawals.away(n1);
    withdrawals.applied(n1, 7);
    t.strictSame(told, [], "the sequence of a session that is over");
    withdrawals.flushed(sessionAt(n1, 0, 0, false));
    t.strictSame(told, [], "nothing is sent in the new session yet");
    withdrawals.flushed(sessionAt(n1, 1));
    t.strictSame(told, []);
    withdrawals.applied(n1, 1);
    t.strictSame(told, [task]);
  },
);

t.test("a host whose worker is away when the task is withdrawn is waited for", async (t) => {
  const { told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [], [n1]);
  t.strictSame(told, []);
  withdrawals.flushed(sessionAt(n1, 0));
  t.strictSame(told, [task], "it comes back without any network");
});

t.test("a host that has it already is not waited for", async (t) => {
  const { told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [sessionAt(n1, 7, 7)], []);
  t.strictSame(told, [task]);
});

t.test("nobody on its networks: told at once", async (t) => {
  const { told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [], []);
  t.strictSame(told, [task]);
});

t.test("a host that had nothing to hear of it is not waited for", async (t) => {
  const { told, withdrawals } = opened();
  const session = { nodeId: n1, sequenceOfMarked: 7, applied: 4, started: true };
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [session as Session], []);
  withdrawals.flushed(session as Session);
  t.strictSame(told, [], "what is marked is not sent yet");
  session.sequenceOfMarked = 5;
  withdrawals.flushed(session as Session);
  t.strictSame(told, [], "it has not applied what it was told before");
  session.applied = 5;
  withdrawals.flushed(session as Session);
  t.strictSame(told, [task]);
});

t.test("a host that does not answer holds it for a bounded time", async (t) => {
  const { clock, told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [sessionAt(n1, 1)], []);
  await clock.advance(withdrawalLimitMs - 1);
  t.strictSame(told, []);
  await clock.advance(1);
  t.strictSame(told, [task]);
});

t.test("the end of the leadership tells nobody anything", async (t) => {
  const { clock, told, withdrawals } = opened();
  withdrawals.hold({ id: task, desiredState: "running" });
  withdrawals.sent(task, [sessionAt(n1, 1)], []);
  withdrawals.clear();
  await clock.advance(withdrawalLimitMs);
  t.strictSame(told, []);
});

const cases: readonly {
  readonly rule: string;
  readonly desired?: DesiredState;
  readonly before?: DesiredState;
  readonly state?: TaskState;
  readonly address?: string;
  readonly want: boolean;
}[] = [
  { rule: "a running task on an overlay that is to stop", want: true },
  { rule: "one that does not run yet gets no clients", state: "starting", want: false },
  { rule: "one that was to stop before", before: "shutdown", want: false },
  { rule: "one that stays", desired: "running", want: false },
  { rule: "one that is one too many", desired: "remove", want: true },
  { rule: "one on its host's networks alone", address: "", want: false },
];

for (const {
  rule,
  desired = "shutdown",
  before = "running",
  state = "running",
  address = "10.0.1.5/24",
  want,
} of cases) {
  t.test(`withdrawn: ${rule}`, async (t) => {
    const networks = [{ networkId: id<never>("net"), address, aliases: [] }];
    const made: Task = {
      id: task,
      meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
      serviceId: id<ServiceId>("web"),
      specVersion: 0,
      slot: 1,
      desiredState: before,
      status: { state, atMs: 0, message: "", error: "", appliedAtMs: 0 },
      networks,
    };
    t.equal(withdraws({ ...made, desiredState: desired }, made), want);
  });
}
