/** What buildah built becomes an image of this host. */
import { createReadStream } from "node:fs";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { parseDetails } from "../engine/image-details.ts";
import type { HeldImages, ImageStore, StoredImage } from "../engine/image-store.ts";
import { type Descriptor, manifestLimitBytes, parseConfig, parseManifest } from "../engine/manifest.ts";
import { digestOf } from "../engine/save.ts";
import type { LayerPart, LoadedImage } from "../engine/store-image.ts";
import type { Buildah } from "./buildah.ts";

export interface ExportDeps {
  readonly buildah: Buildah;
  readonly imageStore: ImageStore;
}

export interface Export {
  /** For the layout. */
  readonly work: string;
  /** Buildah's id of the image, as 64 digits. */
  readonly built: string;
  /** Full names that the image gets. */
  readonly names: readonly string[];
  readonly bases: readonly StoredImage[];
}

/**
 * Layers that this host has already, those of the base images and of the images that had the names before, are not
 * packed again: an empty file stands for each of them in the layout, which buildah takes for the layer.
 */
export async function exportImage(
  { buildah, imageStore }: ExportDeps,
  { work, built, names, bases }: Export,
  signal: AbortSignal,
): Promise<LoadedImage> {
  // Not packed again, so they have to be here until the new image has them.
  await using held = await hold(imageStore, bases, names, signal);
  const known = knownLayers(held);
  const layout = join(work, "image");
  const blobs = join(layout, "blobs", "sha256");
  await mkdir(blobs, { recursive: true });
  for (const diffId of known.keys()) await writeFile(join(blobs, hexOf(diffId)), "");
  const args = ["push", "-q", "--signature-policy", buildah.policyFile, built, `oci:${layout}:built`];
  await buildah.must("take over the built image", { args, temporary: work }, signal);

  const index = parseManifest(await read(join(layout, "index.json"), manifestLimitBytes), "");
  const [entry] = index.kind === "index" ? index.manifests : [];
  if (entry === undefined) throw new ClusterError("internal", "buildah's layout has no image");
  const manifest = parseManifest(await read(pathOf(entry.digest), manifestLimitBytes), entry.mediaType);
  if (manifest.kind !== "manifest") throw new ClusterError("internal", "buildah's layout has no image");
  const configBytes = await configOf(buildah, { work, built }, signal);
  const layers = parseConfig(configBytes).diffIds.map((diffId, at): LayerPart => {
    const descriptor = asOci(known.get(diffId) ?? manifest.layers[at]);
    if (descriptor === undefined) throw new ClusterError("internal", "buildah's layout lacks a layer");
    return {
      descriptor,
      source: (offset) =>
        createReadStream(pathOf(descriptor.digest), { start: offset }) as AsyncIterable<Buffer>,
    };
  });
  return imageStore.add({ configBytes, layers, names }, signal);

  function pathOf(digest: string): string {
    return join(blobs, hexOf(digest));
  }
}

/** As buildah keeps it, in Docker's form: the layout's is OCI's, which has no health check. */
async function configOf(
  buildah: Buildah,
  { work, built }: Pick<Export, "work" | "built">,
  signal: AbortSignal,
): Promise<Buffer> {
  const args = ["inspect", "--type", "image", "--format", "{{.Config}}", built];
  const printed = await buildah.must("take over the built image", { args, temporary: work }, signal);
  const config = Buffer.from(printed.replace(/\n$/, ""));
  if (digestOf(config) !== `sha256:${built}`)
    throw new ClusterError("data-loss", `the configuration of ${built} is not what buildah built`);
  return config;
}

/** An image that was removed since it was built on is none of them: its layers are packed like all others. */
async function hold(
  imageStore: ImageStore,
  bases: readonly StoredImage[],
  names: readonly string[],
  signal: AbortSignal,
): Promise<HeldImages> {
  const earlier = await Promise.all(
    [...bases.map(({ id }) => id), ...names].map((name) => imageStore.find(name)),
  );
  return imageStore.hold(
    earlier.filter((image) => image !== undefined),
    signal,
  );
}

/** Layers of images that are here, as they are stored, by the digest of what they unpack to. */
function knownLayers({ contents }: HeldImages): Map<string, Descriptor> {
  const known = new Map<string, Descriptor>();
  for (const { layers, configBytes } of contents) {
    for (const [at, diffId] of parseDetails(configBytes).diffIds.entries()) {
      const layer = layers[at];
      if (layer !== undefined) known.set(diffId, layer);
    }
  }
  return known;
}

async function read(path: string, limitBytes: number): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > limitBytes)
    throw new ClusterError(
      "failed-precondition",
      `the built image has ${size} bytes of metadata, at most ${limitBytes} are accepted`,
    );
  return readFile(path);
}

/** Docker's names of what OCI names as well: one manifest has names of one kind. */
function asOci(layer: Descriptor | undefined): Descriptor | undefined {
  if (layer === undefined) return undefined;
  const docker = /^application\/vnd\.docker\.image\.rootfs\.diff\.tar(?:\.(gzip|zstd))?$/.exec(
    layer.mediaType,
  );
  if (docker === null) return layer;
  const compression = docker[1] === undefined ? "" : `+${docker[1]}`;
  return { ...layer, mediaType: `application/vnd.oci.image.layer.v1.tar${compression}` };
}

function hexOf(digest: string): string {
  return digest.replace(/^sha256:/, "");
}
