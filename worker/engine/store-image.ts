/** An image out of layers that are in containerd's store already: configuration, manifest, names. */
import { randomUUID } from "node:crypto";

import { writeBlob } from "./blobs.ts";
import { type Connection, unlessGone } from "./connection.ts";
import { type ImageNames, untaggedName } from "./image-names.ts";
import { type Descriptor, parseConfig } from "./manifest.ts";
import { digestOf } from "./save.ts";
import { chainIds, snapshotter } from "./snapshots.ts";

/** Long enough for the slowest disk; what an interrupted process stored is then collected. */
const leaseLifetimeMs = 6 * 3_600_000;
const manifestType = "application/vnd.oci.image.manifest.v1+json";
const configType = "application/vnd.oci.image.config.v1+json";

export interface StoreDeps {
  readonly connection: Connection;
  readonly names: ImageNames;
}

export interface LoadedImage {
  readonly id: string;
  /** Full names that it has now; empty for none. */
  readonly names: readonly string[];
}

/** What is stored meanwhile under this lease is kept from collection until it is done. */
export async function underLease<Result>(
  connection: Connection,
  work: (lease: string) => Promise<Result>,
  signal: AbortSignal,
): Promise<Result> {
  const id = `shoal-store-${randomUUID()}`;
  const labels = { "containerd.io/gc.expire": new Date(Date.now() + leaseLifetimeMs).toISOString() };
  await connection.call(connection.leases, "create", { id, labels }, { signal });
  try {
    return await work(id);
  } finally {
    await unlessGone(connection.call(connection.leases, "delete", { id, sync: false }));
  }
}

/** @param layers - Of the configuration, lowest first; their content and snapshots are there. */
export async function storeImage(
  { connection, names }: StoreDeps,
  {
    configBytes,
    layers,
    names: wanted,
  }: {
    readonly configBytes: Buffer;
    readonly layers: readonly Descriptor[];
    readonly names: readonly string[];
  },
  lease: string,
  signal: AbortSignal,
): Promise<LoadedImage> {
  const config = descriptorOf(configType, configBytes);
  const manifestBytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: manifestType, config, layers }),
  );
  const target = descriptorOf(manifestType, manifestBytes);
  const top = chainIds(parseConfig(configBytes).diffIds).at(-1);
  await store(
    config,
    configBytes,
    top === undefined ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: top },
  );
  await store(target, manifestBytes, {
    "containerd.io/gc.ref.content.config": config.digest,
    ...Object.fromEntries(
      layers.map(({ digest }, index) => [`containerd.io/gc.ref.content.l.${index}`, digest]),
    ),
  });
  for (const name of wanted.length > 0 ? wanted : [untaggedName(target.digest)]) {
    // What a registry has said of the same content stays said.
    if ((await names.get(name))?.target.digest !== target.digest)
      await names.put({ name, target, local: true, platform: "" });
  }
  return { id: config.digest, names: wanted };

  async function store(
    { digest, size }: Descriptor,
    bytes: Buffer,
    labels: Readonly<Record<string, string>>,
  ): Promise<void> {
    async function* source(offset: number): AsyncGenerator<Buffer> {
      yield bytes.subarray(offset);
    }
    await writeBlob(connection, { digest, size, lease, labels, source }, signal);
  }
}

function descriptorOf(mediaType: string, bytes: Buffer): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}
