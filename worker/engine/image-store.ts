/** What clients do with images beyond what a task needs: names, removal, sizes. */
import type { RegistryAuth } from "../../model/service.ts";
import type { Image } from "./engine.ts";
import type { ImageContent, ImageDetails } from "./image-details.ts";
import type { LoadedImage, NewImage } from "./store-image.ts";
import type { Descriptor } from "./manifest.ts";
import type { PushProgress } from "./push.ts";

export interface ImageStore {
  /** One for each image, whatever number of names it has; newest first. */
  list(): Promise<readonly StoredImage[]>;
  /** By image id, reference, `name@digest`, or a prefix of at least 4 digits of one image's id only. */
  find(reference: string): Promise<StoredImage | undefined>;
  /** What only its configuration says. */
  details(image: StoredImage): Promise<ImageDetails>;
  /** Those that are whole stay so until this is disposed of, whoever removes them meanwhile. */
  hold(images: readonly StoredImage[], signal: AbortSignal): Promise<HeldImages>;
  /**
   * An image that was made on this host becomes one of its own. A layer that is here already is not read.
   *
   * @throws {ClusterError} `data-loss` for layers that are not what its configuration says.
   */
  add(image: NewImage, signal: AbortSignal): Promise<LoadedImage>;
  /**
   * Whether a registry accepts the credentials.
   *
   * @param domain - Such as "docker.io" or "registry:5000".
   * @throws {ClusterError} `unauthenticated` when it does not; `unavailable`.
   */
  login(domain: string, auth: RegistryAuth, signal: AbortSignal): Promise<void>;
  /** The tags that the registry has of a repository; as `Engine.pull` for what it says. */
  tags(repository: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<readonly string[]>;
  /**
   * Gives an image a further name; another image that had it loses it.
   *
   * @throws {ClusterError} `not-found` for the source; `invalid-argument` for a target that is no tag.
   */
  tag(source: string, target: string): Promise<void>;
  /**
   * Sends an image to the registry of its name.
   *
   * @returns The manifest as the registry has it.
   * @throws {ClusterError} `not-found`, `unauthenticated`, `permission-denied`, `unavailable`.
   */
  push(reference: string, options: PushOptions, signal: AbortSignal): Promise<Descriptor>;
  /**
   * Images as one archive, an OCI layout that Docker reads as well. Settles before the first byte.
   *
   * @throws {ClusterError} `not-found` for any of them.
   */
  save(references: readonly string[], signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
  /**
   * The images of an archive, plain or gzipped; their content is verified before a name refers to it.
   *
   * @param report - Called with 12 digits of each layer that was not there.
   * @throws {ClusterError} `invalid-argument`, `data-loss`, `resource-exhausted`.
   */
  load(
    body: AsyncIterable<Buffer>,
    report: (layer: string) => void,
    signal: AbortSignal,
  ): Promise<readonly LoadedImage[]>;
  /** A root file system as an image of one layer; `config` is its configuration without the layer. */
  import(
    body: AsyncIterable<Buffer>,
    settings: { readonly config: object; readonly name: string },
    signal: AbortSignal,
  ): Promise<LoadedImage>;
  /**
   * Removes a name, or by id the image; content that nothing else needs is gone from the disk when it settles.
   *
   * @throws {ClusterError} `not-found`; `conflict` in Docker's words.
   */
  remove(reference: string, options: { readonly force: boolean }): Promise<RemovalOutcome>;
  /** Removes those images that no container uses and `select` wants. */
  prune(select: (image: StoredImage) => boolean): Promise<RemovalOutcome>;
}

export interface HeldImages extends AsyncDisposable {
  readonly contents: readonly ImageContent[];
}

export interface PushOptions {
  readonly auth?: RegistryAuth;
  readonly onProgress?: (progress: PushProgress) => void;
}

export interface StoredImage {
  /** Digest of the configuration. */
  readonly id: string;
  /** Under one of its names; equal in all but the name and the digest. */
  readonly image: Image;
  /** As users write them: "web:1". */
  readonly tags: readonly string[];
  /** "web@sha256:…", as registries know it; none for what was made here. */
  readonly digests: readonly string[];
  /** Lowest first. */
  readonly layers: readonly { readonly chainId: string; readonly diskBytes: number }[];
  /** Sum over the layers, unpacked. */
  readonly diskBytes: number;
  readonly taggedAtMs: number;
  /** Ids of containers made from it. */
  readonly containers: readonly string[];
}

export interface RemovalOutcome {
  readonly records: readonly Removal[];
  /** Disk that was given back by layers. */
  readonly reclaimedBytes: number;
}

export type Removal = { readonly untagged: string } | { readonly deleted: string };
