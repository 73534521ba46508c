import { ClusterError } from "../../model/errors.ts";
import type { Image } from "../../worker/engine/engine.ts";
import type { ImageDetails } from "../../worker/engine/image-details.ts";
import type { ImageStore, RemovalOutcome, StoredImage } from "../../worker/engine/image-store.ts";
import type { Descriptor } from "../../worker/engine/manifest.ts";
import { familiarName } from "../../worker/engine/reference.ts";

/** The images of a `FakeEngine` as clients see them; layers have no content. */
export class FakeImageStore implements ImageStore {
  readonly #images: Map<string, Image>;

  constructor(images: Map<string, Image>) {
    this.#images = images;
  }

  async list(): Promise<StoredImage[]> {
    const ids = new Set([...this.#images.values()].map(({ id }) => id));
    return [...ids].flatMap((id) => this.#stored(id) ?? []);
  }

  async find(reference: string): Promise<StoredImage | undefined> {
    const image = this.#images.get(reference);
    return image === undefined ? undefined : this.#stored(image.id);
  }

  async details({ image }: StoredImage): Promise<ImageDetails> {
    const none = { author: "", comment: "", variant: "", osVersion: "", dockerVersion: "" };
    return { ...none, diffIds: [image.chainId], history: [], config: { Env: image.config.env } };
  }

  async tag(source: string, target: string): Promise<void> {
    this.#images.set(target, { ...this.#require(source), reference: target });
  }

  async push(reference: string): Promise<Descriptor> {
    const { digest } = this.#require(reference);
    return { mediaType: "", digest, size: 1_000 };
  }

  async login(): Promise<void> {}

  async tags(): Promise<readonly string[]> {
    return [];
  }

  hold(): Promise<never> {
    return Promise.reject(noContent());
  }

  add(): Promise<never> {
    return Promise.reject(noContent());
  }

  save(): Promise<never> {
    return Promise.reject(noContent());
  }

  load(): Promise<never> {
    return Promise.reject(noContent());
  }

  import(): Promise<never> {
    return Promise.reject(noContent());
  }

  async remove(reference: string): Promise<RemovalOutcome> {
    const { id } = this.#require(reference);
    this.#images.delete(reference);
    const records = [{ untagged: reference }];
    return {
      records: this.#stored(id) === undefined ? [...records, { deleted: id }] : records,
      reclaimedBytes: 0,
    };
  }

  async prune(select: (image: StoredImage) => boolean): Promise<RemovalOutcome> {
    const removed = (await this.list()).filter(select);
    for (const { image } of removed) this.#images.delete(image.reference);
    return { records: removed.map(({ id }) => ({ deleted: id })), reclaimedBytes: 0 };
  }

  #require(reference: string): Image {
    const image = this.#images.get(reference);
    if (image === undefined) throw new ClusterError("not-found", `No such image: ${reference}`);
    return image;
  }

  #stored(id: string): StoredImage | undefined {
    const group = [...this.#images.values()].filter((image) => image.id === id);
    const [image] = group;
    if (image === undefined) return undefined;
    const names = group.map(({ reference }) => familiarName(reference));
    const diskBytes = image.sizeBytes;
    return {
      id,
      image,
      tags: names.filter((name) => !name.includes("@")),
      digests: names.map((name) => `${name.replace(/[:@][^/]*$/, "")}@${image.digest}`),
      layers: [{ chainId: image.chainId, diskBytes }],
      diskBytes,
      taggedAtMs: 0,
      containers: [],
    };
  }
}

function noContent(): ClusterError {
  return new ClusterError("unimplemented", "these images have no content");
}
