/** A bug that is written into the compiled text of one module, for one process. */
export interface Plant {
  readonly name: string;
  /** From the root, without extension; under the build folder of its package. */
  readonly module: string;
  /** Each `find` stands in the module exactly once. */
  readonly changes: readonly { readonly find: string; readonly replace: string }[];
  /** Seeds, counted from 1, among which one finds it. */
  readonly seeds: number;
}

export const plants: readonly Plant[] = [
  {
    name: "the vote is not persisted",
    module: "manager/raft/codec",
    changes: [{ find: 'vote: hardState.vote ?? ""', replace: 'vote: ""' }],
    seeds: 100,
  },
  {
    name: "an append is acknowledged before it is durable",
    module: "raft-ts/src/state",
    changes: [{ find: "message.index <= this.log.stableIndex()", replace: "true" }],
    seeds: 100,
  },
  {
    name: "the log is written without a sync",
    module: "manager/raft/wal",
    changes: [{ find: "file.commit(this.#position, bytes)", replace: "file.write(this.#position, bytes)" }],
    seeds: 100,
  },
  {
    name: "the leader counts its own entries before they are durable",
    module: "raft-ts/src/leader",
    changes: [{ find: "id === s.id ? s.log.stableIndex()", replace: "id === s.id ? s.log.lastIndex()" }],
    seeds: 100,
  },
  {
    name: "an entry of an earlier term is committed by counting",
    module: "raft-ts/src/leader",
    changes: [
      {
        find: "reached <= s.log.commit || s.log.term(reached) !== s.term",
        replace: "reached <= s.log.commit",
      },
    ],
    seeds: 100,
  },
  {
    name: "reads are served before the first commit of the term",
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
    module: "manager/raft/member",
    changes: [{ find: "const meta = { index, term,", replace: "const meta = { index: index + 1, term," }],
    seeds: 100,
  },
  {
    name: "a proposal of unknown outcome is proposed again",
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
    seeds: 100,
  },
  {
    name: "a damaged record is taken for the end of the log",
    module: "manager/raft/wal-record",
    changes: [
      {
        find: 'return { kind: "damaged", reason };',
        replace: 'return { kind: "torn" };',
      },
    ],
    seeds: 100,
  },
  {
    name: "a pre-vote raises the term",
    module: "raft-ts/src/raft",
    changes: [{ find: 'if (message.type === "pre-vote")\n        return;', replace: "" }],
    seeds: 100,
  },
  {
    name: "learners count in the quorum",
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
    name: "a conflicting tail is kept",
    module: "raft-ts/src/log",
    changes: [
      {
        find: "entries.findIndex((entry) => !this.matches(entry.index, entry.term))",
        replace: "entries.findIndex((entry) => entry.index > this.lastIndex())",
      },
    ],
    seeds: 100,
  },
  {
    name: "a vote goes to a log that is behind",
    module: "raft-ts/src/raft",
    changes: [{ find: "free && s.log.isUpToDate(message.lastIndex, message.lastTerm)", replace: "free" }],
    seeds: 100,
  },
  {
    name: "a second vote in the same term",
    module: "raft-ts/src/raft",
    changes: [
      { find: "(s.vote === undefined && s.leader === undefined)", replace: "s.leader === undefined" },
    ],
    seeds: 100,
  },
];
