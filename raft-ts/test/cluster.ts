import {
  type Configuration,
  type Entry,
  MemoryStorage,
  type Message,
  RaftNode,
  type RaftOptions,
  type Ready,
  type Write,
  bootstrapEntry,
} from "../src/index.ts";

/** What a snapshot holds in these tests: the applied entries as text, in order. */
export type AppliedLog = readonly string[];

export interface Envelope {
  readonly message: Message;
  /** Rides along with a snapshot message, as a transport would stream it. */
  readonly data: AppliedLog | undefined;
}

/** One member with its disk and its state machine. A crash loses everything but the disk. */
export class TestMember {
  readonly id: string;
  readonly storage = new MemoryStorage();
  node: RaftNode;
  alive = true;
  applied: string[] = [];
  /** Snapshot data on disk, belonging to `storage.snapshot()`. */
  snapshotData: AppliedLog = [];
  readonly reads = new Map<number, number>();
  #random: (bound: number) => number;
  readonly #options: Partial<RaftOptions>;
  #received = new Map<number, AppliedLog>();
  writing: Write | undefined;

  constructor(id: string, random: (bound: number) => number, options: Partial<RaftOptions> = {}) {
    this.id = id;
    this.#random = random;
    this.#options = options;
    this.node = this.#start();
  }

  bootstrap(configuration: Configuration): void {
    this.storage.append([bootstrapEntry(configuration)]);
    this.storage.setHardState({ term: 1, vote: undefined, commit: 1 });
    this.node = this.#start();
  }

  crash(): void {
    this.alive = false;
    this.writing = undefined;
    this.reads.clear();
    this.#received.clear();
  }

  restart(): void {
    this.applied = [...this.snapshotData];
    this.node = this.#start();
    this.alive = true;
  }

  receive({ message, data }: Envelope): void {
    if (message.type === "snapshot") this.#received.set(message.snapshot.index, data ?? []);
    this.node.step(message);
  }

  /** Takes the work at hand and applies what is committed; what it writes is under way until {@link finish}. */
  begin(onApply: (entry: Entry) => void): Ready {
    const ready = this.node.ready();
    this.writing = ready.write ?? this.writing;
    for (const entry of ready.committed) {
      onApply(entry);
      this.applied.push(entryText(entry));
    }
    const last = ready.committed.at(-1);
    if (last !== undefined) this.node.applied(last.index);
    for (const { ctx, index } of ready.readStates) this.reads.set(ctx, index);
    return ready;
  }

  /** What was being written is durable now. */
  finish(): void {
    const { writing } = this;
    if (writing === undefined) return;
    const { snapshot, entries, hardState } = writing;
    if (snapshot !== undefined) {
      this.storage.installSnapshot(snapshot);
      this.snapshotData = this.#received.get(snapshot.index) ?? [];
      this.applied = [...this.snapshotData];
      for (const index of this.#received.keys()) if (index <= snapshot.index) this.#received.delete(index);
    }
    this.storage.append(entries);
    this.storage.setHardState(hardState);
    this.writing = undefined;
    this.node.persisted(writing);
  }

  /** Snapshot of what is applied; the log keeps `tail` entries for slow peers. */
  compact(tail: number): void {
    const { applied } = this.node.status();
    const term = this.storage.term(applied);
    if (term === undefined || applied <= this.storage.snapshot().index) return;
    this.storage.setSnapshot({ index: applied, term, configuration: this.node.configurationAt(applied) });
    this.snapshotData = [...this.applied];
    this.storage.compact(Math.max(0, applied - tail));
    this.node.compacted(applied);
  }

  log(): readonly Entry[] {
    return this.storage.entries(
      this.storage.firstIndex(),
      this.storage.lastIndex() + 1,
      Number.MAX_SAFE_INTEGER,
    );
  }

  #start(): RaftNode {
    return new RaftNode({
      id: this.id,
      storage: this.storage,
      random: this.#random,
      maxMessageBytes: 400,
      maxInflightCount: 4,
      maxInflightBytes: 1200,
      maxUncommittedBytes: 2000,
      ...this.#options,
    });
  }
}

export function entryText({ index, term, kind, data }: Entry): string {
  const text = kind === "data" ? new TextDecoder().decode(data) : kind;
  return `${index}/${term}:${text}`;
}

export function group(ids: readonly string[]): Configuration {
  return {
    voters: ids,
    outgoing: [],
    learners: [],
    contexts: Object.fromEntries(ids.map((id) => [id, ""])),
  };
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Small seeded generator (mulberry32): `0 <= n < bound`. */
export function seededRandom(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000) * bound);
  };
}
