import t from "tap";
import { connectRaftGroup, type RaftThread } from "../../../manager/raft/client.ts";
import type { RaftGroup } from "../../../manager/raft/group.ts";
import type { ThreadCommand, ThreadOutput } from "../../../manager/raft/port.ts";
import type { NodeId } from "../../../model/ids.ts";

/** A group whose thread notes what it is asked for and answers nothing of its own. */
async function client(): Promise<{
  group: RaftGroup;
  asked: ThreadCommand[];
  say: (output: ThreadOutput) => void;
}> {
  const asked: ThreadCommand[] = [];
  let say: (output: ThreadOutput) => void = () => {};
  const thread: RaftThread = {
    post: (command) => void asked.push(command),
    listen: ({ onOutput }) => {
      say = onOutput;
      onOutput({ kind: "started", memberId: "n1.aa", port: 1 });
    },
    stop: () => Promise.resolve(),
  };
  const group = await connectRaftGroup(thread, () => Promise.reject(new Error("not in this test")));
  return { group, asked, say };
}

const requests: Record<string, (group: RaftGroup, signal: AbortSignal) => Promise<unknown>> = {
  "a proposal": (group, signal) => group.propose(new Uint8Array(1), signal),
  "a read": (group, signal) => group.readIndex(signal),
  "a change of members": (group, signal) =>
    group.changeMembership({ kind: "remove", nodeId: "n2" as NodeId }, signal),
  "a transfer": (group, signal) => group.transferLeadership(undefined, signal),
  "a new data key": (group, signal) => group.rotateDataKey(signal),
};

for (const [name, request] of Object.entries(requests)) {
  t.test(`${name} whose asker has gone already is not made`, async (t) => {
    const { group, asked } = await client();
    await t.rejects(request(group, AbortSignal.abort(new Error("gone"))), { message: "gone" });
    t.strictSame(asked, []);
  });

  t.test(`${name} is not made once the thread has failed`, async (t) => {
    const { group, asked, say } = await client();
    say({ kind: "failed", failure: { code: "data-loss", message: "no disk" }, removed: false });
    await t.rejects(request(group, new AbortController().signal), { code: "data-loss", message: "no disk" });
    t.strictSame(asked, []);
  });
}
