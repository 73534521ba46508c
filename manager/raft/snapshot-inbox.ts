import type { SnapshotMeta } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import { isFull } from "./disk-space.ts";
import {
  type SnapshotIdentity,
  type SnapshotWriter,
  sameSnapshot,
  snapshotPartBytes,
} from "./snapshot-file.ts";
import type { SnapshotStore } from "./snapshot.ts";

/** More than this is not taken. */
const maxSnapshotBytes = 2 ** 36;

/** The receiving end of one stream that carries a snapshot. */
export interface SnapshotIntake {
  /** What is here already: the sender goes on from there. */
  readonly offset: number;
  /**
   * The next part; settles once it is written, so that a sender never gets far ahead of the disk.
   *
   * @throws {ClusterError} `failed-precondition` when another stream has taken over or the snapshot is of no use any more, `resource-exhausted` when the disk
   *   is full.
   */
  add(part: SnapshotPart): Promise<void>;
  /** All parts are in: checks the whole and hands it to the member. @throws {ClusterError} `data-loss` when it arrived changed. */
  finish(): Promise<void>;
}

export interface SnapshotPart {
  readonly offset: number;
  readonly data: Uint8Array;
}

/** One that has not arrived whole. */
interface Unfinished {
  readonly identity: SnapshotIdentity;
  readonly writer: SnapshotWriter;
}

/**
 * Receives one snapshot at a time into a file. What has arrived when a stream breaks, or the process ends, stays, and a later
 * stream that carries the same snapshot goes on behind it.
 */
export class SnapshotInbox {
  readonly #store: SnapshotStore;
  #partial: Unfinished | undefined;
  /** Counts streams; only the latest may write. */
  #stream = 0;
  #last: Promise<unknown> = Promise.resolve();
  readonly #closing = new AbortController();

  constructor(store: SnapshotStore) {
    this.#store = store;
  }

  /**
   * A stream begins.
   *
   * @param received - Called with the finished writer, once the whole has been checked.
   */
  async offer(
    meta: SnapshotMeta,
    identity: SnapshotIdentity,
    received: (writer: SnapshotWriter) => Promise<void>,
  ): Promise<SnapshotIntake> {
    if (identity.dataBytes > maxSnapshotBytes) {
      const seen = `snapshot of ${identity.dataBytes} bytes`;
      throw new ClusterError("resource-exhausted", `${seen}: at most ${maxSnapshotBytes} are taken`);
    }
    this.#stream += 1;
    const stream = this.#stream;
    const assertLatest = (): void => {
      if (stream !== this.#stream) throw gone("another stream carries a snapshot to this member now");
    };
    const partial = await this.#inTurn(async () => {
      assertLatest();
      if (this.#partial !== undefined && !sameSnapshot(this.#partial.identity, identity))
        await this.#discard();
      const { signal } = this.#closing;
      signal.throwIfAborted();
      this.#partial ??= {
        identity,
        writer: await this.#orDiscard(this.#store.receive(meta, identity, signal)),
      };
      return this.#partial;
    });
    const { writer } = partial;
    const assertWanted = (): void => {
      assertLatest();
      if (partial !== this.#partial) throw gone("what had arrived of the snapshot is not here any more");
    };
    return {
      offset: writer.bytes,
      add: (part) =>
        this.#inTurn(async () => {
          assertWanted();
          check(part, writer.bytes, identity.dataBytes);
          await this.#orDiscard(writer.append(part.data));
        }),
      finish: () =>
        this.#inTurn(async () => {
          assertWanted();
          if (writer.bytes !== identity.dataBytes) {
            const seen = `snapshot ended after ${writer.bytes} of ${identity.dataBytes} bytes`;
            throw new ClusterError("invalid-argument", seen);
          }
          const found = await this.#orDiscard(writer.finish());
          if (!sameSnapshot(found, identity)) {
            await this.#discard();
            throw new ClusterError("data-loss", "the snapshot arrived changed: its digest does not match");
          }
          this.#partial = undefined;
          await received(writer);
        }),
    };
  }

  /** What was broken off is of no use any more once everything in it is known; a stream that still brings it is refused. */
  async discardUpTo(index: number): Promise<void> {
    const isUseless = (identity: SnapshotIdentity | undefined): boolean =>
      (identity?.index ?? Infinity) <= index;
    const isAny = (): boolean => isUseless(this.#partial?.identity) || isUseless(this.#store.leftover);
    if (!isAny()) return;
    await this.#inTurn(async () => {
      // Another leader may have begun a newer one meanwhile.
      if (isUseless(this.#partial?.identity)) await this.#discard();
      if (isUseless(this.#store.leftover)) await this.#store.dropLeftover();
    });
  }

  /** The process ends: what has arrived stays for the next one. */
  async close(): Promise<void> {
    this.#closing.abort(new ClusterError("unavailable", "this manager is stopping"));
    await this.#inTurn(async () => {
      const partial = this.#partial;
      this.#partial = undefined;
      if (partial !== undefined) await this.#store.leave(partial.writer);
    });
  }

  /** One step at a time. */
  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(step);
    this.#last = turn.catch(() => undefined); // Whoever asked for the step is told.
    return turn;
  }

  /** A file that could not be written leaves nothing to go on from. */
  async #orDiscard<T>(writing: Promise<T>): Promise<T> {
    try {
      return await writing;
    } catch (error) {
      await this.#discard();
      if (!isFull(error)) throw error;
      throw new ClusterError("resource-exhausted", "the snapshot cannot be taken: the disk is full", {
        cause: error,
      });
    }
  }

  async #discard(): Promise<void> {
    const partial = this.#partial;
    this.#partial = undefined;
    if (partial !== undefined) await this.#store.drop(partial.writer);
  }
}

function gone(text: string): ClusterError {
  return new ClusterError("failed-precondition", text);
}

function check({ offset, data }: SnapshotPart, expectedOffset: number, dataBytes: number): void {
  if (offset !== expectedOffset || offset + data.byteLength > dataBytes) {
    const seen = `snapshot part of ${data.byteLength} bytes at ${offset}`;
    throw new ClusterError("invalid-argument", `${seen}: ${expectedOffset} of ${dataBytes} are next`);
  }
  if (data.byteLength > snapshotPartBytes) {
    throw new ClusterError("invalid-argument", `snapshot part of ${data.byteLength} bytes is too large`);
  }
}
