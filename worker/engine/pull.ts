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
  type WantedPlatform,
} from "./manifest.ts";
import type { Reference } from "./reference.ts";
import type { Registry, RemoteManifest } from "./registry.ts";
import { chainIds, snapshotter, unpackLayer } from "./snapshots.ts";
import { anyOf } from "../../runtime/signal.ts";

/** What an interrupted pull downloaded is kept this long for the next one. */
const leaseLifetimeMs = 24 * 3_600_000;
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
  readonly layers: Map<string, Promise<unknown>>;
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
  const { connection } = deps;
  const lease = `shoal-pull-${randomUUID()}`;
  await createLease(connection, lease, leaseLifetimeMs, signal);
  let done = false;
  try {
    await new Pull(deps, target, lease, report, signal).run();
    done = true;
  } finally {
    // After a failure the lease stays until it expires: the next try finds the finished layers.
    if (done) await deleteLease(connection, lease, "later");
  }
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

  async #fetchManifest(reference: Reference): Promise<FetchedManifest> {
    const { registry } = this.#deps;
    const remote = await registry.manifest(reference, this.#target.auth, this.#signal);
    return verifiedManifest(reference, remote);
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
    const bytes = await this.#storeBlob(descriptor, {}).then(() =>
      readBlob(this.#deps.connection, descriptor.digest, configLimitBytes),
    );
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
      () => this.#once(layer.digest, () => this.#storeBlob(layer, {}, signal)),
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
    const { connection } = this.#deps;
    await this.#once(chainId, () =>
      unpackLayer(connection, { layer, diffId, chainId, parent, lease: this.#lease }, signal),
    );
    this.#report({ kind: "complete", layer: short });
  }

  /**
   * Waits for whoever is at the same piece, then does it as well: then it is there, and the call only
   * adds it to this pull's lease. So the failure or cancelling of one pull never fails another.
   */
  async #once<Result>(key: string, work: () => Promise<Result>): Promise<Result> {
    const { layers } = this.#deps;
    for (let other = layers.get(key); other !== undefined; other = layers.get(key)) {
      await other.catch(() => {});
      this.#signal.throwIfAborted();
    }
    const mine = work();
    layers.set(key, mine);
    try {
      return await mine;
    } finally {
      layers.delete(key);
    }
  }

  async #storeBlob(
    descriptor: Descriptor,
    labels: Readonly<Record<string, string>>,
    signal = this.#signal,
  ): Promise<"written" | "exists"> {
    const { connection, registry } = this.#deps;
    const { reference, auth } = this.#target;
    const { digest, size } = descriptor;
    const layer = shortDigest(digest);
    async function* source(offset: number): AsyncGenerator<Buffer> {
      const response = await registry.blob(reference, digest, offset, auth, signal);
      let skipBytes = response.statusCode === 206 ? 0 : offset;
      for await (const chunk of response as AsyncIterable<Buffer>) {
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
      try {
        return await writeBlob(
          connection,
          { digest, size, lease: this.#lease, labels, source, onProgress },
          signal,
        );
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof ClusterError && error.code === "data-loss") {
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
    await writeBlob(
      this.#deps.connection,
      { digest, size, lease: this.#lease, labels, source },
      this.#signal,
    );
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
