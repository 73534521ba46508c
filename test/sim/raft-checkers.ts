import {
  type Configuration,
  type Entry,
  type MemberId,
  type Message,
  type RaftNode,
  type Ready,
  decodeConfiguration,
  membersOf,
} from "raft-ts";
import type { WalBatch } from "../../manager/raft/codec.ts";
import type { Ledger } from "./raft-ledger.ts";
import { hashOf } from "./raft-machine.ts";

interface Known {
  readonly term: number;
  readonly hash: number;
}

interface SeenConfiguration {
  readonly index: number;
  readonly term: number;
  readonly configuration: Configuration;
}

const noConfiguration: SeenConfiguration = {
  index: 0,
  term: 0,
  configuration: { voters: [], outgoing: [], learners: [], contexts: {} },
};

/** What the checkers need to know of the world. */
export interface CheckedWorld {
  ledgerOf(id: MemberId): Ledger | undefined;
  nodeOf(id: MemberId): RaftNode | undefined;
  violate(rule: string, text: string): void;
}

/** What must never happen, looked at in every message, batch of the log and round of work. */
export class Checkers {
  readonly #world: CheckedWorld;
  readonly #leaders = new Map<number, MemberId>();
  /** Terms that somebody stood for. */
  readonly #campaigned = new Set<number>([0, 1]);
  /** `term voter`: whom it voted for. */
  readonly #votes = new Map<string, MemberId>();
  readonly #grants = new Map<number, Set<MemberId>>();
  readonly #preGrants = new Map<string, Set<MemberId>>();
  /** "term id" of those who had a quorum by the configuration of that moment. */
  readonly #preVotesWon = new Set<string>();
  /** `index/term`: what stands there, and the term before it. */
  readonly #entries = new Map<string, { readonly hash: number; readonly previousTerm: number | undefined }>();
  readonly #committed = new Map<number, Known>();
  readonly #chains = new Map<number, number>();
  /** With a write under way. */
  readonly #writing = new WeakSet<RaftNode>();
  readonly #overlaps = new Map<string, boolean>();
  readonly #lastApplied = new WeakMap<RaftNode, number>();
  readonly #lastChange = new Map<MemberId, { readonly term: number; readonly index: number }>();
  /** By `index/term`. */
  readonly #configurations = new Map<string, SeenConfiguration>();
  #commit = 0;
  /** Each step that {@link commit} took, and the term of the leader that took it. */
  readonly #commits: { readonly index: number; readonly term: number }[] = [];

  constructor(world: CheckedWorld) {
    this.#world = world;
  }

  /** Highest index known to be committed. */
  get commit(): number {
    return this.#commit;
  }

  /** What a member holds as the world begins: a group that was founded without faults, and all of it committed. */
  onFounded(
    entries: readonly Entry[],
    { term, commit }: { readonly term: number; readonly commit: number },
  ): void {
    for (let past = 0; past <= term; past += 1) this.#campaigned.add(past);
    if (commit > this.#commit) this.#commits.push({ index: commit, term });
    this.#commit = Math.max(this.#commit, commit);
    for (const { kind, index, term: of, data } of entries) {
      this.#committed.set(index, { term: of, hash: hashOf(data) });
      if (kind === "config") {
        const configuration = decodeConfiguration(data);
        this.#configurations.set(`${index}/${of}`, { index, term: of, configuration });
      }
    }
  }

  /** Whether a committed configuration named it, so that its id is used up. */
  wasMember(id: MemberId): boolean {
    return [...this.#configurations.values()].some(
      ({ index, term, configuration }) =>
        this.#committed.get(index)?.term === term && membersOf(configuration).has(id),
    );
  }

  /** A member was told that it has left the group, and throws away what it holds. */
  onRemoved(id: MemberId): void {
    // What is committed and not applied anywhere yet counts as well: of two entries at its place the later term's it is.
    const latest = [...this.#configurations.values()]
      .filter(
        ({ index, term }) =>
          (this.#committed.get(index)?.term ?? (index <= this.#commit ? term : -1)) === term,
      )
      .reduce(
        (a, b) => (b.index > a.index || (b.index === a.index && b.term > a.term) ? b : a),
        noConfiguration,
      );
    if (!membersOf(latest.configuration).has(id)) return;
    this.#world.violate(
      "told to have left",
      `${id} was told that it has left, the configuration at ${latest.index} is ${configurationText(latest.configuration)}`,
    );
  }

  onSend(from: MemberId, message: Message): void {
    const ledger = this.#world.ledgerOf(from);
    if (ledger === undefined) return;
    const { term, to } = message;
    switch (message.type) {
      case "vote":
        this.#vote(from, ledger, { term, candidate: from });
        if (!message.transfer) this.#preVoteWon(from, term);
        return;
      case "vote-reply":
        if (message.granted) {
          this.#vote(from, ledger, { term, candidate: to });
          grantsOf(this.#grants, term).add(from);
        }
        return;
      case "pre-vote-reply":
        if (message.granted) this.#preVoteGranted(from, to, term);
        return;
      case "append-reply":
        if (!message.rejected && ledger.lastIndex < message.index) {
          this.#world.violate(
            "acknowledged before it was durable",
            `${from} said ${message.index}, holds ${ledger.lastIndex}`,
          );
        }
        if (ledger.term < term)
          this.#world.violate(
            "promised in a term that is not durable",
            `${from} term ${term}, holds ${ledger.term}`,
          );
        return;
      case "append":
      case "heartbeat":
        this.#leads(from, term);
        if (ledger.term < term)
          this.#world.violate(
            "led in a term that is not durable",
            `${from} term ${term}, holds ${ledger.term}`,
          );
        this.#showsCommit(from, term, message.commit);
        return;
      case "snapshot":
        this.#leads(from, term);
        this.#showsCommit(from, term, message.snapshot.index);
        return;
      case "timeout-now":
        this.#transfer(from, to);
        return;
      case "pre-vote":
      case "heartbeat-reply":
      case "read":
      case "read-reply":
      case "catch-up":
        return;
    }
  }

  /** A batch is durable. */
  onDurable(id: MemberId, { entries }: WalBatch): void {
    const node = this.#world.nodeOf(id);
    if (node !== undefined) this.#writing.delete(node);
    const ledger = this.#world.ledgerOf(id);
    for (const entry of entries) {
      const key = `${entry.index}/${entry.term}`;
      const previousTerm = ledger?.termAt(entry.index - 1);
      const hash = hashOf(entry.data);
      const known = this.#entries.get(key);
      if (known === undefined) this.#entries.set(key, { hash, previousTerm });
      else if (
        known.hash !== hash ||
        (known.previousTerm ?? previousTerm) !== (previousTerm ?? known.previousTerm)
      ) {
        this.#world.violate("log matching", `${id} holds another entry ${key} than others, or after another`);
      }
    }
  }

  onReady(node: RaftNode, ready: Ready): void {
    const { id, role, term, commit, lastIndex } = node.status();
    if (role === "candidate" || role === "leader") this.#campaigned.add(term);
    for (const message of ready.messages) if (message.type === "vote") this.#campaigned.add(message.term);
    if (!this.#campaigned.has(term))
      this.#world.violate("a term that nobody stood for", `${id} is in term ${term}`);
    if (commit > lastIndex) this.#world.violate("commit beyond the log", `${id} ${commit} > ${lastIndex}`);
    this.#goesByLatest(node, ready);
    if (ready.write !== undefined) this.#writing.add(node);
    if (role === "leader") {
      if (!this.#leaders.has(term)) this.#takesOffice(node, ready);
      this.#leads(id, term);
      for (const entry of ready.write?.entries ?? []) {
        if (entry.kind === "config" && entry.term === term) this.#changesMembership(node, entry);
      }
    }
    this.#showsCommit(id, term, commit);
    this.#applies(node, ready);
  }

  /** A state machine is at this index, having gone through entries that hash to `chain`. */
  onApplied(id: MemberId, index: number, chain: number): void {
    const known = this.#chains.get(index);
    if (known === undefined) this.#chains.set(index, chain);
    else if (known !== chain)
      this.#world.violate("state-machine safety", `${id} went another way to index ${index}`);
  }

  #vote(from: MemberId, ledger: Ledger, { term, candidate }: { term: number; candidate: MemberId }): void {
    const key = `${term} ${from}`;
    const known = this.#votes.get(key);
    if (known === undefined) this.#votes.set(key, candidate);
    else if (known !== candidate)
      this.#world.violate("two votes in a term", `${from} in term ${term}: ${known} and ${candidate}`);
    if (ledger.term < term || (ledger.term === term && ledger.vote !== candidate)) {
      this.#world.violate(
        "voted before it was durable",
        `${from} for ${candidate} in term ${term}; holds term ${ledger.term}, vote ${ledger.vote}`,
      );
    }
  }

  #preVoteGranted(from: MemberId, to: MemberId, term: number): void {
    grantsOf(this.#preGrants, `${term} ${to}`).add(from);
    if (this.#mayStand(to, term)) this.#preVotesWon.add(`${term} ${to}`);
  }

  /** Its vote may leave much later, when the disk has taken it, and another configuration counts by then. */
  #preVoteWon(id: MemberId, term: number): void {
    if (this.#preVotesWon.has(`${term} ${id}`) || this.#mayStand(id, term)) return;
    this.#world.violate("an election that no pre-vote allowed", `${id} in term ${term}`);
  }

  #mayStand(id: MemberId, term: number): boolean {
    const node = this.#world.nodeOf(id);
    const granted = this.#preGrants.get(`${term} ${id}`) ?? new Set();
    return node === undefined || isQuorum(node.status().configuration, new Set([...granted, id]));
  }

  #leads(id: MemberId, term: number): void {
    const known = this.#leaders.get(term);
    if (known === undefined) this.#leaders.set(term, id);
    else if (known !== id) this.#world.violate("election safety", `${known} and ${id} lead in term ${term}`);
  }

  #takesOffice(node: RaftNode, ready: Ready): void {
    const { id, term, lastIndex, configuration, firstIndex } = node.status();
    const granted = this.#grants.get(term) ?? new Set();
    if (!isQuorum(configuration, new Set([...granted, id]))) {
      this.#world.violate(
        "a leader without a quorum",
        `${id} in term ${term} has the votes of ${[...granted].join(", ")}`,
      );
    }
    // What a later leader has committed meanwhile is none of its business: it may have slept since it was elected.
    const commit = this.#commits.findLast((step) => step.term < term)?.index ?? 0;
    const expected = this.#committed.get(commit)?.term;
    if (lastIndex < commit) {
      this.#world.violate(
        "leader completeness",
        `${id} in term ${term} ends at ${lastIndex}, ${commit} is committed`,
      );
    } else if (expected !== undefined && commit >= firstIndex) {
      const fresh = ready.write?.entries.find(({ index }) => index === commit)?.term;
      const held =
        fresh ?? this.#world.ledgerOf(id)?.termUnderWay(commit) ?? this.#world.ledgerOf(id)?.termAt(commit);
      if (held !== undefined && held !== expected) {
        this.#world.violate(
          "leader completeness",
          `${id} in term ${term} holds ${commit}/${held}, ${commit}/${expected} is committed`,
        );
      }
    }
  }

  /** Somebody takes this index for committed: then others knew before, or it leads and a quorum holds the entry. */
  #showsCommit(id: MemberId, term: number, commit: number): void {
    if (commit <= this.#commit) return;
    const node = this.#world.nodeOf(id);
    if (this.#leaders.get(term) !== id || node === undefined) {
      this.#world.violate("commit from nowhere", `${id} takes ${commit} for committed, ${this.#commit} is`);
      return;
    }
    const { configuration } = node.status();
    const holders = new Set(
      [...membersOf(configuration), id].filter((member) => this.#world.ledgerOf(member)?.holds(commit, term)),
    );
    if (isQuorum(configuration, holders)) {
      this.#commit = commit;
      this.#commits.push({ index: commit, term });
      return;
    }
    this.#world.violate(
      "committed without a quorum",
      `${id} took ${commit}/${term} for committed, which is durable on ${[...holders].join(", ") || "none"} of ${configurationText(configuration)}`,
    );
  }

  #changesMembership(node: RaftNode, entry: Entry): void {
    const { id, commit, term } = node.status();
    const before = node.configurationAt(entry.index - 1);
    const after = decodeConfiguration(entry.data);
    const change = `${configurationText(before)} ${configurationText(after)}`;
    const overlap = this.#overlaps.get(change) ?? quorumsOverlap(before, after);
    this.#overlaps.set(change, overlap);
    if (!overlap) {
      this.#world.violate(
        "membership safety",
        `${configurationText(before)} and then ${configurationText(after)}: quorums need not overlap`,
      );
    }
    const last = this.#lastChange.get(id);
    if (last?.term === term && last.index < entry.index && last.index > commit) {
      this.#world.violate(
        "membership safety",
        `${id} began a change at ${entry.index} while ${last.index} was not committed`,
      );
    }
    this.#lastChange.set(id, { term, index: entry.index });
  }

  /** A configuration counts from its append: the one in force is the newest in the log, as it was seen here. */
  #goesByLatest(node: RaftNode, ready: Ready): void {
    const { id, configuration: inForce } = node.status();
    const entries = ready.write?.entries ?? [];
    for (const { kind, index, term, data } of entries) {
      if (kind === "config")
        this.#configurations.set(`${index}/${term}`, {
          index,
          term,
          configuration: decodeConfiguration(data),
        });
    }
    const ledger = this.#world.ledgerOf(id);
    if (ledger === undefined || ready.write === undefined || ready.write.snapshot !== undefined) return;
    if (this.#writing.has(node)) return; // What is being written is not in the ledger yet.
    const fresh = entries[0]?.index ?? Infinity;
    const held = [...this.#configurations.values()].filter(({ index, term }) => {
      if (index >= fresh) return entries[index - fresh]?.term === term;
      if (index >= ledger.baseIndex) return ledger.termAt(index) === term;
      return this.#committed.get(index)?.term === term;
    });
    const latest = held.reduce((a, b) => (b.index > a.index ? b : a), held[0] ?? noConfiguration);
    if (latest.index === 0 || configurationText(latest.configuration) === configurationText(inForce)) return;
    this.#world.violate(
      "membership safety",
      `${id} goes by ${configurationText(inForce)}, its log says ${configurationText(latest.configuration)}`,
    );
  }

  /** Whoever is told to stand has all the leader has or, when the leader was removed, all that is committed. */
  #transfer(from: MemberId, to: MemberId): void {
    const status = this.#world.nodeOf(from)?.status();
    if (status === undefined) return;
    const needed = status.transferTo === to ? status.lastIndex : status.commit;
    const last = this.#world.ledgerOf(to)?.lastIndex ?? 0;
    if (last >= needed) return;
    this.#world.violate(
      "leadership handed to who is behind",
      `${from} to ${to}: it holds ${last} of ${needed}`,
    );
  }

  #applies(node: RaftNode, ready: Ready): void {
    const { id } = node.status();
    for (const entry of ready.committed) {
      const last = this.#lastApplied.get(node) ?? 0;
      if (entry.index <= last)
        this.#world.violate("state-machine safety", `${id} applies ${entry.index} after ${last}`);
      this.#lastApplied.set(node, entry.index);
      const hash = hashOf(entry.data);
      const known = this.#committed.get(entry.index);
      if (known === undefined) this.#committed.set(entry.index, { term: entry.term, hash });
      else if (known.term !== entry.term || known.hash !== hash) {
        this.#world.violate(
          "state-machine safety",
          `${id} applies ${entry.index}/${entry.term}, others ${entry.index}/${known.term}`,
        );
      }
    }
  }
}

function grantsOf<Key>(grants: Map<Key, Set<MemberId>>, key: Key): Set<MemberId> {
  const known = grants.get(key);
  if (known !== undefined) return known;
  const made = new Set<MemberId>();
  grants.set(key, made);
  return made;
}

/** Counted here by hand: the code under test must not judge itself. */
export function isQuorum({ voters, outgoing }: Configuration, members: ReadonlySet<MemberId>): boolean {
  return [voters, outgoing].every(
    (side, position) =>
      (position === 1 && side.length === 0) || 2 * side.filter((id) => members.has(id)).length > side.length,
  );
}

/** Whether every quorum of one has a member in every quorum of the other: all sets of members are tried. */
export function quorumsOverlap(a: Configuration, b: Configuration): boolean {
  const all = [...new Set([...a.voters, ...a.outgoing, ...b.voters, ...b.outgoing])];
  const sidesOf = ({ voters, outgoing }: Configuration): number[] =>
    [voters, outgoing]
      .filter(({ length }) => length > 0)
      .map((side) => side.reduce((mask, id) => mask | (1 << all.indexOf(id)), 0));
  const [sidesOfA, sidesOfB] = [sidesOf(a), sidesOf(b)];
  const decides = (sides: readonly number[], set: number): boolean =>
    sides.every((side) => 2 * bitsIn(side & set) > bitsIn(side));
  const everybody = 2 ** all.length - 1;
  for (let set = 0; set <= everybody; set += 1) {
    if (decides(sidesOfA, set) && decides(sidesOfB, everybody & ~set)) return false;
  }
  return true;
}

function bitsIn(mask: number): number {
  let count = 0;
  for (let rest = mask; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}

export function configurationText({ voters, outgoing, learners }: Configuration): string {
  const names = (ids: readonly MemberId[]): string => ids.map((id) => id.split(".")[0]).join("+");
  const from = outgoing.length === 0 ? "" : `${names(outgoing)}>`;
  return `{${from}${names(voters)}${learners.length === 0 ? "" : ` learners ${names(learners)}`}}`;
}
