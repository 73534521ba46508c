import { ClusterError } from "../../model/errors.ts";
import type { Change } from "./change.ts";
import { encodeChange } from "./codec.ts";
import { Metas } from "./metas.ts";
import { Overlay } from "./overlay.ts";
import { tableNames, type Row, type StoredObject, type TableName, type Tables } from "./tables.ts";
import {
  makeTransaction,
  type AllOverlays,
  type Scope,
  type Stamp,
  type Transaction,
} from "./transaction.ts";

/**
 * An entry takes no further transaction once it has this many bytes or changes. Making and applying an entry is one
 * stretch of work on the main thread, together with all who then look at it; this many changes keep it short.
 */
export const entryLimitBytes = 500_000;
export const entryLimitChanges = 500;
/**
 * One transaction larger than this is refused, and one that would make its entry larger goes into the next. The
 * consensus group takes 1.5 MiB at a time, and refuses all that is in an entry together.
 */
export const transactionLimitBytes = 1_500_000;
/** What frames a change in an entry, at most. */
const changeOverheadBytes = 5;

/** Thrown by `run`: the transaction is fine, but for an entry of its own. Nothing of it is left. */
export class GroupFull extends Error {
  override readonly name = "GroupFull";
}

/** Transactions that run one after another over one overlay and become one log entry. */
export class Group {
  readonly stamp: Stamp;
  readonly #overlays: AllOverlays;
  readonly #scope: Scope;
  readonly #transaction: Transaction;
  /** Table and id → the encoded change of what is written so far. */
  readonly #encoded = new Map<TableName, Map<string, Uint8Array>>();
  #bytes = 0;
  #count = 0;
  #changes: readonly Change[] | undefined;

  constructor(tables: Tables, stamp: Stamp) {
    this.stamp = stamp;
    this.#overlays = {
      cluster: new Overlay(tables.cluster),
      services: new Overlay(tables.services),
      tasks: new Overlay(tables.tasks),
      nodes: new Overlay(tables.nodes),
      networks: new Overlay(tables.networks),
      secrets: new Overlay(tables.secrets),
      configs: new Overlay(tables.configs),
      revisions: new Overlay(tables.revisions),
      attachments: new Overlay(tables.attachments),
    };
    this.#scope = { stamp, metas: new Metas(), open: false };
    this.#transaction = makeTransaction(this.#overlays, this.#scope);
  }

  get full(): boolean {
    return this.#bytes >= entryLimitBytes || this.#count >= entryLimitChanges;
  }

  /**
   * Runs one transaction; when it throws, only its own changes vanish.
   *
   * @throws {GroupFull} when it has to wait for the next group; never of an empty one.
   */
  run<R>(write: (tx: Transaction) => R): R {
    const marks = tableNames.map((name) => this.#overlays[name].mark);
    this.#scope.open = true;
    try {
      const result = write(this.#transaction);
      this.#encodeSince(marks);
      return result;
    } catch (reason) {
      tableNames.forEach((name, i) => this.#overlays[name].undo(marks[i] ?? 0));
      throw reason;
    } finally {
      this.#scope.open = false;
    }
  }

  /** The outcome per object; what was created and removed again is left out. */
  changes(): readonly Change[] {
    this.#changes ??= tableNames.flatMap((table) => this.#changesOf(table));
    return this.#changes;
  }

  /** `changes` in their stored form. */
  encoded(): readonly Uint8Array[] {
    return this.changes().map((change) => {
      const id = change.kind === "put" ? change.object.id : change.id;
      return (
        this.#encoded.get(change.table)?.get(id) ??
        encodeChange(change, this.#overlays[change.table].base.rows.get(id))
      );
    });
  }

  #changesOf(table: TableName): Change[] {
    // Seen as rows, since only id and presence matter here.
    const overlay = this.#overlays[table] as unknown as Overlay<Row>;
    const changes: Change[] = [];
    for (const [id, { object }] of overlay.entries()) {
      if (object !== undefined) changes.push({ kind: "put", table, object: object as StoredObject });
      else if (overlay.base.rows.has(id)) changes.push({ kind: "remove", table, id });
    }
    return changes;
  }

  #encodeSince(marks: readonly number[]): void {
    const fresh: { table: TableName; id: string; bytes: Uint8Array }[] = [];
    let bytes = 0;
    tableNames.forEach((table, i) => {
      const overlay = this.#overlays[table] as unknown as Overlay<Row>;
      if (overlay.mark === marks[i]) return;
      for (const id of overlay.writtenSince(marks[i] ?? 0)) {
        const object = overlay.get(id);
        const change: Change =
          object === undefined
            ? { kind: "remove", table, id }
            : { kind: "put", table, object: object as StoredObject };
        const encoded = encodeChange(change, overlay.base.rows.get(id) as StoredObject | undefined);
        fresh.push({ table, id, bytes: encoded });
        bytes += encoded.length + changeOverheadBytes;
      }
    });
    if (bytes > transactionLimitBytes) {
      throw new ClusterError(
        "resource-exhausted",
        `cannot store the change: ${bytes} bytes, at most ${transactionLimitBytes} are accepted`,
      );
    }
    if (this.#bytes > 0 && this.#bytes + bytes > transactionLimitBytes) throw new GroupFull();
    for (const { table, id, bytes: encoded } of fresh) {
      let ofTable = this.#encoded.get(table);
      if (ofTable === undefined) this.#encoded.set(table, (ofTable = new Map()));
      const before = ofTable.get(id);
      this.#bytes += encoded.length - (before?.length ?? -changeOverheadBytes);
      if (before === undefined) this.#count += 1;
      ofTable.set(id, encoded);
    }
    if (fresh.length > 0) this.#changes = undefined;
  }
}
