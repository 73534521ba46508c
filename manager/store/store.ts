import { assert, ClusterError, errorText, noLeaderText, outcomeUnknownText } from "../../model/errors.ts";
import { StoreEntry } from "../../proto/gen/shoal/store.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Cancellation } from "../../runtime/life.ts";
import { newId, systemRandom, type Random } from "../../runtime/random.ts";
import type { Change, ObjectEvent } from "./change.ts";
import { decodeChange, type Known } from "./codec.ts";
import { Group, GroupFull } from "./group.ts";
import { Metas } from "./metas.ts";
import { tableReads } from "./overlay.ts";
import { SnapshotReader, writeSnapshot } from "./snapshot.ts";
import { emptyTables, tableNames, type Row, type Table, type TableName, type Tables } from "./tables.ts";
import { makeView, type StoreView, type Transaction } from "./transaction.ts";
import { Watch } from "./watch.ts";

/** The consensus group, or a fake. */
export interface Proposer {
  /** Settles when the entry is committed or surely or maybe lost. */
  propose(data: Uint8Array, signal?: AbortSignal): Promise<{ readonly index: number }>;
  /** Settles once a quorum has taken this manager for the leader after the call. @throws `no-leader`, `unavailable` */
  confirmLeader(): Promise<void>;
}

export interface StoreDeps {
  readonly clock: Clock;
  readonly proposer: Proposer;
  /** For the name of this store instance; the system's when absent. */
  readonly random?: Random;
}

/** An update that waits for its turn or for its entry. */
interface PendingUpdate {
  /** Runs the write inside the group, or finds it refused; may run again if an entry turns out void. @throws {GroupFull} */
  run(group: Group): void;
  /** Answers with what the last run came to. */
  settle(): void;
  /** Answers with a failure, whatever the run came to. */
  reject(reason: unknown): void;
  aborted: boolean;
}

interface InFlight {
  readonly sequence: number;
  readonly group: Group;
  readonly updates: readonly PendingUpdate[];
}

/**
 * The cluster's state on one manager: tables with indexes, changed only by committed log entries.
 *
 * Writes: `update` runs against an overlay; while one entry is on its way further updates queue, then
 * run one after another over one overlay and go out as the next entry. Reads are synchronous and see
 * exactly what is committed and applied here. `apply` must be called with every committed entry in log
 * order, the store's own ones included; an entry that is not the store's is given with empty data.
 */
export class Store {
  readonly #clock: Clock;
  readonly #proposer: Proposer;
  readonly #origin: string;
  readonly #watches = new Set<Watch>();
  readonly #indexWaiters = new Set<{ readonly index: number; readonly resolve: () => void }>();
  #tables: Tables = emptyTables();
  #view: StoreView = viewOf(this.#tables);
  #appliedIndex = 0;
  #basis = 0;
  #version = 0;
  #term: number | undefined;
  #sequence = 0;
  #queue: PendingUpdate[] = [];
  #inFlight: InFlight | undefined;
  #drainPlanned = false;

  constructor({ clock, proposer, random = systemRandom }: StoreDeps) {
    this.#clock = clock;
    this.#proposer = proposer;
    this.#origin = newId(random);
  }

  /** Index of the last entry given to `apply` or contained in the restored snapshot. */
  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  /** The term this manager leads in; `undefined` while it does not. */
  get leadingTerm(): number | undefined {
    return this.#term;
  }

  /** Runs `read` on what is committed. Do not keep the view; objects may be kept. */
  view<R>(read: (view: StoreView) => R): R {
    return read(this.#view);
  }

  /**
   * Runs `write` and resolves with its result once the changes are committed and applied here. A write
   * that throws leaves nothing and rejects with what it threw. It must be synchronous, and free of
   * effects that hurt when it runs twice.
   *
   * @throws {ClusterError} `no-leader` while not leading, or when leadership is lost meanwhile (outcome
   *   unknown); `resource-exhausted` when the changes are too large for one entry.
   */
  update<R>(write: (tx: Transaction) => R, signal?: Cancellation): Promise<R> {
    return this.#enqueue((group) => group.run(write), signal);
  }

  /**
   * Runs `step` for every id, over as many entries as the limits ask for. One step is atomic, the whole
   * is not: when a step throws, its own changes vanish, the steps before it are committed, and the batch
   * rejects with what it threw.
   */
  async batch<Id>(
    ids: Iterable<Id>,
    step: (tx: Transaction, id: Id) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const all = [...ids];
    let position = 0;
    while (position < all.length) {
      const start = position;
      const failure = await this.#enqueue((group) => {
        for (position = start; position < all.length && !group.full; position += 1) {
          const id = all[position] as Id; // In range.
          try {
            group.run((tx) => step(tx, id));
          } catch (reason) {
            if (reason instanceof GroupFull) break; // The next group begins with this one.
            return { reason };
          }
        }
        return undefined;
      }, signal);
      if (failure !== undefined) throw failure.reason;
    }
  }

  /** Events of some tables from now on. Open it before the first `view` and there is no gap. */
  watch(tables: readonly TableName[], signal?: AbortSignal): Watch {
    const watch = new Watch(tables, (ended) => this.#watches.delete(ended), signal);
    if (!watch.ended) this.#watches.add(watch);
    return watch;
  }

  /**
   * Applies the next committed entry; empty data only moves the index. The store knows its own
   * entries by origin and sequence and answers their updates; all others are taken as they are.
   *
   * @throws {ClusterError} `data-loss` when the entry cannot be read; the manager must stop.
   */
  apply(index: number, data: Uint8Array): void {
    assert(index > this.#appliedIndex, `entry ${index} applied after ${this.#appliedIndex}`);
    this.#appliedIndex = index;
    if (data.length > 0) this.#applyEntry(index, StoreEntry.decode(data));
    for (const waiter of this.#indexWaiters) if (waiter.index <= index) waiter.resolve();
  }

  /** Everything as of now in pieces of about 1 MB, made while they are taken; later writes do not show. */
  snapshot(): Iterable<Uint8Array> {
    return writeSnapshot(
      { appliedIndex: this.#appliedIndex, basis: this.#basis, version: this.#version },
      tableNames.map((table) => ({ table, objects: [...this.#tables[table].rows.values()] })),
    );
  }

  /**
   * Replaces everything with a snapshot, cut into pieces in any way. Watchers get a `resync`.
   * @throws {ClusterError} `data-loss` when it cannot be read; nothing is replaced then.
   */
  restore(data: Uint8Array | Iterable<Uint8Array>): void {
    const restoring = this.#restoring();
    for (const part of data instanceof Uint8Array ? [data] : data) restoring.push(part);
    restoring.finish();
  }

  /** As {@link restore}, from parts that come one by one; until the last one is in, the store is as it was. */
  async restoreFrom(data: AsyncIterable<Uint8Array>): Promise<void> {
    const restoring = this.#restoring();
    for await (const part of data) restoring.push(part);
    restoring.finish();
  }

  #restoring(): { push(part: Uint8Array): void; finish(): void } {
    const tables = emptyTables();
    const known = knownIn(tables);
    const reader = new SnapshotReader((bytes) => putInto(tables, decodeChange(bytes, known)));
    return {
      push: (part) => reader.push(part),
      finish: () => {
        const header = reader.finish();
        this.#tables = tables;
        this.#view = viewOf(tables);
        this.#appliedIndex = header.appliedIndex;
        this.#basis = header.basis;
        this.#version = header.version;
        for (const watch of this.#watches) watch.push([{ kind: "resync" }]);
        for (const waiter of this.#indexWaiters) if (waiter.index <= header.appliedIndex) waiter.resolve();
      },
    };
  }

  /** Settles once the entry at `index` is applied. */
  waitApplied(index: number, signal?: AbortSignal): Promise<void> {
    if (this.#appliedIndex >= index) return Promise.resolve();
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason as Error);
      const end = (): void => {
        this.#indexWaiters.delete(waiter);
        signal?.removeEventListener("abort", onAbort);
      };
      const waiter = {
        index,
        resolve: () => {
          end();
          resolve();
        },
      };
      const onAbort = (): void => {
        end();
        reject(signal?.reason as Error);
      };
      this.#indexWaiters.add(waiter);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /**
   * Opens writes for a term, or closes them. Call it with a term only after every entry of earlier terms
   * is applied. Any change rejects all pending updates; an entry of them that still commits is applied
   * like a stranger's.
   */
  setLeading(term: number | undefined): void {
    if (term === this.#term) return;
    this.#term = term;
    const lost = [...(this.#inFlight?.updates ?? []), ...this.#queue];
    this.#inFlight = undefined;
    this.#queue = [];
    for (const update of lost) update.reject(new ClusterError("no-leader", outcomeUnknownText));
  }

  #enqueue<R>(run: (group: Group) => R, signal: Cancellation | undefined): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason);
      if (this.#term === undefined) return reject(new ClusterError("no-leader", noLeaderText));
      let outcome: { readonly value: R } | { readonly refusal: unknown } | undefined;
      const onAbort = (): void => {
        pending.aborted = true;
        reject(signal?.reason);
      };
      const pending: PendingUpdate = {
        aborted: false,
        run(group) {
          try {
            outcome = { value: run(group) };
          } catch (reason) {
            if (reason instanceof GroupFull) throw reason;
            outcome = { refusal: reason };
          }
        },
        settle() {
          signal?.removeEventListener("abort", onAbort);
          assert(outcome !== undefined, "an update was answered before it ran");
          if ("refusal" in outcome) reject(outcome.refusal);
          else resolve(outcome.value);
        },
        reject(reason) {
          signal?.removeEventListener("abort", onAbort);
          reject(reason);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#queue.push(pending);
      this.#planDrain();
    });
  }

  /** One microtask later, so that updates made in one go share an entry. */
  #planDrain(): void {
    if (this.#drainPlanned || this.#inFlight !== undefined) return;
    this.#drainPlanned = true;
    queueMicrotask(() => {
      this.#drainPlanned = false;
      this.#drain();
    });
  }

  #drain(): void {
    while (this.#queue.length > 0 && this.#inFlight === undefined && this.#term !== undefined) {
      const version = Math.max(this.#version, this.#appliedIndex) + 1;
      const group = new Group(this.#tables, { version, nowMs: Math.trunc(this.#clock.now()) });
      const updates = this.#runQueued(group);
      if (group.changes().length === 0) {
        if (updates.length > 0) void this.#confirm(this.#term, updates);
        continue;
      }
      this.#sequence += 1;
      this.#inFlight = { sequence: this.#sequence, group, updates };
      void this.#propose(this.#sequence, group);
    }
  }

  #runQueued(group: Group): readonly PendingUpdate[] {
    const ran: PendingUpdate[] = [];
    let next = 0;
    for (; next < this.#queue.length && !group.full; next += 1) {
      const update = this.#queue[next];
      if (update === undefined || update.aborted) continue;
      try {
        update.run(group);
        ran.push(update);
      } catch (reason) {
        if (reason instanceof GroupFull) break; // It begins the next group.
        throw reason;
      }
    }
    this.#queue = this.#queue.slice(next);
    return ran;
  }

  /**
   * Answers updates that changed nothing, among them refusals. What they saw counts only if nobody else had begun to
   * lead: a manager that was cut off would refuse by what it saw long ago.
   */
  async #confirm(term: number, updates: readonly PendingUpdate[]): Promise<void> {
    try {
      await this.#proposer.confirmLeader();
      if (this.#term !== term) throw new ClusterError("no-leader", noLeaderText);
      for (const update of updates) if (!update.aborted) update.settle();
    } catch (reason) {
      for (const update of updates) update.reject(reason);
    }
  }

  async #propose(sequence: number, group: Group): Promise<void> {
    try {
      const data = StoreEntry.encode({
        origin: this.#origin,
        sequence,
        basis: this.#basis,
        version: group.stamp.version,
        changes: group.encoded().map(asBuffer),
      }).finish();
      await this.#proposer.propose(data);
    } catch (reason) {
      if (this.#inFlight?.sequence !== sequence) return; // Applied, or given up with the leadership.
      const { updates } = this.#inFlight;
      this.#inFlight = undefined;
      const failure =
        reason instanceof ClusterError
          ? reason
          : new ClusterError("unavailable", `cannot commit the change: ${errorText(reason)}`, {
              cause: reason,
            });
      for (const update of updates) update.reject(failure);
      this.#planDrain();
    }
  }

  #applyEntry(index: number, entry: StoreEntry): void {
    const own =
      entry.origin === this.#origin && entry.sequence === this.#inFlight?.sequence
        ? this.#inFlight
        : undefined;
    if (own !== undefined) this.#inFlight = undefined;
    if (entry.basis !== this.#basis) {
      // Another entry came between; every manager skips this one alike. Ours is decided anew.
      if (own !== undefined) this.#queue = [...own.updates, ...this.#queue];
    } else {
      const known = knownIn(this.#tables);
      const changes = own?.group.changes() ?? entry.changes.map((bytes) => decodeChange(bytes, known));
      this.#basis = index;
      this.#version = Math.max(this.#version, entry.version);
      this.#publish(changes);
      for (const update of own?.updates ?? []) if (!update.aborted) update.settle();
    }
    this.#planDrain();
  }

  #publish(changes: readonly Change[]): void {
    const events: ObjectEvent[] = [];
    const changed = new Set<TableName>();
    for (const change of changes) {
      const event = putInto(this.#tables, change);
      if (event === undefined) continue;
      events.push(event);
      changed.add(event.table);
    }
    const isAll = ({ tables }: Watch): boolean => [...changed].every((table) => tables.has(table));
    for (const watch of this.#watches)
      watch.push(isAll(watch) ? events : events.filter(({ table }) => watch.tables.has(table)));
  }
}

function viewOf(tables: Tables): StoreView {
  return makeView({
    cluster: tableReads(tables.cluster),
    services: tableReads(tables.services),
    tasks: tableReads(tables.tasks),
    nodes: tableReads(tables.nodes),
    networks: tableReads(tables.networks),
    secrets: tableReads(tables.secrets),
    configs: tableReads(tables.configs),
    revisions: tableReads(tables.revisions),
    attachments: tableReads(tables.attachments),
  });
}

/** Applies one change and says what it was to watchers; nothing when there was nothing to remove. */
function putInto(tables: Tables, change: Change): ObjectEvent | undefined {
  // Table and object belong together by construction; the union of all tables cannot show it.
  const table = tables[change.table] as unknown as Table<Row>;
  if (change.kind === "remove") {
    const previous = table.remove(change.id);
    if (previous === undefined) return undefined;
    return { kind: "removed", table: change.table, object: previous } as ObjectEvent;
  }
  const previous = table.put(change.object);
  if (previous === undefined)
    return { kind: "created", table: change.table, object: change.object } as ObjectEvent;
  return { kind: "updated", table: change.table, object: change.object, previous } as ObjectEvent;
}

/** For one entry, or one snapshot. */
function knownIn({ tasks, services, nodes, networks }: Tables): Known {
  return {
    metas: new Metas(),
    canonical: (id) => (services.rows.get(id) ?? nodes.rows.get(id) ?? networks.rows.get(id))?.id ?? id,
    task: (id) => tasks.rows.get(id),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
