/** The images of this host: names in containerd, their configurations, pulls in flight. */
import { randomUUID } from "node:crypto";

import { ClusterError } from "../../model/errors.ts";
import type { Platform, RegistryAuth } from "../../model/service.ts";
import { Limit } from "../../runtime/limit.ts";
import { orAborted } from "../../runtime/signal.ts";
import { readBlob } from "./blobs.ts";
import { type Connection, toEngineError } from "./connection.ts";
import type { Distribution, Image, PullOptions, PullProgress } from "./engine.ts";
import type { ImageContent } from "./image-details.ts";
import { type ImageName, ImageNames, isSameImage, isUntagged, untaggedName } from "./image-names.ts";
import type { HeldImages, PushOptions } from "./image-store.ts";
import { holdInLease, openLease } from "./leases.ts";
import {
  chooseEntry,
  configLimitBytes,
  type Descriptor,
  type Manifest,
  type WantedPlatform,
  manifestLimitBytes,
  parseConfig,
  parseManifest,
  parsePlatform,
  platformsOf,
  printPlatform,
} from "./manifest.ts";
import { fetchManifest, forgetPulls, type PullDeps, pullImage } from "./pull.ts";
import { pushImage } from "./push.ts";
import { familiarName, parseReference, printReference, type Reference } from "./reference.ts";
import { readBody } from "./registry-answers.ts";
import { Registry } from "./registry.ts";
import type { RegistrySettings } from "./registry-hosts.ts";
import { digestOf } from "./save.ts";
import { RoomCheck } from "./room.ts";
import { chainIds, snapshotExists } from "./snapshots.ts";
import { Turns } from "../../runtime/turns.ts";

const parallelDownloads = 4;
const shortestIdDigits = 4;
const wholeIdDigits = 64;

const loopback = ["127.0.0.0/8", "::1/128", "localhost"];

interface RunningPull {
  readonly result: Promise<PullOutcome>;
  readonly listeners: Set<(progress: PullProgress) => void>;
  readonly cancel: AbortController;
  /** What whoever joins later has missed, and needs. */
  resolved: (PullProgress & { readonly kind: "resolved" }) | undefined;
  waiting: number;
}

interface PullOutcome {
  readonly image: Image;
  readonly changed: boolean;
}

export interface ImagesDeps {
  readonly connection: Connection;
  readonly registries: RegistrySettings;
  readonly platform: Platform;
  /** On the disk that containerd stores on. */
  readonly directory: string;
}

export class Images {
  readonly names: ImageNames;
  /**
   * Layers being stored or unpacked, by whomever. Whoever had to wait does it as well: then it is there, and doing it only adds it to
   * the caller's lease. So the failure or cancelling of one never fails another.
   */
  readonly layers = new Turns();
  readonly #connection: Connection;
  readonly #platform: Platform;
  readonly #registry: Registry;
  readonly #pullDeps: PullDeps;
  /** By name; an entry is used only while the name still has its digest. */
  readonly #known = new Map<string, Image & { readonly platform: string }>();
  readonly #pulls = new Map<string, RunningPull>();

  constructor({ connection, registries, platform, directory }: ImagesDeps) {
    this.#connection = connection;
    this.names = new ImageNames(connection);
    this.#platform = platform;
    // As Docker has it: what is on this host itself needs no TLS.
    const insecure = [...registries.insecure, ...loopback];
    this.#registry = new Registry({ ...registries, insecure });
    this.#pullDeps = {
      connection,
      names: this.names,
      registry: this.#registry,
      downloads: new Limit(parallelDownloads),
      layers: this.layers,
      room: new RoomCheck(directory),
      leases: new Set(),
    };
  }

  /** `changed` is false when the registry had nothing new. */
  async pull(text: string, options: PullOptions, signal: AbortSignal): Promise<PullOutcome> {
    const { auth, onProgress } = options;
    const platform = options.platform ?? this.#platform;
    const reference = parseReference(text);
    if (reference.digest !== undefined) {
      const present = await this.find(text);
      if (present !== undefined && isFor(present, platform) && (await this.#isUnpacked(present))) {
        onProgress?.({ kind: "resolved", reference: present.reference, digest: present.digest });
        onProgress?.({ kind: "done", changed: false });
        return { image: present, changed: false };
      }
    }
    // Credentials are part of the key: who may not pull an image must not be handed another's pull.
    const key = JSON.stringify([printReference(reference), auth ?? null, platform]);
    const running = this.#pulls.get(key) ?? this.#begin(key, text, auth, platform);
    if (onProgress !== undefined) {
      if (running.resolved !== undefined) onProgress(running.resolved);
      running.listeners.add(onProgress);
    }
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

  /** By image id, reference, `name@digest`, or a prefix of an id that no other image has. */
  async find(text: string): Promise<Image | undefined> {
    return (await this.lookUp(text))?.image;
  }

  /** As `find`, and what the text was. */
  async lookUp(text: string): Promise<{ readonly image: Image; readonly by: "id" | "name" } | undefined> {
    const hex = /^(?:sha256:)?([0-9a-f]+)$/.exec(text)?.[1] ?? "";
    const isId = text.startsWith("sha256:");
    const whole = isId || hex.length === wholeIdDigits ? await this.#withId(hex) : undefined;
    if (whole !== undefined) return { image: whole, by: "id" };
    if (isId) return undefined;
    const named = await this.#named(text);
    if (named !== undefined) return { image: named, by: "name" };
    const short = await this.#withId(hex);
    return short === undefined ? undefined : { image: short, by: "id" };
  }

  /** Undefined where a prefix is too short, or fits several images. */
  async #withId(hex: string): Promise<Image | undefined> {
    if (hex.length < shortestIdDigits) return undefined;
    const fitting = (await this.list()).filter(({ id }) => id.startsWith(`sha256:${hex}`));
    return new Set(fitting.map(({ id }) => id)).size === 1 ? fitting[0] : undefined;
  }

  async #named(text: string): Promise<Image | undefined> {
    const reference = parseReference(text);
    const name = printReference(reference);
    const named = await this.names.get(name);
    if (named !== undefined) return this.#load(named);
    if (reference.digest === undefined) return undefined;
    // Pulled by tag, wanted by digest: the same repository and content under another name.
    const repository = `${reference.domain}/${reference.path}`;
    const same = (image: Image): boolean =>
      image.digest === reference.digest && image.reference.replace(/[:@][^/]*$/, "") === repository;
    for (const image of this.#known.values()) {
      if (same(image) && (await this.names.get(image.reference))?.target.digest === image.digest)
        return image;
    }
    return (await this.list()).find(same);
  }

  /** One for each name. */
  async list(): Promise<Image[]> {
    try {
      const loaded = await Promise.all((await this.names.list()).map((name) => this.#load(name)));
      return loaded.filter((image) => image !== undefined);
    } catch (error) {
      throw toEngineError(error, "cannot list images");
    }
  }

  /** @throws {ClusterError} `not-found` when part of it is gone. */
  async content({ digest, reference }: Image): Promise<ImageContent> {
    const named = await this.names.get(reference);
    if (named === undefined || named.target.digest !== digest)
      throw new ClusterError("not-found", `No such image: ${reference}`);
    return this.#content(named);
  }

  /**
   * Sends an image to its registry, whose word on the name then counts.
   *
   * @throws {ClusterError} `not-found`; as `pull` for what the registry says.
   */
  async push(text: string, { auth, onProgress }: PushOptions, signal: AbortSignal): Promise<Descriptor> {
    const reference = parseReference(text);
    if (reference.digest !== undefined)
      throw new ClusterError("invalid-argument", "cannot push a digest reference");
    const name = printReference(reference);
    const named = await this.names.get(name);
    if (named === undefined) {
      const repository = familiarName(`${reference.domain}/${reference.path}`);
      throw new ClusterError("not-found", `An image does not exist locally with the tag: ${repository}`);
    }
    await using lease = await openLease(this.#connection, signal);
    const content = await this.#hold(lease.id, named);
    const holders = await this.#holders(reference);
    const deps = { connection: this.#connection, registry: this.#registry, holders };
    const pushed = await pushImage(
      deps,
      { reference, content, auth },
      onProgress ?? (() => undefined),
      signal,
    );
    const now = await this.names.get(name);
    if (now === undefined || !isSameImage(now, named)) return pushed; // Removed, or another's, meanwhile.
    // Of an index, the registry has this one platform under the name from now on.
    if (pushed.digest !== named.target.digest) {
      await this.names.put({ name, target: pushed, local: false, platform: "" });
      await this.names.delete(untaggedName(named), "later");
    } else if (named.local) await this.names.put({ ...named, local: false });
    return pushed;
  }

  /** Those images that are whole stay so until this is disposed of, whoever removes them. */
  async hold(images: readonly Image[], signal: AbortSignal): Promise<HeldImages> {
    const lease = await openLease(this.#connection, signal);
    try {
      const contents: ImageContent[] = [];
      for (const { reference, digest } of images) {
        const named = await this.names.get(reference);
        if (named?.target.digest !== digest) continue;
        const content = await this.#hold(lease.id, named).catch(undefinedIfMissing);
        if (content !== undefined) contents.push(content);
      }
      return { contents, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
    } catch (error) {
      await lease[Symbol.asyncDispose]();
      throw toEngineError(error, "cannot hold images");
    }
  }

  async #hold(lease: string, named: ImageName): Promise<ImageContent> {
    // All that an image has is referred to from there; an index may let go of one platform.
    await holdInLease(this.#connection, lease, { type: "content", id: named.target.digest });
    const content = await this.#content(named);
    await holdInLease(this.#connection, lease, { type: "content", id: content.manifest.digest });
    return content;
  }

  /** Which other repository of the same registry has a layer, by digest. */
  async #holders({ domain, path }: Reference): Promise<Map<string, string>> {
    const holders = new Map<string, string>();
    for (const named of await this.names.list()) {
      if (named.local || isUntagged(named.name)) continue;
      const other = parseReference(named.name);
      if (other.domain !== domain || other.path === path) continue;
      const content = await this.#content(named).catch(undefinedIfMissing);
      for (const { digest } of content?.layers ?? []) holders.set(digest, other.path);
    }
    return holders;
  }

  /** What interrupted pulls downloaded goes from the disk. */
  async forgetPulls(): Promise<void> {
    try {
      await forgetPulls(this.#pullDeps);
    } catch (error) {
      throw toEngineError(error, "cannot give back disk");
    }
  }

  /** Settles once what no name or lease holds any more is gone from the disk. */
  async collect(): Promise<void> {
    const { leases } = this.#connection;
    // Any synchronous removal runs containerd's collector; a lease of nothing is the cheapest to remove.
    const id = `shoal-collect-${randomUUID()}`;
    try {
      await this.#connection.call(leases, "create", { id, labels: {} });
      await this.#connection.call(leases, "delete", { id, sync: true });
    } catch (error) {
      throw toEngineError(error, "cannot give back disk");
    }
  }

  async resolve(text: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Distribution> {
    const reference = parseReference(text);
    const { manifest, descriptor } = await fetchManifest(this.#registry, reference, auth, signal);
    if (manifest.kind === "index") return { descriptor, platforms: platformsOf(manifest.manifests) };
    const { digest } = manifest.config;
    const response = await this.#registry.blob(reference, digest, 0, auth, signal);
    const bytes = await readBody(response, configLimitBytes);
    if (digestOf(bytes) !== digest)
      throw new ClusterError(
        "data-loss",
        `configuration of ${reference.path}: other content came for ${digest}`,
      );
    const { architecture, os, variant } = parseConfig(bytes);
    return { descriptor, platforms: [{ architecture, os, ...(variant !== undefined && { variant }) }] };
  }

  tags(repository: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<string[]> {
    return this.#registry.tags(parseReference(repository), auth, signal);
  }

  /** @throws {ClusterError} `unauthenticated`, `unavailable`. */
  login(domain: string, auth: RegistryAuth, signal: AbortSignal): Promise<void> {
    return this.#registry.login(domain, auth, signal);
  }

  close(): void {
    for (const { cancel } of this.#pulls.values())
      cancel.abort(new ClusterError("unavailable", "the engine is closed"));
    this.#registry.close();
  }

  #begin(key: string, text: string, auth: RegistryAuth | undefined, platform: WantedPlatform): RunningPull {
    const cancel = new AbortController();
    const listeners = new Set<(progress: PullProgress) => void>();
    const report = (progress: PullProgress): void => {
      if (progress.kind === "resolved") running.resolved = progress;
      for (const listener of listeners) listener(progress);
    };
    const result = this.#pull({ text, auth, platform }, report, cancel.signal).finally(() => {
      if (this.#pulls.get(key) === running) this.#pulls.delete(key);
    });
    // Those who wait have it; when all of them gave up nobody does.
    result.catch(() => {});
    const running: RunningPull = { result, listeners, cancel, resolved: undefined, waiting: 0 };
    this.#pulls.set(key, running);
    return running;
  }

  async #pull(
    {
      text,
      auth,
      platform,
    }: { readonly text: string; readonly auth: RegistryAuth | undefined; readonly platform: WantedPlatform },
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<PullOutcome> {
    const reference = parseReference(text);
    const name = printReference(reference);
    const before = await this.names.get(name);
    const present = before === undefined ? undefined : await this.#load(before);
    const isWhole = present !== undefined && (await this.#isUnpacked(present));
    if (before !== undefined && isWhole && isFor(present, platform)) {
      const remote = await this.#registry.head(reference, auth, signal);
      if (remote.digest === present.digest) {
        report({ kind: "resolved", reference: name, digest: present.digest });
        if (before.local) await this.names.put({ ...before, local: false });
        return { image: present, changed: false };
      }
    }
    try {
      const isOwn = printPlatform(platform) === printPlatform(this.#platform);
      const target = { reference, name, auth, platform, label: isOwn ? "" : printPlatform(platform) };
      await pullImage(this.#pullDeps, target, report, signal);
    } catch (error) {
      throw toEngineError(error, `cannot pull ${text}`);
    }
    this.#known.delete(name);
    const named = await this.names.get(name);
    const image = named === undefined ? undefined : await this.#load(named);
    if (image === undefined) throw new ClusterError("internal", `cannot pull ${text}: its content vanished`);
    // What fits best may be what was here.
    return { image, changed: !isWhole || image.id !== present.id || image.digest !== present.digest };
  }

  /** Undefined when parts of it are missing, such as those of another platform: then it must be pulled. */
  async #load(named: ImageName): Promise<Image | undefined> {
    const { name, target, platform } = named;
    const known = this.#known.get(name);
    if (known?.digest === target.digest && known.platform === platform) return known;
    try {
      const { manifest, config: configDescriptor, layers, configBytes } = await this.#content(named);
      const { config, diffIds, architecture, os, variant, createdAtMs } = parseConfig(configBytes);
      const layersBytes = layers.reduce((sum, layer) => sum + layer.size, 0);
      const image: Image = {
        id: configDescriptor.digest,
        reference: name,
        digest: target.digest,
        config,
        sizeBytes: manifest.size + configDescriptor.size + layersBytes,
        chainId: chainIds(diffIds).at(-1) ?? "",
        createdAtMs,
        architecture,
        os,
        ...(variant !== undefined && { variant }),
      };
      this.#known.set(name, { ...image, platform });
      return image;
    } catch (error) {
      if (error instanceof ClusterError && error.code === "not-found") return undefined;
      throw error;
    }
  }

  /** Whether containers can be made of it. One whose layers were lost is pulled again from the beginning. */
  async #isUnpacked({ chainId, reference }: Image): Promise<boolean> {
    try {
      return chainId === "" || (await snapshotExists(this.#connection, chainId));
    } catch (error) {
      throw toEngineError(error, `cannot look up the layers of ${reference}`);
    }
  }

  async #content({ name, target, platform }: ImageName): Promise<ImageContent> {
    const root = await this.#manifest(target.digest, target.mediaType);
    const wanted = platform === "" ? this.#platform : parsePlatform(platform);
    const entry = root.kind === "index" ? chooseEntry(root.manifests, wanted) : target;
    if (entry === undefined)
      throw new ClusterError("not-found", `image ${name} has no part for ${printPlatform(wanted)}`);
    const manifest = root.kind === "index" ? await this.#manifest(entry.digest, entry.mediaType) : root;
    if (manifest.kind !== "manifest")
      throw new ClusterError("not-found", `image ${name} is an index within an index`);
    const { config, layers } = manifest;
    const { mediaType, digest, size } = entry;
    return {
      root: target,
      manifest: { mediaType, digest, size },
      config,
      layers,
      configBytes: await readBlob(this.#connection, config.digest, configLimitBytes),
    };
  }

  async #manifest(digest: string, mediaType: string): Promise<Manifest> {
    return parseManifest(await readBlob(this.#connection, digest, manifestLimitBytes), mediaType);
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (error instanceof ClusterError && error.code === "not-found") return undefined;
  throw error;
}

/** Whether the registry need not be asked for a part that fits better. */
function isFor(image: Image, { os, architecture, variant }: WantedPlatform): boolean {
  const isKind = image.os === os && image.architecture === architecture;
  return isKind && (variant === undefined || (image.variant ?? variant) === variant);
}
