/** Leases: what containerd's collector leaves alone while something is under way with it. */
import { randomUUID } from "node:crypto";

import { type Connection, unlessGone } from "./connection.ts";

/** Long enough for the slowest disk; what an interrupted process held is then collected. */
const lifetimeMs = 6 * 3_600_000;

export interface Resource {
  readonly type: "content" | "snapshots/overlayfs";
  /** Digest of the content, or key of the snapshot. */
  readonly id: string;
}

/** What is stored meanwhile under this lease is kept from collection until it is done. */
export async function underLease<Result>(
  connection: Connection,
  work: (lease: string) => Promise<Result>,
  signal: AbortSignal,
): Promise<Result> {
  await using lease = await openLease(connection, signal);
  return await work(lease.id);
}

/** A lease until the end of the block. */
export async function openLease(
  connection: Connection,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly id: string }> {
  const id = `shoal-store-${randomUUID()}`;
  await createLease(connection, id, lifetimeMs, signal);
  return { id, [Symbol.asyncDispose]: () => deleteLease(connection, id, "later") };
}

export async function createLease(
  connection: Connection,
  id: string,
  expiresInMs: number,
  signal: AbortSignal,
): Promise<void> {
  const labels = { "containerd.io/gc.expire": new Date(Date.now() + expiresInMs).toISOString() };
  await connection.call(connection.leases, "create", { id, labels }, { signal });
}

/** @param collection - Whether the call waits until what only this lease held is gone from the disk. */
export async function deleteLease(
  connection: Connection,
  id: string,
  collection: "now" | "later",
): Promise<void> {
  await unlessGone(connection.call(connection.leases, "delete", { id, sync: collection === "now" }));
}

/**
 * Keeps from the next collection on what is there, or comes to be there. containerd does not say which: whoever needs to know
 * looks afterwards, and what is there then stays.
 */
export async function holdInLease(
  connection: Connection,
  lease: string,
  { id, type }: Resource,
): Promise<void> {
  await connection.call(connection.leases, "addResource", { id: lease, resource: { id, type } });
}
