import type { MemberId, RaftStatus } from "raft-ts";
import t from "tap";
import { Handover } from "../../../manager/raft/handover.ts";
import type { NodeId } from "../../../model/ids.ts";
import { silentLog } from "../../../runtime/log.ts";

const boundTicks = 20;

t.test("a transfer is done once another member is known to lead, whoever that is", (t) => {
  for (const leader of ["n2.bb", "n3.cc"]) {
    const { handover, become, answers } = leading();
    handover.start(7, "n2" as NodeId);
    become("follower", undefined);
    handover.tick();
    t.strictSame(answers, [], "nobody may lead yet");
    become("follower", leader);
    t.strictSame(answers, ["7 done"]);
    handover.tick();
    t.equal(answers.length, 1);
  }
  t.end();
});

t.test("a leader that is none any more says so when nobody takes over", (t) => {
  const { handover, become, answers } = leading();
  handover.start(7, "n2" as NodeId);
  become("follower", undefined);
  become("candidate", undefined);
  for (let tick = 1; tick < boundTicks; tick += 1) handover.tick();
  t.strictSame(answers, []);
  handover.tick();
  t.match(answers, [/^7 unavailable: .*nobody is known to have taken it over yet/]);
  become("follower", "n3.cc");
  t.equal(answers.length, 1);
  t.end();
});

t.test("a transfer after which the same one leads again has failed", (t) => {
  const { handover, become, answers } = leading();
  handover.start(7, "n2" as NodeId);
  handover.tick();
  t.strictSame(answers, [], "it is under way");
  become("follower", undefined);
  become("leader", "n1.aa");
  handover.tick();
  t.match(answers, [/^7 unavailable: .*it stays here/]);
  t.end();
});

function leading() {
  const state = { role: "leader", leader: "n1.aa", term: 3, transferTo: undefined } as {
    role: RaftStatus["role"];
    leader: MemberId | undefined;
    term: number;
    transferTo: MemberId | undefined;
  };
  const voters = ["n1.aa", "n2.bb", "n3.cc"];
  const peers = voters.map((id) => ({ id, match: 9 }));
  const status = () => ({ ...state, peers, configuration: { voters } }) as unknown as RaftStatus; // What it looks at.
  const answers: string[] = [];
  const handover = new Handover({
    log: silentLog,
    memberId: "n1.aa",
    node: {
      status,
      transferLeadership(to) {
        state.transferTo = to;
        return { kind: "accepted", index: 9, term: 3 };
      },
    },
    boundTicks,
    isConnected: () => true,
    done: (id) => void answers.push(`${id} done`),
    refuse: (id, { code, message }) => void answers.push(`${id} ${code}: ${message}`),
  });
  const become = (role: RaftStatus["role"], leader: MemberId | undefined): void => {
    Object.assign(state, { role, leader, transferTo: undefined, term: state.term + 1 });
    handover.followRole();
  };
  return { handover, become, answers };
}
