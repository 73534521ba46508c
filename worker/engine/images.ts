/** The images of this host: names in containerd, their configurations, pulls in flight. */
import { ClusterError } from "../../model/errors.ts";
import type { Platform, RegistryAuth } from "../../model/service.ts";
import type { Image as NamedImage } from "../../proto/gen/containerd/images.ts";
import { Limit } from "../../runtime/limit.ts";
import { orAborted } from "../../runtime/signal.ts";
import { readBlob } from "./blobs.ts";
import { type Connection, isNotFound, toEngineError } from "./connection.ts";
import type { Distribution, Image, PullOptions, PullProgress } from "./engine.ts";
import {
  chooseEntry,
  configLimitBytes,
  type Manifest,
  manifestLimitBytes,
  parseConfig,
  parseManifest,
  platformsOf,
} from "./manifest.ts";
import { type PullDeps, pullImage, verifiedManifest } from "./pull.ts";
import { parseReference, printReference } from "./reference.ts";
import { readBody, Registry } from "./registry.ts";
import { chainIds } from "./snapshots.ts";

const parallelDownloads = 4;
const shortestIdDigits = 4;

interface RunningPull {
  readonly result: Promise<PullOutcome>;
  readonly listeners: Set<(progress: PullProgress) => void>;
  readonly cancel: AbortController;
  waiting: number;
}

interface PullOutcome {
  readonly image: Image;
  readonly changed: boolean;
}

export interface ImagesDeps {
  readonly connection: Connection;
  readonly insecureRegistries: readonly string[];
  readonly platform: Platform;
}

export class Images {
  readonly #connection: Connection;
  readonly #platform: Platform;
  readonly #registry: Registry;
  readonly #pullDeps: PullDeps;
  /** By name; an entry is used only while the name still has its digest. */
  readonly #known = new Map<string, Image>();
  readonly #pulls = new Map<string, RunningPull>();

  constructor({ connection, insecureRegistries, platform }: ImagesDeps) {
    this.#connection = connection;
    this.#platform = platform;
    this.#registry = new Registry(insecureRegistries);
    this.#pullDeps = {
      connection,
      platform,
      registry: this.#registry,
      downloads: new Limit(parallelDownloads),
      layers: new Map(),
    };
  }

  /** `changed` is false when the registry had nothing new. */
  async pull(text: string, options: PullOptions, signal: AbortSignal): Promise<PullOutcome> {
    const { auth, onProgress } = options;
    const reference = parseReference(text);
    if (reference.digest !== undefined) {
      const present = await this.find(text);
      if (present !== undefined) {
        onProgress?.({ kind: "resolved", reference: present.reference, digest: present.digest });
        onProgress?.({ kind: "done", changed: false });
        return { image: present, changed: false };
      }
    }
    // Credentials are part of the key: who may not pull an image must not be handed another's pull.
    const key = JSON.stringify([printReference(reference), auth ?? null]);
    const running = this.#pulls.get(key) ?? this.#begin(key, text, auth);
    if (onProgress !== undefined) running.listeners.add(onProgress);
    running.waiting++;
    try {
      const outcome = await orAborted(running.result, signal);
      onProgress?.({ kind: "done", changed: outcome.changed });
      return outcome;
    } finally {
      if (onProgress !== undefined) running.listeners.delete(onProgress);
      running.waiting--;
      if (running.waiting === 0) {
        running.cancel.abort(new ClusterError("unavailable", `the pull of ${text} was cancelled`));
        if (this.#pulls.get(key) === running) this.#pulls.delete(key);
      }
    }
  }

  /** By reference, `name@digest`, image id or a prefix of it. */
  async find(text: string): Promise<Image | undefined> {
    const hex = /^(?:sha256:)?([0-9a-f]+)$/.exec(text)?.[1];
    if (hex !== undefined && hex.length >= shortestIdDigits) {
      const byId = (await this.list()).find(({ id }) => id.startsWith(`sha256:${hex}`));
      if (byId !== undefined || text.startsWith("sha256:")) return byId;
    }
    const reference = parseReference(text);
    const name = printReference(reference);
    const named = await this.#named(name);
    if (named !== undefined) return this.#load(named);
    if (reference.digest === undefined) return undefined;
    // Pulled by tag, wanted by digest: the same repository and content under another name.
    const repository = `${reference.domain}/${reference.path}`;
    const same = (image: Image): boolean =>
      image.digest === reference.digest && image.reference.replace(/[:@][^/]*$/, "") === repository;
    for (const image of this.#known.values()) {
      if (same(image) && (await this.#named(image.reference))?.target?.digest === image.digest) return image;
    }
    return (await this.list()).find(same);
  }

  async list(): Promise<Image[]> {
    const { images } = this.#connection;
    try {
      const { images: named } = await this.#connection.call(images, "list", { filters: [] });
      const loaded = await Promise.all(named.map((image) => this.#load(image)));
      return loaded.filter((image) => image !== undefined);
    } catch (error) {
      throw toEngineError(error, "cannot list images");
    }
  }

  async remove(text: string): Promise<Image> {
    const image = await this.find(text);
    if (image === undefined) throw new ClusterError("not-found", `No such image: ${text}`);
    const { images } = this.#connection;
    try {
      await this.#connection.call(images, "delete", { name: image.reference, sync: true });
    } catch (error) {
      if (!isNotFound(error)) throw toEngineError(error, `cannot remove image ${text}`);
    }
    this.#known.delete(image.reference);
    return image;
  }

  async resolve(text: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Distribution> {
    const reference = parseReference(text);
    const remote = await this.#registry.manifest(reference, auth, signal);
    const { manifest, descriptor } = verifiedManifest(reference, remote);
    if (manifest.kind === "index") return { descriptor, platforms: platformsOf(manifest.manifests) };
    const response = await this.#registry.blob(reference, manifest.config.digest, 0, auth, signal);
    const { architecture, os } = parseConfig(await readBody(response, configLimitBytes));
    return { descriptor, platforms: [{ architecture, os }] };
  }

  close(): void {
    for (const { cancel } of this.#pulls.values())
      cancel.abort(new ClusterError("unavailable", "the engine is closed"));
    this.#registry.close();
  }

  #begin(key: string, text: string, auth: RegistryAuth | undefined): RunningPull {
    const cancel = new AbortController();
    const listeners = new Set<(progress: PullProgress) => void>();
    const report = (progress: PullProgress): void => {
      for (const listener of listeners) listener(progress);
    };
    const result = this.#pull(text, auth, report, cancel.signal).finally(() => {
      if (this.#pulls.get(key) === running) this.#pulls.delete(key);
    });
    // Those who wait have it; when all of them gave up nobody does.
    result.catch(() => {});
    const running: RunningPull = { result, listeners, cancel, waiting: 0 };
    this.#pulls.set(key, running);
    return running;
  }

  async #pull(
    text: string,
    auth: RegistryAuth | undefined,
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<PullOutcome> {
    const reference = parseReference(text);
    const name = printReference(reference);
    const before = await this.#named(name);
    const present = before === undefined ? undefined : await this.#load(before);
    if (present !== undefined) {
      const remote = await this.#registry.head(reference, auth, signal);
      if (remote.digest === present.digest) {
        report({ kind: "resolved", reference: name, digest: present.digest });
        return { image: present, changed: false };
      }
    }
    try {
      await pullImage(this.#pullDeps, { reference, name, auth }, report, signal);
    } catch (error) {
      throw toEngineError(error, `cannot pull ${text}`);
    }
    this.#known.delete(name);
    const named = await this.#named(name);
    const image = named === undefined ? undefined : await this.#load(named);
    if (image === undefined) throw new ClusterError("internal", `cannot pull ${text}: its content vanished`);
    return { image, changed: true };
  }

  async #named(name: string): Promise<NamedImage | undefined> {
    const { images } = this.#connection;
    try {
      const { image } = await this.#connection.call(images, "get", { name });
      return image;
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw toEngineError(error, `cannot look up image ${name}`);
    }
  }

  /** Undefined when parts of it are missing, such as those of another platform: then it must be pulled. */
  async #load({ name, target }: NamedImage): Promise<Image | undefined> {
    if (target === undefined) return undefined;
    const known = this.#known.get(name);
    if (known?.digest === target.digest) return known;
    try {
      const root = await this.#manifest(target.digest, target.mediaType);
      const entry = root.kind === "index" ? chooseEntry(root.manifests, this.#platform) : target;
      if (entry === undefined) return undefined;
      const manifest = root.kind === "index" ? await this.#manifest(entry.digest, entry.mediaType) : root;
      if (manifest.kind !== "manifest") return undefined;
      const bytes = await readBlob(this.#connection, manifest.config.digest, configLimitBytes);
      const { config, diffIds, architecture, os, createdAtMs } = parseConfig(bytes);
      const layersBytes = manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
      const image: Image = {
        id: manifest.config.digest,
        reference: name,
        digest: target.digest,
        config,
        sizeBytes: entry.size + manifest.config.size + layersBytes,
        chainId: chainIds(diffIds).at(-1) ?? "",
        createdAtMs,
        architecture,
        os,
      };
      this.#known.set(name, image);
      return image;
    } catch (error) {
      if (error instanceof ClusterError && error.code === "not-found") return undefined;
      throw error;
    }
  }

  async #manifest(digest: string, mediaType: string): Promise<Manifest> {
    return parseManifest(await readBlob(this.#connection, digest, manifestLimitBytes), mediaType);
  }
}
