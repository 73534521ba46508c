/** The image store over containerd: names, removal and sizes of what `images.ts` finds. */
import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import type { Connection } from "./connection.ts";
import type { EngineEvent, Image } from "./engine.ts";
import { type ImageContent, type ImageDetails, parseDetails } from "./image-details.ts";
import { type ImageName, isSameImage, isUntagged, untaggedName } from "./image-names.ts";
import { type ImageTag, planRemoval } from "./image-removal.ts";
import type { Descriptor } from "./manifest.ts";
import type {
  HeldImages,
  ImageStore,
  PushOptions,
  Removal,
  RemovalOutcome,
  StoredImage,
} from "./image-store.ts";
import type { Images } from "./images.ts";
import { importImage, loadImages } from "./load.ts";
import { familiarName, parseReference, printReference } from "./reference.ts";
import { releasePlatform } from "./pull.ts";
import { saveImages } from "./save.ts";
import { type LoadedImage, type NewImage, type StoreDeps, storeNewImage } from "./store-image.ts";
import { chainIds, snapshotExists, snapshotUsage } from "./snapshots.ts";
import { spoolArchive, spoolFile } from "./spool.ts";

export interface ContainerdImagesDeps {
  readonly connection: Connection;
  readonly images: Images;
  /** For archives while they are read. */
  readonly directory: string;
  /** Containers made from an image. */
  readonly users: (imageId: string) => readonly { readonly id: string; readonly running: boolean }[];
  readonly emit: (event: Omit<Extract<EngineEvent, { kind: "image" }>, "kind" | "atMs">) => void;
}

interface Group {
  readonly id: string;
  readonly names: readonly { readonly name: ImageName; readonly image: Image }[];
}

export class ContainerdImages implements ImageStore {
  readonly #deps: ContainerdImagesDeps;
  /** Sizes of layers on disk; a layer never changes. */
  readonly #layerBytes = new Map<string, number>();

  constructor(deps: ContainerdImagesDeps) {
    this.#deps = deps;
  }

  async list(): Promise<StoredImage[]> {
    const stored = await Promise.all((await this.#groups()).map((group) => this.#stored(group)));
    return stored.toSorted((a, b) => b.image.createdAtMs - a.image.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  async find(reference: string): Promise<StoredImage | undefined> {
    const image = await this.#deps.images.find(reference);
    if (image === undefined) return undefined;
    const group = (await this.#groups()).find(({ id }) => id === image.id);
    return group === undefined ? undefined : this.#stored(group);
  }

  async details({ image }: StoredImage): Promise<ImageDetails> {
    const { configBytes } = await this.#deps.images.content(image);
    return parseDetails(configBytes);
  }

  async tag(source: string, target: string): Promise<void> {
    const { images, emit } = this.#deps;
    const reference = parseReference(target);
    if (reference.digest !== undefined)
      throw new ClusterError("invalid-argument", "refusing to create a tag with a digest reference");
    if (/^[0-9a-f]{64}$/.test(target)) {
      throw new ClusterError(
        "invalid-argument",
        `invalid repository name (${target}), cannot specify 64-byte hexadecimal strings`,
      );
    }
    const { image } = await this.#require(source);
    const from = await images.names.get(image.reference);
    if (from === undefined) throw noSuchImage(source);
    const name = printReference(reference);
    const held = await images.names.get(name);
    // The same content keeps what a registry has said of this name.
    if (held === undefined || !isSameImage(held, from))
      await images.names.put({ ...from, name, local: true });
    emit({ action: "tag", id: image.id, reference: name });
  }

  login(domain: string, auth: RegistryAuth, signal: AbortSignal): Promise<void> {
    return this.#deps.images.login(domain, auth, signal);
  }

  tags(repository: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<readonly string[]> {
    return this.#deps.images.tags(repository, auth, signal);
  }

  hold(images: readonly StoredImage[], signal: AbortSignal): Promise<HeldImages> {
    return this.#deps.images.hold(
      images.map(({ image }) => image),
      signal,
    );
  }

  add(image: NewImage, signal: AbortSignal): Promise<LoadedImage> {
    return storeNewImage(this.#storeDeps(), image, () => undefined, signal);
  }

  async push(reference: string, options: PushOptions, signal: AbortSignal): Promise<Descriptor> {
    const { images, emit } = this.#deps;
    const pushed = await images.push(reference, options, signal);
    const name = familiarName(printReference(parseReference(reference)));
    emit({ action: "push", id: name, reference: name });
    return pushed;
  }

  async save(references: readonly string[], signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const { connection, images } = this.#deps;
    const saved = new Map<string, { content: ImageContent; names: string[] }>();
    for (const asked of references) {
      const found = await this.#named(asked);
      for (const { image, isNamed } of found) {
        const before = saved.get(image.id) ?? { content: await images.content(image), names: [] };
        if (isNamed && !before.names.includes(image.reference)) before.names.push(image.reference);
        saved.set(image.id, before);
      }
    }
    for (const [id, { names }] of saved) this.#deps.emit({ action: "save", id, reference: names[0] ?? id });
    return saveImages(connection, [...saved.values()], signal);
  }

  async load(
    body: AsyncIterable<Buffer>,
    report: (layer: string) => void,
    signal: AbortSignal,
  ): Promise<readonly LoadedImage[]> {
    const { directory, emit } = this.#deps;
    await using spool = await spoolArchive(directory, body, signal);
    const loaded = await loadImages(this.#storeDeps(), spool, report, signal);
    for (const { id, names } of loaded) emit({ action: "load", id, reference: names[0] ?? id });
    return loaded;
  }

  async import(
    body: AsyncIterable<Buffer>,
    { config, name }: { readonly config: object; readonly name: string },
    signal: AbortSignal,
  ): Promise<LoadedImage> {
    const { directory, emit } = this.#deps;
    await using spooled = await spoolFile(directory, body, signal);
    const names = name === "" ? [] : [printReference(parseReference(name))];
    const made = await importImage(this.#storeDeps(), spooled.file, { config, names }, signal);
    emit({ action: "import", id: made.id, reference: made.id });
    return made;
  }

  /** An image by id or name; a repository without a tag stands for all of its tags. */
  async #named(asked: string): Promise<{ image: Image; isNamed: boolean }[]> {
    const { images } = this.#deps;
    const isBare = !asked.includes("@") && !asked.slice(asked.lastIndexOf("/") + 1).includes(":");
    if (isBare && !/^[0-9a-f]{64}$/.test(asked)) {
      const { domain, path } = parseReference(asked);
      const all = await images.list();
      const own = all.filter(({ reference }) => reference.startsWith(`${domain}/${path}:`));
      if (own.length > 0) return own.map((image) => ({ image, isNamed: true }));
    }
    const { image, by } = await this.#require(asked);
    return [{ image, isNamed: by === "name" && !image.reference.includes("@") }];
  }

  remove(asked: string, { force }: { readonly force: boolean }): Promise<RemovalOutcome> {
    return this.#remove(asked, force ? "forced" : "careful");
  }

  /** @param how - "unused" takes all names, if no container uses the image. */
  async #remove(asked: string, how: "careful" | "forced" | "unused"): Promise<RemovalOutcome> {
    const { images, users, emit } = this.#deps;
    const { image, by } = await this.#require(asked);
    const group = (await this.#groups()).find(({ id }) => id === image.id);
    if (group === undefined) throw noSuchImage(asked);
    const { layers } = await this.#stored(group);
    const contents = await Promise.all(group.names.map((each) => images.content(each.image)));
    const tags = tagsOf(group);
    const named = by === "id" ? undefined : tagOf(printReference(parseReference(asked)));
    // Right before the first name goes: a container may have been made of it while all that was read.
    const using = users(image.id);
    if (how === "unused" && using.length > 0)
      throw new ClusterError("conflict", `image ${image.id} is being used by a container`);
    const force = how !== "careful";
    const plan = planRemoval({ asked, named, id: image.id, tags, users: using, force });
    const records: Removal[] = plan.untag.map(({ text }) => ({ untagged: text }));
    if (plan.image === "orphaned") {
      const [first] = group.names;
      if (first !== undefined) await images.names.put({ ...first.name, name: untaggedName(first.name) });
    }
    const gone = new Set(plan.untag.map(({ text }) => text));
    for (const { name } of group.names) {
      if (isUntagged(name.name)) continue;
      const { text } = tagOf(name.name);
      if (gone.has(text)) await images.names.delete(name.name, "later");
      else if (gone.has(digestTag(name)?.text ?? "")) await images.names.put({ ...name, local: true });
    }
    for (const { text } of plan.untag) emit({ action: "untag", id: image.id, reference: text });
    if (plan.image !== "deleted") return { records, reclaimedBytes: 0 };
    for (const { name } of group.names) await images.names.delete(name.name, "later");
    // Where the index stays, for another platform's sake, it lets go of this one.
    for (const { root, manifest } of contents) await releasePlatform(this.#deps.connection, root, manifest);
    await images.collect();
    emit({ action: "delete", id: image.id, reference: image.id });
    records.push({ deleted: image.id });
    let reclaimedBytes = 0;
    for (const { chainId, diskBytes } of layers.toReversed()) {
      if (await snapshotExists(this.#deps.connection, chainId)) continue;
      records.push({ deleted: chainId });
      this.#layerBytes.delete(chainId);
      reclaimedBytes += diskBytes;
    }
    return { records, reclaimedBytes };
  }

  async prune(select: (image: StoredImage) => boolean): Promise<RemovalOutcome> {
    const records: Removal[] = [];
    let reclaimedBytes = 0;
    await this.#deps.images.forgetPulls();
    for (const stored of await this.list()) {
      if (this.#deps.users(stored.id).length > 0 || !select(stored)) continue;
      try {
        const outcome = await this.#remove(stored.id, "unused");
        records.push(...outcome.records);
        reclaimedBytes += outcome.reclaimedBytes;
      } catch (error) {
        // Removed meanwhile, or a container came to use it: both are fine.
        if (!(error instanceof ClusterError) || !["not-found", "conflict"].includes(error.code)) throw error;
      }
    }
    return { records, reclaimedBytes };
  }

  #storeDeps(): StoreDeps {
    const { connection, images } = this.#deps;
    return { connection, names: images.names, layers: images.layers };
  }

  async #require(text: string): Promise<{ readonly image: Image; readonly by: "id" | "name" }> {
    const found = await this.#deps.images.lookUp(text);
    if (found === undefined) throw noSuchImage(text);
    return found;
  }

  async #groups(): Promise<Group[]> {
    const { images } = this.#deps;
    const groups = new Map<string, { name: ImageName; image: Image }[]>();
    const [names, all] = await Promise.all([images.names.list(), images.list()]);
    const byName = new Map(all.map((image) => [image.reference, image]));
    for (const name of names) {
      const image = byName.get(name.name);
      if (image !== undefined) groups.set(image.id, [...(groups.get(image.id) ?? []), { name, image }]);
    }
    return [...groups].map(([id, members]) => ({ id, names: members }));
  }

  async #stored(group: Group): Promise<StoredImage> {
    const [first] = group.names;
    if (first === undefined) throw noSuchImage(group.id);
    const { configBytes } = await this.#deps.images.content(first.image);
    const chain = chainIds(parseDetails(configBytes).diffIds);
    const layers = await Promise.all(
      chain.map(async (chainId) => ({ chainId, diskBytes: await this.#bytesOf(chainId) })),
    );
    const tags = tagsOf(group);
    return {
      id: group.id,
      image: first.image,
      tags: tags.filter(({ kind }) => kind === "tag").map(({ text }) => text),
      digests: tags.filter(({ kind }) => kind === "digest").map(({ text }) => text),
      layers,
      diskBytes: layers.reduce((sum, { diskBytes }) => sum + diskBytes, 0),
      taggedAtMs: Math.max(...group.names.map(({ name }) => name.taggedAtMs)),
      containers: this.#deps.users(group.id).map(({ id }) => id),
    };
  }

  async #bytesOf(chainId: string): Promise<number> {
    const known = this.#layerBytes.get(chainId);
    if (known !== undefined) return known;
    const bytes = await snapshotUsage(this.#deps.connection, chainId);
    if (bytes > 0) this.#layerBytes.set(chainId, bytes);
    return bytes;
  }
}

/** Docker's words, with the tag that it would have looked for. */
export function noSuchImage(text: string): ClusterError {
  const isId = /^sha256:[0-9a-f]+$/.test(text);
  const name = isId ? text : familiarName(printReference(parseReference(text)));
  return new ClusterError("not-found", `No such image: ${name}`);
}

function tagOf(reference: string): ImageTag {
  const { domain, path, digest } = parseReference(reference);
  return {
    text: familiarName(reference),
    repository: `${domain}/${path}`,
    kind: digest === undefined ? "tag" : "digest",
  };
}

/** What the registry calls the content of a tag that came from it. */
function digestTag({ name, target, local }: ImageName): ImageTag | undefined {
  const { domain, path, digest } = parseReference(name);
  if (local || digest !== undefined) return undefined;
  return tagOf(printReference({ domain, path, digest: target.digest }));
}

function tagsOf(group: Group): ImageTag[] {
  const all = group.names
    .filter(({ name }) => !isUntagged(name.name))
    .flatMap(({ name }) => [tagOf(name.name), digestTag(name)])
    .filter((tag) => tag !== undefined);
  const byText = new Map(all.map((tag) => [tag.text, tag]));
  return [...byText.values()].toSorted((a, b) => (a.text < b.text ? -1 : 1));
}
