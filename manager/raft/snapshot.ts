import { setImmediate as turn } from "node:timers/promises";
import type { SnapshotMeta } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { SnapshotHeader } from "../../proto/gen/shoal/raft.ts";
import type { Disk } from "../../runtime/disk.ts";
import { snapshotFromWire, snapshotToWire } from "./codec.ts";
import { crc32c } from "./crc32c.ts";
import { type Seal, sealOverheadBytes } from "./seal.ts";

const magic = 0x534e5348; // "HSNS"
const version = 1;
const headerBytes = 16;
const keep = 2;
/** Sealed at a time; between two parts the event loop gets a turn, so that no heartbeat waits for a large snapshot. */
const partBytes = 1024 * 1024;
const suffix = ".snap";

export interface StoredSnapshot {
  readonly meta: SnapshotMeta;
  readonly data: Uint8Array;
}

/**
 * Snapshot files, named by index and term: magic, version, CRC-32C and length of the sealed header, the header, then the
 * data in parts, each sealed and with its length before it. Written whole under another name, synced and renamed.
 */
export class SnapshotStore {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #seal: Seal;

  constructor({ disk }: { disk: Disk }, { directory, seal }: { directory: string; seal: Seal }) {
    this.#disk = disk;
    this.#directory = directory;
    this.#seal = seal;
  }

  /** Settles when it is durable; older ones but the one before are removed. */
  async save({ meta, data }: StoredSnapshot): Promise<void> {
    const name = fileName(meta);
    const path = `${this.#directory}/${name}`;
    try {
      await this.#disk.makeDirectory(this.#directory);
      await this.#disk.replace(path, await this.#encode({ meta, data }), 0o600);
      for (const old of (await this.#names()).slice(keep)) {
        await this.#disk.remove(`${this.#directory}/${old}`);
      }
    } catch (cause) {
      const full = (cause as NodeJS.ErrnoException).code === "ENOSPC";
      throw new ClusterError(
        full ? "resource-exhausted" : "data-loss",
        `cannot write the snapshot ${path}: ${full ? "the disk is full; free some space and restart the manager" : errorText(cause)}`,
        { cause },
      );
    }
  }

  /**
   * The newest that can be read, which may be the one before the newest.
   *
   * @throws {ClusterError} `data-loss` when there are some and none can be read.
   */
  async load(): Promise<StoredSnapshot | undefined> {
    const problems: string[] = [];
    for (const name of await this.#names()) {
      const bytes = await this.#disk.read(`${this.#directory}/${name}`);
      try {
        if (bytes !== undefined) return await this.#decode(bytes, name);
      } catch (error) {
        problems.push(`${this.#directory}/${name}: ${errorText(error)}`);
      }
    }
    if (problems.length === 0) return undefined;
    throw new ClusterError(
      "data-loss",
      `cannot read any snapshot (${problems.join("; ")}). Remove this manager from the group on another manager, remove ` +
        "its state directory, and let it join again",
    );
  }

  /** Index up to which the log may be dropped without losing the fallback to the older snapshot; 0 for none. */
  async oldestIndex(): Promise<number> {
    const names = await this.#names();
    const oldest = names.at(-1);
    return oldest === undefined ? 0 : Number.parseInt(oldest, 16);
  }

  /** Newest first. */
  async #names(): Promise<string[]> {
    const names = await this.#disk.list(this.#directory);
    return names
      .filter((name) => name.endsWith(suffix))
      .toSorted()
      .toReversed();
  }

  async #encode({ meta, data }: StoredSnapshot): Promise<Uint8Array> {
    const name = fileName(meta);
    const wire = SnapshotHeader.encode(snapshotToWire(meta, data.byteLength)).finish();
    const header = this.#seal.seal(wire, `header of snapshot ${name}`);
    const parts = Math.ceil(data.byteLength / partBytes);
    const overhead = parts * (4 + sealOverheadBytes);
    const bytes = new Uint8Array(headerBytes + header.byteLength + data.byteLength + overhead);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, magic, true);
    view.setUint32(4, version, true);
    view.setUint32(8, crc32c(header), true);
    view.setUint32(12, header.byteLength, true);
    bytes.set(header, headerBytes);
    let at = headerBytes + header.byteLength;
    for (let part = 0; part < parts; part += 1) {
      const plain = data.subarray(part * partBytes, (part + 1) * partBytes);
      const sealed = this.#seal.seal(plain, partContext(name, part, parts));
      view.setUint32(at, sealed.byteLength, true);
      bytes.set(sealed, at + 4);
      at += 4 + sealed.byteLength;
      await turn();
    }
    return bytes;
  }

  async #decode(bytes: Uint8Array, name: string): Promise<StoredSnapshot> {
    if (bytes.byteLength < headerBytes) throw new Error("it is too short");
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (view.getUint32(0, true) !== magic) throw new Error("it is not a snapshot");
    if (view.getUint32(4, true) !== version) {
      throw new Error(`it has version ${view.getUint32(4, true)}, ${version} is understood`);
    }
    const headerEnd = headerBytes + view.getUint32(12, true);
    const sealedHeader = bytes.subarray(headerBytes, headerEnd);
    if (crc32c(sealedHeader) !== view.getUint32(8, true)) throw new Error("its checksum does not match");
    const wire = SnapshotHeader.decode(
      this.#seal.open(sealedHeader, this.#seal.keyId, `header of snapshot ${name}`),
    );
    const data = new Uint8Array(wire.dataBytes);
    const parts = Math.ceil(wire.dataBytes / partBytes);
    let at = headerEnd;
    for (let part = 0; part < parts; part += 1) {
      if (at + 4 > bytes.byteLength) throw new Error("it is cut off");
      const end = at + 4 + view.getUint32(at, true);
      const plain = this.#seal.open(
        bytes.subarray(at + 4, end),
        this.#seal.keyId,
        partContext(name, part, parts),
      );
      data.set(plain, part * partBytes);
      at = end;
      await turn();
    }
    return { meta: snapshotFromWire(wire), data };
  }
}

/** Binds a part to its place, so that none can be left out, repeated or swapped. */
function partContext(name: string, part: number, parts: number): string {
  return `part ${part} of ${parts} of snapshot ${name}`;
}

function fileName({ index, term }: SnapshotMeta): string {
  return `${hex(index)}-${hex(term)}${suffix}`;
}

function hex(value: number): string {
  return value.toString(16).padStart(16, "0");
}
