import { type RaftPlan, manyTransfers, planOf } from "./raft-plan.ts";

/** A bug that is written into the compiled text of one module, for one process. */
export interface Plant {
  readonly name: string;
  /** One of these has to be broken: another would be a find by chance, or a bug of the simulation. */
  readonly rules: readonly string[];
  /** From the root, without extension; under the build folder of its package. */
  readonly module: string;
  /** Each `find` stands in the module exactly once. */
  readonly changes: readonly { readonly find: string; readonly replace: string }[];
  /** What the histories are like, where any kind of day would need many of them. */
  readonly plan?: Partial<RaftPlan>;
  /** Seeds, counted from 1, among which one finds it. */
  readonly seeds: number;
}

const calmNetwork = {
  kind: "stream",
  latencyMs: [0.1, 0.5],
  dropRatio: 0,
  duplicateRatio: 0,
  spikeRatio: 0,
  spikeMs: 0,
  encoded: false,
} as const;

/** Leaders that are cut off with clients at both sides, and nothing else. */
const orphanedLeaders: Partial<RaftPlan> = {
  founders: 3,
  hosts: 3,
  network: calmNetwork,
  clients: { clients: 7, thinkMs: 20, writeRatio: 0.5, leaderRatio: 1 },
  faults: { kinds: ["isolate-leader"], everyMs: 700, lastsMs: 1500 },
  changeEveryMs: undefined,
};

/** Members that are sent one state after another, and take it in slowly. */
const slowInstalls: Partial<RaftPlan> = {
  ...orphanedLeaders,
  host: manyTransfers(planOf(1)).host,
  faults: { kinds: ["receiver-restart"], everyMs: 300, lastsMs: 300 },
};

export const plants: readonly Plant[] = [
  {
    name: "the vote is not persisted",
    rules: ["durability"],
    module: "manager/raft/codec",
    changes: [{ find: 'vote: hardState.vote ?? ""', replace: 'vote: ""' }],
    seeds: 100,
  },
  {
    name: "an append is acknowledged before it is durable",
    rules: ["acknowledged before it was durable"],
    module: "raft-ts/src/state",
    changes: [{ find: "message.index <= this.log.stableIndex()", replace: "true" }],
    seeds: 100,
  },
  {
    name: "the log is written without a sync",
    rules: ["a sound disk was refused", "durability"],
    module: "manager/raft/wal",
    changes: [{ find: "file.commit(this.#position, bytes)", replace: "file.write(this.#position, bytes)" }],
    seeds: 100,
  },
  {
    name: "the leader counts its own entries before they are durable",
    rules: ["committed without a quorum"],
    module: "raft-ts/src/leader",
    changes: [{ find: "id === s.id ? s.log.stableIndex()", replace: "id === s.id ? s.log.lastIndex()" }],
    seeds: 100,
  },
  {
    name: "an entry of an earlier term is committed by counting",
    rules: ["committed without a quorum"],
    module: "raft-ts/src/leader",
    changes: [
      {
        find: "reached <= s.log.commit || s.log.term(reached) !== s.term",
        replace: "reached <= s.log.commit",
      },
    ],
    plan: orphanedLeaders,
    seeds: 100,
  },
  {
    name: "a read is confirmed without a quorum",
    rules: ["stale read", "linearizability"],
    module: "raft-ts/src/leader",
    changes: [{ find: "role.reads.confirm(confirmed)", replace: "role.reads.confirm(role.reads.round)" }],
    plan: orphanedLeaders,
    seeds: 100,
  },
  {
    name: "reads are served before the first commit of the term",
    rules: ["stale read", "linearizability"],
    module: "raft-ts/src/leader",
    changes: [
      {
        find: "role.reads.hasWaiting && s.log.commit >= role.termStartIndex",
        replace: "role.reads.hasWaiting",
      },
    ],
    seeds: 100,
  },
  {
    name: "a configuration counts from its commit",
    rules: ["committed without a quorum"],
    module: "raft-ts/src/leader",
    changes: [
      {
        find: "reachedByQuorum(s.history.latest, (id) => matchOf",
        replace: "reachedByQuorum(s.history.at(s.log.commit), (id) => matchOf",
      },
    ],
    seeds: 100,
  },
  {
    name: "a snapshot claims one entry more than it holds",
    rules: ["snapshot index"],
    module: "manager/raft/member-snapshots",
    changes: [
      { find: "{ index, term, configuration }", replace: "{ index: index + 1, term, configuration }" },
    ],
    seeds: 100,
  },
  {
    name: "entries behind a state that is being loaded are handed out",
    rules: ["state-machine safety", "snapshot index"],
    module: "raft-ts/src/log",
    changes: [
      { find: "return !this.isLoading &&", replace: "return" },
      { find: "if (this.isLoading || to", replace: "if (to" },
    ],
    plan: slowInstalls,
    seeds: 100,
  },
  {
    name: "a proposal of unknown outcome is proposed again",
    rules: ["proposed twice"],
    module: "manager/raft/member",
    changes: [
      {
        find: "const result = this.#node.propose(data);",
        replace: "(this.kept ??= new Map()).set(id, data);\n        const result = this.#node.propose(data);",
      },
      {
        find: "this.#refuseAll(this.#proposals.abandonBefore(firstTerm));",
        replace:
          "const lost = this.#proposals.abandonBefore(firstTerm); this.#refuseAll(lost); (this.again ??= []).push(...lost);" +
          'if (role === "leader") for (const id of this.again.splice(0)) this.#node.propose(this.kept.get(id));',
      },
    ],
    plan: orphanedLeaders,
    seeds: 100,
  },
  {
    name: "a damaged record is taken for the end of the log",
    rules: ["durability"],
    module: "manager/raft/wal-record",
    changes: [
      {
        find: 'return { kind: "damaged", reason };',
        replace: 'return { kind: "torn" };',
      },
    ],
    plan: { ...orphanedLeaders, faults: { kinds: ["flip", "kill"], everyMs: 300, lastsMs: 150 } },
    seeds: 100,
  },
  {
    name: "a pre-vote raises the term",
    rules: ["a term that nobody stood for"],
    module: "raft-ts/src/raft",
    changes: [{ find: 'if (message.type === "pre-vote")\n        return;', replace: "" }],
    seeds: 100,
  },
  {
    name: "learners count in the quorum",
    rules: ["committed without a quorum", "membership safety"],
    module: "raft-ts/src/quorum",
    changes: [
      {
        find: "const incoming = reachedByMajority(configuration.voters, valueOf);",
        replace:
          "const incoming = reachedByMajority([...configuration.voters, ...configuration.learners], valueOf);",
      },
    ],
    seeds: 100,
  },
  {
    name: "leadership is handed to who has not caught up",
    rules: ["leadership handed to who is behind"],
    module: "raft-ts/src/leader",
    changes: [{ find: "role.progress.get(to)?.match !== s.log.lastIndex()", replace: "false" }],
    seeds: 100,
  },
  {
    name: "a conflicting tail is kept",
    rules: ["state-machine safety", "log matching"],
    module: "raft-ts/src/log",
    changes: [
      {
        find: "entries.findIndex((entry) => !this.matches(entry.index, entry.term))",
        replace: "entries.findIndex((entry) => entry.index > this.lastIndex())",
      },
    ],
    plan: orphanedLeaders,
    seeds: 100,
  },
  {
    name: "a vote goes to a log that is behind",
    rules: ["leader completeness"],
    module: "raft-ts/src/raft",
    changes: [{ find: "free && s.log.isUpToDate(message.lastIndex, message.lastTerm)", replace: "free" }],
    seeds: 100,
  },
  {
    name: "a second vote in the same term",
    rules: ["two votes in a term"],
    module: "raft-ts/src/raft",
    changes: [
      { find: "(s.vote === undefined && s.leader === undefined)", replace: "s.leader === undefined" },
    ],
    seeds: 100,
  },
  {
    name: "a truncated configuration stays in force",
    rules: ["membership safety"],
    module: "raft-ts/src/follower",
    changes: [{ find: "s.history.truncated(result.replacedFrom)", replace: "void 0" }],
    plan: { ...orphanedLeaders, hosts: 5, faults: { kinds: ["orphan-change"], everyMs: 700, lastsMs: 1000 } },
    seeds: 100,
  },
  {
    name: "the last record is trusted as it was read",
    rules: ["a sound disk was refused", "durability"],
    module: "manager/raft/wal",
    changes: [{ find: "if (tail !== undefined)", replace: "if (false)" }],
    plan: {
      ...orphanedLeaders,
      faults: { kinds: ["failed-sync", "stop-in-call", "power", "power-all"], everyMs: 150, lastsMs: 150 },
    },
    seeds: 100,
  },
  {
    name: "a new segment begins with the hard state of the batch that comes after",
    rules: ["a sound disk was refused"],
    module: "manager/raft/wal",
    changes: [
      {
        find: "const body = encodeBatch(batch);",
        replace: "const body = encodeBatch(batch); this.#hardState = batch.hardState ?? this.#hardState;",
      },
    ],
    plan: { ...orphanedLeaders, faults: { kinds: ["stop-at-new-segment"], everyMs: 150, lastsMs: 150 } },
    seeds: 100,
  },
  {
    name: "a leader speaks before its term is durable",
    rules: ["led in a term that is not durable", "promised in a term that is not durable"],
    module: "raft-ts/src/state",
    changes: [{ find: "return message.term === this.stableTerm;", replace: "return true;" }],
    seeds: 100,
  },
  {
    name: "a stale leader tells a newcomer that it was removed",
    rules: ["told to have left"],
    module: "manager/raft/member",
    changes: [
      {
        find: "if (this.#departures.has(id))",
        replace: "if (this.#departures.has(id) || this.#leadsSettled())",
      },
    ],
    plan: { ...orphanedLeaders, hosts: 5, faults: { kinds: ["stale-leader"], everyMs: 1500, lastsMs: 3000 } },
    seeds: 100,
  },
];
