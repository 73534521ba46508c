/** One image from its registry into containerd: manifest, configuration, layers, snapshots, name. */
import { createHash, randomUUID } from "node:crypto";

import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import type { Limit } from "../../runtime/limit.ts";
import { abortBlob, readBlob, relabelBlob, writeBlob } from "./blobs.ts";
import type { Connection } from "./connection.ts";
import type { PullProgress } from "./engine.ts";
import type { ImageNames } from "./image-names.ts";
import { createLease, deleteLease } from "./leases.ts";
import {
  chooseEntry,
  configLimitBytes,
  type Descriptor,
  isForeignLayer,
  type Manifest,
  manifestLimitBytes,
  type ParsedConfig,
  parseConfig,
  parseManifest,
  printPlatform,
  refuseFirstSchema,
  type WantedPlatform,
} from "./manifest.ts";
import type { Reference } from "./reference.ts";
import type { Registry, RemoteManifest } from "./registry.ts";
import type { RoomCheck } from "./room.ts";
import { chainIds, snapshotter, unpackLayer } from "./snapshots.ts";
import type { Turns } from "../../runtime/turns.ts";
import { anyOf } from "../../runtime/signal.ts";

/** What an interrupted pull downloaded is kept this long for the next one. */
const leaseLifetimeMs = 24 * 3_600_000;
const leasePrefix = "shoal-pull-";
const layerAttempts = 4;
/** A try that gets this much further is worth the next one. */
const furtherBytes = 1 << 20;

export interface PullDeps {
  readonly connection: Connection;
  readonly names: ImageNames;
  readonly registry: Registry;
  /** Layers downloading at once, over all pulls. */
  readonly downloads: Limit;
  /** Layers being stored or unpacked, by digest; two images that share one do it once. */
  readonly layers: Turns;
  /** Of the disk that containerd stores on. */
  readonly room: RoomCheck;
  /** Those of the pulls under way. */
  readonly leases: Set<string>;
}

export interface PullTarget {
  readonly reference: Reference;
  /** The image's name in containerd. */
  readonly name: string;
  readonly auth: RegistryAuth | undefined;
  readonly platform: WantedPlatform;
  /** The platform if it is not the host's, else empty; kept with the name of an index. */
  readonly label: string;
}

export async function pullImage(
  deps: PullDeps,
  target: PullTarget,
  report: (progress: PullProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const { connection, leases, room } = deps;
  const lease = `${leasePrefix}${randomUUID()}`;
  leases.add(lease);
  try {
    await new Pull(deps, target, lease, report, signal).run();
    await deleteLease(connection, lease, "later");
  } catch (error) {
    // Otherwise the lease stays until it expires: the next try finds the finished layers. On a full disk it would find no room.
    const isFull = await room.look().then(
      () => false,
      () => true,
    );
    if (isFull) await deleteLease(connection, lease, "now");
    throw error;
  } finally {
    leases.delete(lease);
  }
}

/** What failed pulls downloaded is given up, beside that of those that run. */
export async function forgetPulls({
  connection,
  leases,
}: Pick<PullDeps, "connection" | "leases">): Promise<void> {
  const { leases: all } = await connection.call(connection.leases, "list", { filters: [] });
  for (const { id } of all)
    if (id.startsWith(leasePrefix) && !leases.has(id)) await deleteLease(connection, id, "now");
}

class Pull {
  readonly #deps: PullDeps;
  readonly #target: PullTarget;
  readonly #lease: string;
  readonly #report: (progress: PullProgress) => void;
  readonly #signal: AbortSignal;

  constructor(
    deps: PullDeps,
    target: PullTarget,
    lease: string,
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ) {
    this.#deps = deps;
    this.#target = target;
    this.#lease = lease;
    this.#report = report;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const { reference, name } = this.#target;
    const root = await this.#fetchManifest(reference);
    this.#report({ kind: "resolved", reference: name, digest: root.descriptor.digest });
    const leaf = root.manifest.kind === "manifest" ? root : await this.#fetchChosen(root);
    const { manifest } = leaf;
    if (manifest.kind !== "manifest")
      throw new ClusterError("failed-precondition", `cannot use ${name}: an index within an index`);
    const foreign = manifest.layers.find(isForeignLayer);
    if (foreign !== undefined) {
      throw new ClusterError(
        "failed-precondition",
        `cannot use ${name}: layer ${foreign.digest} is a foreign one (${foreign.mediaType}): layers from the image's registry are accepted`,
      );
    }
    // Not before: a name that the registry does not have leaves nothing behind.
    await createLease(this.#deps.connection, this.#lease, leaseLifetimeMs, this.#signal);
    const config = await this.#fetchConfig(manifest.config);
    if (config.diffIds.length !== manifest.layers.length) {
      throw new ClusterError(
        "failed-precondition",
        `cannot use ${name}: ${manifest.layers.length} layers, ${config.diffIds.length} in its configuration`,
      );
    }
    const chain = chainIds(config.diffIds);
    await this.#fetchLayers(manifest.layers, config.diffIds, chain);
    // References from the top down, so that the collector sees the whole image from its name.
    await this.#storeBytes(manifest.config, config.bytes, {
      [`containerd.io/gc.ref.snapshot.${snapshotter}`]: chain.at(-1) ?? "",
    });
    await this.#storeBytes(leaf.descriptor, leaf.bytes, {
      "containerd.io/gc.ref.content.config": manifest.config.digest,
      ...Object.fromEntries(
        manifest.layers.map((layer, index) => [`containerd.io/gc.ref.content.l.${index}`, layer.digest]),
      ),
    });
    if (root !== leaf) {
      await this.#storeBytes(root.descriptor, root.bytes, {
        [platformLabel(leaf.descriptor)]: leaf.descriptor.digest,
      });
    }
    await this.#nameImage(root.descriptor, root === leaf ? "" : this.#target.label);
  }

  #fetchManifest(reference: Reference): Promise<FetchedManifest> {
    return fetchManifest(this.#deps.registry, reference, this.#target.auth, this.#signal);
  }

  async #fetchChosen(root: FetchedManifest): Promise<FetchedManifest> {
    const { reference, name, platform } = this.#target;
    const entries = root.manifest.kind === "index" ? root.manifest.manifests : [];
    const entry = chooseEntry(entries, platform);
    if (entry === undefined) {
      throw new ClusterError(
        "failed-precondition",
        `no matching manifest for ${printPlatform(platform)} in the manifest list entries of ${name}`,
      );
    }
    const { tag: _tag, ...repository } = reference;
    return this.#fetchManifest({ ...repository, digest: entry.digest });
  }

  async #fetchConfig(descriptor: Descriptor): Promise<ParsedConfig & { readonly bytes: Buffer }> {
    if (descriptor.size > configLimitBytes) {
      throw new ClusterError(
        "failed-precondition",
        `image configuration of ${descriptor.size} bytes, at most ${configLimitBytes} are accepted`,
      );
    }
    const { connection, layers } = this.#deps;
    await layers.take(descriptor.digest, () => this.#storeBlob(descriptor, {}), this.#signal);
    const bytes = await readBlob(connection, descriptor.digest, configLimitBytes);
    return { ...parseConfig(bytes), bytes };
  }

  async #fetchLayers(
    layers: readonly Descriptor[],
    diffIds: readonly string[],
    chain: readonly string[],
  ): Promise<void> {
    for (const layer of layers) this.#report({ kind: "waiting", layer: shortDigest(layer.digest) });
    // One layer that fails ends the others.
    const stop = new AbortController();
    using linked = anyOf(this.#signal, stop.signal);
    const { signal } = linked;
    const downloads = layers.map((layer) => this.#downloadLayer(layer, signal));
    // Each is awaited below, in order; this only keeps a later failure from being unhandled meanwhile.
    for (const download of downloads) download.catch((error: unknown) => stop.abort(error));
    try {
      for (const [index, layer] of layers.entries()) {
        await downloads[index];
        await this.#unpack(layer, diffIds[index] ?? "", chain[index] ?? "", chain[index - 1] ?? "", signal);
      }
    } finally {
      stop.abort();
      await Promise.allSettled(downloads);
    }
  }

  async #downloadLayer(layer: Descriptor, signal: AbortSignal): Promise<void> {
    const { downloads } = this.#deps;
    const outcome = await downloads.run(
      () => this.#deps.layers.take(layer.digest, () => this.#storeBlob(layer, {}, signal), signal),
      signal,
    );
    this.#report({ kind: outcome === "exists" ? "exists" : "downloaded", layer: shortDigest(layer.digest) });
  }

  async #unpack(
    layer: Descriptor,
    diffId: string,
    chainId: string,
    parent: string,
    signal: AbortSignal,
  ): Promise<void> {
    const short = shortDigest(layer.digest);
    this.#report({ kind: "extracting", layer: short });
    const { connection, layers } = this.#deps;
    const unpack = { layer, diffId, chainId, parent, lease: this.#lease };
    await layers.take(chainId, () => unpackLayer(connection, unpack, signal), signal);
    this.#report({ kind: "complete", layer: short });
  }

  async #storeBlob(
    descriptor: Descriptor,
    labels: Readonly<Record<string, string>>,
    signal = this.#signal,
  ): Promise<"written" | "exists"> {
    const { connection, registry, room } = this.#deps;
    const { reference, auth } = this.#target;
    const { digest, size } = descriptor;
    const layer = shortDigest(digest);
    let mirror: string | undefined;
    async function* source(offset: number): AsyncGenerator<Buffer> {
      const response = await registry.blob(reference, digest, offset, auth, signal);
      mirror = registry.mirrorOf(response);
      let skipBytes = response.statusCode === 206 ? 0 : offset;
      for await (const chunk of response as AsyncIterable<Buffer>) {
        await room.add(chunk.length);
        if (skipBytes < chunk.length) yield chunk.subarray(skipBytes);
        skipBytes = Math.max(0, skipBytes - chunk.length);
      }
    }
    let reachedBytes = 0;
    let failedAtBytes = 0;
    const onProgress = (currentBytes: number): void => {
      reachedBytes = Math.max(reachedBytes, currentBytes);
      this.#report({ kind: "downloading", layer, currentBytes, totalBytes: size });
    };
    for (let attempt = 1; ; attempt++) {
      mirror = undefined;
      try {
        return await writeBlob(
          connection,
          { digest, size, lease: this.#lease, labels, source, onProgress },
          signal,
        );
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof ClusterError && error.code === "data-loss") {
          registry.distrust(mirror);
          await abortBlob(connection, digest, this.#lease);
          failedAtBytes = size; // What came was wrong: nothing was reached.
        }
        // A long download over a bad line goes on as long as tries get further.
        if (reachedBytes >= failedAtBytes + furtherBytes) {
          attempt = 1;
          failedAtBytes = reachedBytes;
        }
        if (attempt >= layerAttempts || !isPassing(error)) throw error;
        await new Promise((resolve) => setTimeout(resolve, attempt * 250));
      }
    }
  }

  async #storeBytes(
    descriptor: Descriptor,
    bytes: Buffer,
    labels: Readonly<Record<string, string>>,
  ): Promise<void> {
    async function* source(offset: number): AsyncGenerator<Buffer> {
      yield bytes.subarray(offset);
    }
    const { digest, size } = descriptor;
    const { connection, layers } = this.#deps;
    const blob = { digest, size, lease: this.#lease, labels, source };
    await layers.take(digest, () => writeBlob(connection, blob, this.#signal), this.#signal);
  }

  async #nameImage(target: Descriptor, platform: string): Promise<void> {
    await this.#deps.names.put({ name: this.#target.name, target, local: false, platform });
  }
}

/** One for each platform that was pulled of an index: they are kept and collected apart. */
function platformLabel({ digest }: Descriptor): string {
  return `containerd.io/gc.ref.content.m.${digest.replace(":", ".")}`;
}

/** An index no longer keeps the image of one platform. */
export async function releasePlatform(
  connection: Connection,
  index: Descriptor,
  manifest: Descriptor,
): Promise<void> {
  if (index.digest !== manifest.digest)
    await relabelBlob(connection, index.digest, { [platformLabel(manifest)]: "" });
}

/** From the first mirror that has what was asked for, else from the registry; verified. */
export async function fetchManifest(
  registry: Registry,
  reference: Reference,
  auth: RegistryAuth | undefined,
  signal: AbortSignal,
): Promise<FetchedManifest> {
  for (;;) {
    const remote = await registry.manifest(reference, auth, signal);
    try {
      return verifiedManifest(reference, remote);
    } catch (error) {
      if (!registry.distrust(remote.mirror)) throw error;
    }
  }
}

export interface FetchedManifest {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
  readonly bytes: Buffer;
}

/**
 * A manifest that is what was asked for and what the registry says it is.
 *
 * @throws {ClusterError} `data-loss` for other content.
 */
export function verifiedManifest(
  reference: Reference,
  remote: RemoteManifest & { readonly bytes: Buffer },
): FetchedManifest {
  const { bytes, mediaType } = remote;
  refuseFirstSchema(mediaType);
  if (bytes.length > manifestLimitBytes) throw new ClusterError("failed-precondition", "manifest too large");
  const digest = digestOf(bytes);
  const wanted = reference.digest ?? (remote.digest === "" ? digest : remote.digest);
  if (digest !== wanted) {
    throw new ClusterError(
      "data-loss",
      `manifest of ${reference.path}: ${digest} came where ${wanted} was asked for`,
    );
  }
  const manifest = parseManifest(bytes, mediaType);
  return { descriptor: { mediaType: manifest.mediaType, digest, size: bytes.length }, manifest, bytes };
}

/** What another try may cure: broken connections, and one transfer that came wrong. */
function isPassing(error: unknown): boolean {
  if (error instanceof ClusterError) return error.code === "unavailable" || error.code === "data-loss";
  return error instanceof Error && "code" in error && typeof error.code === "string";
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function shortDigest(digest: string): string {
  return digest.slice("sha256:".length, "sha256:".length + 12);
}
