/** The names of images in containerd. An image whose last name moves on keeps one that nobody typed. */
import type { Image as NamedImage } from "../../proto/gen/containerd/images.ts";
import { type Connection, isAlreadyThere, isNotFound, toEngineError, unlessGone } from "./connection.ts";
import type { Descriptor } from "./manifest.ts";

/** Domain of the names that keep untagged images; RFC 2606 keeps it from being anybody's registry. */
const untaggedDomain = "untagged.invalid";
/** Names that were given here, by `tag`, `load` or a build, have this label: no registry has vouched for them. */
const localLabel = "shoal.local";
/** "os/architecture[/variant]" of an image that was pulled for a platform other than the host's. */
const platformLabel = "shoal.platform";

export interface ImageName {
  readonly name: string;
  readonly target: Descriptor;
  readonly local: boolean;
  /** Empty for the host's own. */
  readonly platform: string;
  readonly taggedAtMs: number;
}

export type NewImageName = Omit<ImageName, "taggedAtMs">;

/** @param platform - Empty for the host's own: an index stands for one image of each platform. */
export function untaggedName({ target, platform }: Pick<ImageName, "target" | "platform">): string {
  const path = platform === "" ? "image" : `image/${platform}`;
  return `${untaggedDomain}/${path}@${target.digest}`;
}

export function isUntagged(name: string): boolean {
  return name.startsWith(`${untaggedDomain}/`);
}

export class ImageNames {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  async get(name: string): Promise<ImageName | undefined> {
    const { images } = this.#connection;
    try {
      const { image } = await this.#connection.call(images, "get", { name });
      return image === undefined ? undefined : parse(image);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw toEngineError(error, `cannot look up image ${name}`);
    }
  }

  async list(): Promise<ImageName[]> {
    const { images } = this.#connection;
    try {
      const { images: named } = await this.#connection.call(images, "list", { filters: [] });
      return named.map(parse).filter((name) => name !== undefined);
    } catch (error) {
      throw toEngineError(error, "cannot list images");
    }
  }

  /** Gives the name to an image. The one that had it, and has no other, stays as untagged. */
  async put(wanted: NewImageName): Promise<void> {
    const all = await this.list();
    const before = all.find(({ name }) => name === wanted.name);
    if (before !== undefined && !isSameImage(before, wanted) && !isUntagged(before.name)) {
      const others = all.filter((other) => other.name !== before.name && isSameImage(other, before));
      if (others.length === 0) await this.#write({ ...before, name: untaggedName(before) });
    }
    await this.#write(wanted);
    if (!isUntagged(wanted.name)) await this.delete(untaggedName(wanted), "later");
  }

  /** @param collection - Whether the call waits until what only this name held is gone from the disk. */
  async delete(name: string, collection: "now" | "later"): Promise<void> {
    const { images } = this.#connection;
    try {
      await unlessGone(this.#connection.call(images, "delete", { name, sync: collection === "now" }));
    } catch (error) {
      throw toEngineError(error, `cannot remove image ${name}`);
    }
  }

  async #write({ name, target, local, platform }: NewImageName): Promise<void> {
    const { images } = this.#connection;
    const labels = {
      ...(local && { [localLabel]: "yes" }),
      ...(platform !== "" && { [platformLabel]: platform }),
    };
    const image = { name, labels, target: { ...target }, createdAt: undefined, updatedAt: undefined };
    try {
      await this.#connection.call(images, "create", { image });
    } catch (error) {
      if (!isAlreadyThere(error)) throw toEngineError(error, `cannot name image ${name}`);
      await this.#connection.call(images, "update", { image, updateMask: ["target", "labels"] });
    }
  }
}

/** Of one index, each platform is another image. */
export function isSameImage(a: NewImageName, b: NewImageName): boolean {
  return a.target.digest === b.target.digest && a.platform === b.platform;
}

function parse({ name, target, labels, updatedAt }: NamedImage): ImageName | undefined {
  if (target === undefined) return undefined;
  const taggedAtMs =
    updatedAt === undefined ? 0 : updatedAt.seconds * 1_000 + Math.floor(updatedAt.nanos / 1e6);
  const { mediaType, digest, size } = target;
  const local = labels[localLabel] !== undefined;
  return {
    name,
    target: { mediaType, digest, size },
    local,
    platform: labels[platformLabel] ?? "",
    taggedAtMs,
  };
}
