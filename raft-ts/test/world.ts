import type { Entry, Message } from "../src/index.ts";
import { type Envelope, TestMember, bytes, entryText, group, seededRandom } from "./cluster.ts";

const maxMembers = 6;

/** Many members, a lossy wire and a checker, all driven by one seed. */
export class World {
  readonly violations: string[] = [];
  readonly members = new Map<string, TestMember>();
  readonly random: (bound: number) => number;
  faulty = true;
  #wire: Envelope[] = [];
  #cut = new Set<string>();
  #leaders = new Map<number, string>();
  /** What was applied anywhere, by index: nobody may ever apply anything else. */
  #committed = new Map<number, string>();
  #highest = 0;
  #nextMember = 1;
  #nextCtx = 1;
  #nextProposal = 1;
  #reads = new Map<string, number>();

  constructor(seed: number) {
    this.random = seededRandom(seed);
    const founders = [1, 3, 5][this.random(3)] ?? 3;
    const ids = Array.from({ length: founders }, () => this.#newId());
    for (const id of ids) this.#add(id).bootstrap(group(ids));
  }

  get committed(): number {
    return this.#highest;
  }

  /** One random event. */
  step(): void {
    if (this.faulty) this.#fault();
    const member = this.#pick([...this.members.values()].filter(({ alive }) => alive));
    if (member === undefined) return;
    this.#guard(member, () => {
      const choice = this.random(100);
      if (choice < 35) this.#deliver(1 + this.random(8));
      else if (choice < 65) this.#work(member);
      else if (choice < 80) member.node.tick();
      else if (choice < 90) this.#propose(member);
      else if (choice < 94) this.#read(member);
      else if (choice < 96) member.compact(this.random(10));
      else if (choice < 98) this.#changeMembership(member);
      else if (choice === 98 && this.faulty) this.#transfer(member);
      else if (this.faulty) {
        const other = this.#pick([...this.members.keys()]);
        if (other !== undefined) member.node.reportGone(other);
      }
    });
  }

  heal(): void {
    this.faulty = false;
    this.#cut.clear();
    for (const member of this.members.values()) if (!member.alive) member.restart();
  }

  /** Everybody's time passes and all messages arrive, in order. */
  round(): void {
    for (const member of this.members.values()) this.#guard(member, () => member.node.tick());
    for (let pass = 0; pass < 12; pass += 1) {
      for (const member of this.members.values()) this.#guard(member, () => this.#work(member));
      this.#deliver(this.#wire.length);
    }
  }

  leader(): TestMember | undefined {
    return [...this.members.values()]
      .filter(({ alive, node }) => alive && node.status().role === "leader")
      .toSorted((a, b) => b.node.status().term - a.node.status().term)[0];
  }

  /** Members of the newest leader's configuration. */
  current(): readonly TestMember[] {
    const configuration = this.leader()?.node.status().configuration;
    if (configuration === undefined) return [];
    return [...configuration.voters, ...configuration.learners].flatMap((id) => this.members.get(id) ?? []);
  }

  /** Log matching (§5.3): same index and term means same entries up to there. */
  checkLogs(): void {
    const logs = [...this.members.values()].map((member) => ({
      id: member.id,
      entries: new Map(member.log().map((entry) => [entry.index, entry])),
    }));
    for (const [position, a] of logs.entries()) {
      for (const b of logs.slice(position + 1)) this.#compareLogs(a, b);
    }
  }

  #compareLogs(
    a: { id: string; entries: Map<number, Entry> },
    b: { id: string; entries: Map<number, Entry> },
  ): void {
    let matched = false;
    for (const [index, entry] of [...a.entries].toReversed()) {
      const other = b.entries.get(index);
      if (other === undefined) continue;
      if (entry.term === other.term) matched = true;
      if (matched && entryText(entry) !== entryText(other)) {
        this.violations.push(`log matching: ${a.id} ${entryText(entry)}, ${b.id} ${entryText(other)}`);
        return;
      }
    }
  }

  #fault(): void {
    const members = [...this.members.values()];
    const choice = this.random(1000);
    const member = this.#pick(members);
    if (member === undefined) return;
    if (choice < 2 && member.alive) member.crash();
    else if (choice < 14 && !member.alive) member.restart();
    else if (choice < 16) {
      const side = members.filter(() => this.random(2) === 0).map(({ id }) => id);
      for (const a of side)
        for (const { id } of members) if (!side.includes(id)) this.#cutBetween(a, id, this.random(3));
    } else if (choice < 24) this.#cut.clear();
  }

  #cutBetween(a: string, b: string, direction: number): void {
    if (direction !== 1) this.#cut.add(`${a}>${b}`);
    if (direction !== 2) this.#cut.add(`${b}>${a}`);
  }

  #guard(member: TestMember, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.violations.push(`${member.id}: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    }
  }

  #work(member: TestMember): void {
    if (!member.alive) return;
    // Writing takes a while: other work, or a crash, may come before it is durable, or right after.
    if (!this.faulty || this.random(3) > 0) member.finish();
    if (this.faulty && this.random(600) === 0) {
      member.crash();
      return;
    }
    if (!member.node.hasReady()) return;
    const { messages } = member.begin((entry) => this.#checkApplied(member, entry));
    this.#send(member, messages);
    this.#noteLeader(member);
    this.#checkReads(member);
  }

  #send(from: TestMember, messages: readonly Message[]): void {
    for (const message of messages) {
      const data = message.type === "snapshot" ? [...from.snapshotData] : undefined;
      this.#wire.push({ message, data });
    }
  }

  #deliver(count: number): void {
    for (let left = count; left > 0 && this.#wire.length > 0; left -= 1) {
      const at = this.faulty && this.random(5) === 0 ? this.random(this.#wire.length) : 0;
      const [envelope] = this.#wire.splice(at, 1);
      if (envelope !== undefined) this.#arrive(envelope);
    }
  }

  #arrive(envelope: Envelope): void {
    const { message } = envelope;
    const to = this.members.get(message.to);
    const lost =
      to?.alive !== true ||
      this.#cut.has(`${message.from}>${message.to}`) ||
      (this.faulty && this.random(20) === 0);
    const from = this.members.get(message.from);
    if (message.type === "snapshot" && from?.alive === true) {
      from.node.reportSnapshot(message, lost ? "failed" : "sent");
    }
    if (lost) {
      if (from?.alive === true && this.random(3) === 0) from.node.reportUnreachable(message.to);
      return;
    }
    this.#guard(to, () => to.receive(envelope));
    if (this.faulty && this.random(40) === 0) this.#guard(to, () => to.receive(envelope)); // Duplicates.
  }

  #propose(member: TestMember): void {
    const text = `p${this.#nextProposal}`;
    if (member.node.propose(bytes(text.padEnd(this.random(120), "."))).kind === "accepted") {
      this.#nextProposal += 1;
    }
  }

  #read(member: TestMember): void {
    const ctx = this.#nextCtx;
    this.#nextCtx += 1;
    if (member.node.readIndex(ctx).kind === "accepted") this.#reads.set(`${member.id} ${ctx}`, this.#highest);
  }

  #changeMembership(member: TestMember): void {
    const { role, configuration } = member.node.status();
    if (role !== "leader") return;
    const learner = this.#pick(configuration.learners);
    const voter = this.#pick(configuration.voters);
    if (learner !== undefined && this.random(2) === 0) {
      member.node.proposeConfChange({ kind: "promote", id: learner });
    } else if (this.members.size < maxMembers) {
      const id = `m${this.#nextMember}`;
      const kind = this.random(2) === 0 ? "add-learner" : "add-voter";
      if (member.node.proposeConfChange({ kind, id, context: "" }).kind === "accepted") {
        this.#add(this.#newId());
      }
    } else if (voter !== undefined && configuration.voters.length > 2) {
      member.node.proposeConfChange({ kind: "remove", id: voter });
    }
  }

  #transfer(member: TestMember): void {
    const to = this.#pick(member.node.status().configuration.voters);
    if (to !== undefined) member.node.transferLeadership(to);
  }

  /** Election safety (§5.2) and leader completeness (§5.4). */
  #noteLeader(member: TestMember): void {
    const { role, term, commit } = member.node.status();
    if (role !== "leader") return;
    const known = this.#leaders.get(term);
    if (known === undefined) {
      this.#leaders.set(term, member.id);
      if (member.node.status().lastIndex < this.#highest) {
        this.violations.push(`leader completeness: ${member.id} in term ${term} lacks ${this.#highest}`);
      }
    } else if (known !== member.id) {
      this.violations.push(`election safety: ${known} and ${member.id} lead in term ${term}`);
    }
    if (commit > member.node.status().lastIndex) this.violations.push(`${member.id} committed too far`);
  }

  /** State machine safety (§5.4.3). */
  #checkApplied(member: TestMember, entry: Entry): void {
    const text = entryText(entry);
    if (entry.index !== member.applied.length + 1) {
      this.violations.push(`${member.id} applied ${text} after ${member.applied.length} entries`);
    }
    const known = this.#committed.get(entry.index);
    if (known === undefined) this.#committed.set(entry.index, text);
    else if (known !== text)
      this.violations.push(`state machine: ${member.id} applied ${text}, others ${known}`);
    this.#highest = Math.max(this.#highest, entry.index);
  }

  #checkReads(member: TestMember): void {
    for (const [ctx, index] of member.reads) {
      const needed = this.#reads.get(`${member.id} ${ctx}`) ?? 0;
      if (index < needed)
        this.violations.push(`stale read: ${member.id} got ${index}, ${needed} was committed`);
    }
    member.reads.clear();
  }

  #add(id: string): TestMember {
    const member = new TestMember(id, this.random);
    this.members.set(id, member);
    return member;
  }

  #newId(): string {
    const id = `m${this.#nextMember}`;
    this.#nextMember += 1;
    return id;
  }

  #pick<T>(from: readonly T[]): T | undefined {
    return from[this.random(Math.max(1, from.length))];
  }
}
