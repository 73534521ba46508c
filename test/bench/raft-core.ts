import { type Configuration, MemoryStorage, type Message, RaftNode, bootstrapEntry } from "raft-ts";

export interface CoreBenchOptions {
  readonly members: number;
  readonly entryBytes: number;
  /** Proposals between two looks at the work: what a busy leader finds waiting. */
  readonly batch: number;
  /** Entries a round; the first round only warms up. */
  readonly entries: number;
  readonly rounds: number;
}

/** One round: entries applied on every member, for each second of processor time of the whole group. */
export interface CoreBenchRound {
  readonly entries: number;
  readonly cpuSeconds: number;
  readonly entriesPerCpuSecond: number;
}

/** Log entries kept in memory behind the last snapshot, so that the figure is not one of memory. */
const keepEntries = 20_000;

/** A whole group in this process with storage in memory and a wire that loses nothing: only the core works. */
export function benchCore(options: CoreBenchOptions): readonly CoreBenchRound[] {
  const group = new Group(options.members);
  const data = new Uint8Array(options.entryBytes).fill(7);
  const rounds: CoreBenchRound[] = [];
  for (let round = 0; round <= options.rounds; round += 1) {
    const before = process.cpuUsage();
    const applied = group.run(data, options);
    const { user, system } = process.cpuUsage(before);
    const cpuSeconds = (user + system) / 1e6;
    if (round > 0) {
      rounds.push({ entries: applied, cpuSeconds, entriesPerCpuSecond: applied / cpuSeconds });
    }
  }
  return rounds;
}

interface Member {
  readonly node: RaftNode;
  readonly storage: MemoryStorage;
  inbox: Message[];
  applied: number;
}

class Group {
  readonly #members = new Map<string, Member>();
  readonly #leader: Member;

  constructor(count: number) {
    const voters = Array.from({ length: count }, (_, at) => `m${at + 1}`);
    const configuration: Configuration = { voters, outgoing: [], learners: [], contexts: {} };
    for (const id of voters) {
      const storage = new MemoryStorage();
      storage.append([bootstrapEntry(configuration)]);
      storage.setHardState({ term: 1, vote: undefined, commit: 1 });
      const node = new RaftNode({ id, storage, random: () => 0 });
      this.#members.set(id, { node, storage, inbox: [], applied: 0 });
    }
    const [leader] = this.#members.values();
    if (leader === undefined) throw new RangeError("a group needs at least one member");
    this.#leader = leader;
    leader.node.campaign();
    this.#settle();
  }

  /** Proposes in batches until all is applied everywhere; returns the entries applied by each member. */
  run(data: Uint8Array, { entries, batch }: CoreBenchOptions): number {
    const before = this.#leader.applied;
    for (let left = entries; left > 0; left -= batch) {
      for (let at = Math.min(batch, left); at > 0; at -= 1) {
        const result = this.#leader.node.propose(data);
        if (result.kind === "refused") throw new Error(`a proposal was refused: ${result.text}`);
      }
      this.#settle();
    }
    const applied = this.#leader.applied - before;
    for (const member of this.#members.values()) {
      if (member.applied !== this.#leader.applied) throw new Error("a member did not apply everything");
    }
    return applied;
  }

  #settle(): void {
    for (let busy = true; busy;) {
      busy = false;
      for (const member of this.#members.values()) if (this.#work(member)) busy = true;
    }
  }

  #work(member: Member): boolean {
    const { node, storage, inbox } = member;
    if (inbox.length === 0 && !node.hasReady()) return false;
    member.inbox = [];
    for (const message of inbox) node.step(message);
    while (node.hasReady()) {
      const { messages, write, committed } = node.ready();
      for (const message of messages) this.#members.get(message.to)?.inbox.push(message);
      if (write !== undefined) {
        storage.append(write.entries);
        storage.setHardState(write.hardState);
        node.persisted(write);
      }
      const last = committed.at(-1);
      if (last === undefined) continue;
      member.applied += committed.length;
      node.applied(last.index);
      this.#compact(member, last.index);
    }
    return true;
  }

  #compact({ node, storage }: Member, index: number): void {
    if (index - storage.firstIndex() < 2 * keepEntries) return;
    const term = storage.term(index);
    if (term === undefined) return;
    storage.setSnapshot({ index, term, configuration: node.configurationAt(index) });
    storage.compact(index - keepEntries);
    node.compacted(index);
  }
}
