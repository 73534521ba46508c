/** Snapshots of image layers and of containers, in containerd's overlayfs snapshotter. */
import { createHash } from "node:crypto";

import { ClusterError } from "../../model/errors.ts";
import type { Mount } from "../../proto/gen/containerd/types.ts";
import {
  type Connection,
  isAlreadyThere,
  isNotFound,
  toEngineError,
  unlessGone,
  unpackTimeoutMs,
} from "./connection.ts";
import { holdInLease } from "./leases.ts";
import type { Descriptor } from "./manifest.ts";
import { requireRoom } from "./room.ts";
import { anyOf, type LinkedSignal } from "../../runtime/signal.ts";

export const snapshotter = "overlayfs";
/** Faster than a disk can take what the room that is kept has. */
const roomCheckMs = 200;

/** The name of the snapshot that holds layers 0..i, for each i (OCI image specification, "Layer ChainID"). */
export function chainIds(diffIds: readonly string[]): string[] {
  const chain: string[] = [];
  for (const diffId of diffIds) {
    const parent = chain.at(-1);
    chain.push(parent === undefined ? diffId : `sha256:${sha256(`${parent} ${diffId}`)}`);
  }
  return chain;
}

export async function snapshotExists(connection: Connection, key: string): Promise<boolean> {
  const { snapshots } = connection;
  try {
    await connection.call(snapshots, "stat", { snapshotter, key });
    return true;
  } catch (error) {
    if (isNotFound(error)) return false;
    throw error;
  }
}

/** Bytes on disk of one layer, without those below; 0 if it is not there. */
export async function snapshotUsage(connection: Connection, key: string): Promise<number> {
  const { snapshots } = connection;
  try {
    const { size } = await connection.call(snapshots, "usage", { snapshotter, key });
    return size;
  } catch (error) {
    if (isNotFound(error)) return 0;
    throw toEngineError(error, `cannot measure layer ${key}`);
  }
}

export interface LayerUnpack {
  readonly layer: Descriptor;
  readonly diffId: string;
  readonly chainId: string;
  /** Chain id below; empty for the lowest layer. */
  readonly parent: string;
  readonly lease: string;
}

/**
 * Applies one downloaded layer on its parent. Nothing to do when its snapshot exists; either way it belongs to the lease
 * afterwards, so that the removal of another image does not take it.
 */
export async function unpackLayer(
  connection: Connection,
  unpack: LayerUnpack,
  signal: AbortSignal,
): Promise<"unpacked" | "exists"> {
  const { layer, diffId, chainId, parent, lease } = unpack;
  // In this order: what is there once the lease has it is not collected any more.
  await holdInLease(connection, lease, { type: `snapshots/${snapshotter}`, id: chainId });
  if (await snapshotExists(connection, chainId)) return "exists";
  const { snapshots, diff } = connection;
  const key = `extract-${Date.now().toString(36)}-${process.pid} ${chainId}`;
  const { mounts } = await connection.call(
    snapshots,
    "prepare",
    { snapshotter, key, parent, labels: {} },
    { lease },
  );
  try {
    using room = watchRoom(upperDirectory(mounts), signal);
    const { applied } = await connection
      .call(
        diff,
        "apply",
        { diff: { ...layer }, mounts },
        { signal: room.signal, lease, timeoutMs: unpackTimeoutMs },
      )
      .catch((error: unknown) => {
        room.signal.throwIfAborted();
        throw error;
      });
    if (applied?.digest !== diffId) {
      throw new ClusterError(
        "data-loss",
        `layer ${layer.digest} holds ${applied?.digest ?? "nothing"} where the image says ${diffId}`,
      );
    }
    await connection.call(snapshots, "commit", { snapshotter, name: chainId, key, labels: {} }, { lease });
    return "unpacked";
  } catch (error) {
    await removeSnapshot(connection, key).catch(() => {});
    if (isAlreadyThere(error)) return "exists";
    throw toEngineError(error, `cannot unpack layer ${layer.digest}`);
  }
}

/** Where a layer is unpacked to; undefined for mounts of another kind. */
export function upperDirectory(mounts: readonly Mount[]): string | undefined {
  const [mount] = mounts;
  if (mount?.type === "bind") return mount.source;
  return mount?.options.find((option) => option.startsWith("upperdir="))?.slice("upperdir=".length);
}

/**
 * Aborts before what is unpacked takes the last of the disk: a small layer can hold any number of zeros, and
 * containerd writes them all.
 */
function watchRoom(directory: string | undefined, signal: AbortSignal): LinkedSignal {
  const full = new AbortController();
  const timer =
    directory === undefined
      ? undefined
      : setInterval(
          () => void requireRoom(directory).catch((error: unknown) => full.abort(error)),
          roomCheckMs,
        );
  const either = anyOf(signal, full.signal);
  return {
    signal: either.signal,
    [Symbol.dispose]() {
      clearInterval(timer);
      either[Symbol.dispose]();
    },
  };
}

/** A container's own writable layer. */
export async function prepareSnapshot(connection: Connection, key: string, parent: string): Promise<Mount[]> {
  const { snapshots } = connection;
  // Without this label the next garbage collection takes it: no lease covers the time between create and start.
  const labels = { "containerd.io/gc.root": new Date().toISOString() };
  const { mounts } = await connection.call(snapshots, "prepare", {
    snapshotter,
    key,
    parent,
    labels,
  });
  return mounts;
}

/** An image's layers without one that can be written to, kept until it is removed. One that is there already stays. */
export async function viewSnapshot(connection: Connection, key: string, parent: string): Promise<void> {
  const labels = { "containerd.io/gc.root": new Date().toISOString() };
  await connection
    .call(connection.snapshots, "view", { snapshotter, key, parent, labels })
    .catch((error: unknown) => {
      if (!isAlreadyThere(error)) throw error;
    });
}

export async function snapshotMounts(connection: Connection, key: string): Promise<Mount[]> {
  const { snapshots } = connection;
  const { mounts } = await connection.call(snapshots, "mounts", { snapshotter, key });
  return mounts;
}

export async function removeSnapshot(connection: Connection, key: string): Promise<void> {
  const { snapshots } = connection;
  await unlessGone(connection.call(snapshots, "remove", { snapshotter, key }));
}

/** The directories of an image's layers below a container's own, highest first. */
export function lowerDirectories(mounts: readonly Mount[]): string[] {
  const [mount] = mounts;
  if (mount === undefined) return [];
  if (mount.type === "bind") return [mount.source];
  const lower = mount.options.find((option) => option.startsWith("lowerdir="));
  return lower === undefined ? [] : lower.slice("lowerdir=".length).split(":");
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
