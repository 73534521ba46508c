/** Images out of an archive of `save`, ours or Docker's old and new forms, and root file systems of `import`. */
import { createHash, randomUUID } from "node:crypto";
import { open } from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";
import { writeBlob } from "./blobs.ts";
import { type Connection, unlessGone } from "./connection.ts";
import { type ImageNames, untaggedName } from "./image-names.ts";
import {
  configLimitBytes,
  type Descriptor,
  layerCountLimit,
  manifestLimitBytes,
  parseConfig,
  parseManifest,
} from "./manifest.ts";
import { parseReference, printReference } from "./reference.ts";
import { digestOf } from "./save.ts";
import { chainIds, snapshotter, unpackLayer } from "./snapshots.ts";
import { compressionOf, gunzipped, readSpooled, type Spool, type SpooledFile } from "./spool.ts";

/** Long enough for the slowest disk; what an interrupted load stored is then collected. */
const leaseLifetimeMs = 6 * 3_600_000;
const imageLimit = 1_000;
const manifestType = "application/vnd.oci.image.manifest.v1+json";
const configType = "application/vnd.oci.image.config.v1+json";

export interface LoadDeps {
  readonly connection: Connection;
  readonly names: ImageNames;
}

export interface LoadedImage {
  readonly id: string;
  /** Full names that it has now; empty for none. */
  readonly names: readonly string[];
}

interface Part {
  readonly descriptor: Descriptor;
  readonly file: SpooledFile;
}

interface ArchivedImage {
  readonly configBytes: Buffer;
  readonly layers: readonly Part[];
  readonly names: readonly string[];
}

/**
 * Everything is digested here and layers are compared with what the configuration says before a name refers to them:
 * what the archive says of its own digests is not relied on.
 *
 * @throws {ClusterError} `invalid-argument` for what is no such archive; `data-loss` for layers that are not the image's.
 */
export async function loadImages(
  deps: LoadDeps,
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
  for (const image of images) loaded.push(await storeImage(deps, image, report, signal));
  return loaded;
}

/** A root file system becomes an image of one layer. */
export async function importImage(
  deps: LoadDeps,
  file: SpooledFile,
  settings: { readonly config: object; readonly names: readonly string[] },
  signal: AbortSignal,
): Promise<LoadedImage> {
  const layer = await partOf(file);
  const diffId = await diffIdOf(layer);
  const configBytes = Buffer.from(
    JSON.stringify({ ...settings.config, rootfs: { type: "layers", diff_ids: [diffId] } }),
  );
  return storeImage(deps, { configBytes, layers: [layer], names: settings.names }, () => undefined, signal);
}

async function storeImage(
  { connection, names }: LoadDeps,
  { configBytes, layers, names: wanted }: ArchivedImage,
  report: (layer: string) => void,
  signal: AbortSignal,
): Promise<LoadedImage> {
  const { diffIds } = parseConfig(configBytes);
  if (diffIds.length !== layers.length) {
    throw new ClusterError(
      "invalid-argument",
      `invalid archive: ${layers.length} layers, ${diffIds.length} in the image's configuration`,
    );
  }
  const config: Descriptor = {
    mediaType: configType,
    digest: digestOf(configBytes),
    size: configBytes.length,
  };
  const manifestBytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: manifestType,
      config,
      layers: layers.map(({ descriptor }) => descriptor),
    }),
  );
  const target = { mediaType: manifestType, digest: digestOf(manifestBytes), size: manifestBytes.length };
  const chain = chainIds(diffIds);
  const lease = `shoal-load-${randomUUID()}`;
  const expire = new Date(Date.now() + leaseLifetimeMs).toISOString();
  const { leases } = connection;
  await connection.call(
    leases,
    "create",
    { id: lease, labels: { "containerd.io/gc.expire": expire } },
    { signal },
  );
  try {
    for (const [index, { descriptor, file }] of layers.entries()) {
      const { digest, size } = descriptor;
      await writeBlob(
        connection,
        { digest, size, lease, source: (offset) => readSpooled(file, offset) },
        signal,
      );
      const [diffId = "", chainId = "", parent = ""] = [diffIds[index], chain[index], chain[index - 1]];
      const outcome = await unpackLayer(
        connection,
        { layer: descriptor, diffId, chainId, parent, lease },
        signal,
      );
      if (outcome === "unpacked") report(diffId.slice("sha256:".length, "sha256:".length + 12));
    }
    const top = chain.at(-1);
    await store(
      config,
      configBytes,
      top === undefined ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: top },
    );
    await store(target, manifestBytes, {
      "containerd.io/gc.ref.content.config": config.digest,
      ...Object.fromEntries(
        layers.map(({ descriptor }, index) => [`containerd.io/gc.ref.content.l.${index}`, descriptor.digest]),
      ),
    });
    const given = wanted.length > 0 ? wanted : [untaggedName(target.digest)];
    for (const name of given) {
      // What a registry has said of the same content stays said.
      if ((await names.get(name))?.target.digest !== target.digest)
        await names.put({ name, target, local: true, platform: "" });
    }
  } finally {
    await unlessGone(connection.call(leases, "delete", { id: lease, sync: false }));
  }
  return { id: config.digest, names: wanted };

  async function store(
    { digest, size }: Descriptor,
    bytes: Buffer,
    labels: Readonly<Record<string, string>>,
  ): Promise<void> {
    async function* source(offset: number): AsyncGenerator<Buffer> {
      yield bytes.subarray(offset);
    }
    await writeBlob(connection, { digest, size, lease, labels, source }, signal);
  }
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
  return { file, descriptor: { mediaType: layerType(await headOf(file)), digest, size } };
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
