/** Images out of an archive of `save`, ours or Docker's old and new forms, and root file systems of `import`. */
import { createHash } from "node:crypto";
import { open } from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";
import { configLimitBytes, layerCountLimit, manifestLimitBytes, parseManifest } from "./manifest.ts";
import { parseReference, printReference } from "./reference.ts";
import { digestOf } from "./save.ts";
import {
  type LayerPart,
  type LoadedImage,
  type NewImage,
  type StoreDeps,
  storeNewImage,
} from "./store-image.ts";
import { readSpooled, type Spool, type SpooledFile } from "./spool.ts";
import { compressionOf, gunzipped } from "./tar-stream.ts";

const imageLimit = 1_000;

interface Part extends LayerPart {
  readonly file: SpooledFile;
}

interface ArchivedImage extends NewImage {
  readonly layers: readonly Part[];
}

/**
 * Everything is digested here and layers are compared with what the configuration says before a name refers to them:
 * what the archive says of its own digests is not relied on.
 *
 * @throws {ClusterError} `invalid-argument` for what is no such archive; `data-loss` for layers that are not the image's.
 */
export async function loadImages(
  deps: StoreDeps,
  spool: Spool,
  report: (layer: string) => void,
  signal: AbortSignal,
): Promise<LoadedImage[]> {
  const images = (await dockerImages(spool)) ?? (await layoutImages(spool));
  if (images === undefined)
    throw new ClusterError(
      "invalid-argument",
      "invalid archive: it has neither manifest.json nor index.json",
    );
  const loaded: LoadedImage[] = [];
  for (const image of images) loaded.push(await storeNewImage(deps, image, report, signal));
  return loaded;
}

/** A root file system becomes an image of one layer. */
export async function importImage(
  deps: StoreDeps,
  file: SpooledFile,
  settings: { readonly config: object; readonly names: readonly string[] },
  signal: AbortSignal,
): Promise<LoadedImage> {
  const layer = await partOf(file);
  const diffId = await diffIdOf(layer);
  const configBytes = Buffer.from(
    JSON.stringify({ ...settings.config, rootfs: { type: "layers", diff_ids: [diffId] } }),
  );
  const image = { configBytes, layers: [layer], names: settings.names };
  return storeNewImage(deps, image, () => undefined, signal);
}

/** Docker's own list, which its archives have in all versions. */
async function dockerImages(spool: Spool): Promise<ArchivedImage[] | undefined> {
  const bytes = await spool.text("manifest.json", manifestLimitBytes);
  if (bytes === undefined) return undefined;
  const entries = parseJson(bytes, "manifest.json");
  if (!Array.isArray(entries)) throw invalid("manifest.json is no list");
  requireFew(entries);
  const images: ArchivedImage[] = [];
  for (const entry of entries as unknown[]) {
    const { Config, RepoTags, Layers } = (entry ?? {}) as Record<string, unknown>;
    if (typeof Config !== "string" || !isTexts(Layers))
      throw invalid("manifest.json has no Config or Layers");
    const configBytes = await spool.text(Config, configLimitBytes);
    if (configBytes === undefined) throw invalid(`${Config} is missing`);
    const tags = isTexts(RepoTags) ? RepoTags : [];
    images.push({
      configBytes,
      layers: await partsOf(spool, Layers),
      names: tags.map((tag) => printReference(parseReference(tag))),
    });
  }
  return images;
}

/** An OCI layout without Docker's list. */
async function layoutImages(spool: Spool): Promise<ArchivedImage[] | undefined> {
  const bytes = await spool.text("index.json", manifestLimitBytes);
  if (bytes === undefined) return undefined;
  const index = parseJson(bytes, "index.json") as { readonly manifests?: unknown } | null;
  const entries = index?.manifests;
  if (!Array.isArray(entries)) throw invalid("index.json has no manifests");
  requireFew(entries);
  const images: ArchivedImage[] = [];
  for (const entry of entries as unknown[]) {
    const { digest, mediaType, annotations } = (entry ?? {}) as Record<string, unknown>;
    const name = (annotations as Record<string, unknown> | undefined)?.["io.containerd.image.name"];
    const manifest = parseManifest(await blob(String(digest), manifestLimitBytes), String(mediaType));
    if (manifest.kind !== "manifest") throw invalid("images of several platforms are not accepted");
    const paths = manifest.layers.map((layer) => pathOf(layer.digest));
    images.push({
      configBytes: await blob(manifest.config.digest, configLimitBytes),
      layers: await partsOf(spool, paths),
      names: typeof name === "string" ? [printReference(parseReference(name))] : [],
    });
  }
  return images;

  async function blob(digest: string, limitBytes: number): Promise<Buffer> {
    const data = await spool.text(pathOf(digest), limitBytes);
    if (data === undefined) throw invalid(`${digest} is missing`);
    if (digestOf(data) !== digest)
      throw new ClusterError("data-loss", `invalid archive: ${digest} has other content`);
    return data;
  }
}

function pathOf(digest: string): string {
  return `blobs/${digest.replace(":", "/")}`;
}

async function partsOf(spool: Spool, paths: readonly string[]): Promise<Part[]> {
  if (paths.length > layerCountLimit)
    throw invalid(`${paths.length} layers, at most ${layerCountLimit} are accepted`);
  const parts: Part[] = [];
  for (const path of paths) {
    const file = spool.file(path);
    if (file === undefined) throw invalid(`${path} is missing`);
    parts.push(await partOf(file));
  }
  return parts;
}

async function partOf(file: SpooledFile): Promise<Part> {
  const { digest, sizeBytes: size } = file;
  return {
    file,
    descriptor: { mediaType: layerType(await headOf(file)), digest, size },
    source: (offset) => readSpooled(file, offset),
  };
}

function layerType(head: Buffer): string {
  const base = "application/vnd.oci.image.layer.v1.tar";
  const compression = compressionOf(head);
  switch (compression) {
    case "none":
      return base;
    case "gzip":
    case "zstd":
      return `${base}+${compression}`;
    case "bzip2":
    case "xz":
      throw invalid(`a layer is compressed with ${compression}: plain, gzip or zstd is accepted`);
  }
}

async function headOf({ path }: SpooledFile): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(6), 0, 6, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

async function diffIdOf({ file, descriptor }: Part): Promise<string> {
  if (descriptor.mediaType.endsWith("+zstd"))
    throw invalid("it is compressed with zstd: plain or gzip is accepted");
  if (!descriptor.mediaType.endsWith("+gzip")) return file.digest;
  const hash = createHash("sha256");
  for await (const piece of gunzipped(readSpooled(file, 0))) hash.update(piece);
  return `sha256:${hash.digest("hex")}`;
}

function requireFew(entries: readonly unknown[]): void {
  if (entries.length > imageLimit)
    throw invalid(`${entries.length} images, at most ${imageLimit} are accepted`);
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function parseJson(bytes: Buffer, name: string): unknown {
  try {
    return JSON.parse(bytes.toString("utf8")) as unknown;
  } catch (cause) {
    throw new ClusterError("invalid-argument", `invalid archive: ${name} is no JSON`, { cause });
  }
}

function invalid(seen: string): ClusterError {
  return new ClusterError("invalid-argument", `invalid archive: ${seen}`);
}
