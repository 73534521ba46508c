/** Images as an archive: an OCI layout that Docker's own `load` reads as well. */
import { createHash } from "node:crypto";

import { readBlob, streamBlob } from "./blobs.ts";
import type { Connection } from "./connection.ts";
import type { ImageContent } from "./image-details.ts";
import { holdInLease, openLease } from "./leases.ts";
import { type Descriptor, manifestLimitBytes } from "./manifest.ts";
import { familiarName } from "./reference.ts";
import { printTarHeader, tarBlockBytes, tarPadding } from "./tar.ts";

export interface SavedImage {
  readonly content: ImageContent;
  /** Full names with a tag; none for an image that was asked for by id. */
  readonly names: readonly string[];
}

export async function* saveImages(
  connection: Connection,
  images: readonly SavedImage[],
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  // Whoever removes an image meanwhile leaves it to this archive.
  await using lease = await openLease(connection, signal);
  for (const { root, manifest } of images.map(({ content }) => content))
    for (const { digest } of [root, manifest])
      await holdInLease(connection, lease.id, { type: "content", id: digest });
  const written = new Set<string>();
  yield printTarHeader("blobs/", 0, "directory");
  yield printTarHeader("blobs/sha256/", 0, "directory");
  for (const { content } of images) {
    for (const { digest, size } of [...content.layers, content.config]) {
      if (written.has(digest)) continue;
      written.add(digest);
      yield printTarHeader(pathOf(digest), size, "file");
      yield* streamBlob(connection, digest, signal);
      yield tarPadding(size);
    }
    if (written.has(content.manifest.digest)) continue;
    written.add(content.manifest.digest);
    const manifest = await readBlob(connection, content.manifest.digest, manifestLimitBytes);
    yield* fileOf(pathOf(content.manifest.digest), manifest);
  }
  yield* fileOf("oci-layout", json({ imageLayoutVersion: "1.0.0" }));
  yield* fileOf("index.json", json(indexOf(images)));
  yield* fileOf("manifest.json", json(images.map(dockerEntry)));
  yield* fileOf("repositories", json(repositoriesOf(images)));
  yield Buffer.alloc(2 * tarBlockBytes);
}

function indexOf(images: readonly SavedImage[]): object {
  return {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: images.flatMap(({ content, names }) => {
      const { mediaType, digest, size } = content.manifest;
      const plain = { mediaType, digest, size };
      if (names.length === 0) return [plain];
      return names.map((name) => ({
        ...plain,
        annotations: {
          "io.containerd.image.name": name,
          "org.opencontainers.image.ref.name": name.slice(name.lastIndexOf(":") + 1),
        },
      }));
    }),
  };
}

function dockerEntry({ content, names }: SavedImage): object {
  return {
    Config: pathOf(content.config.digest),
    RepoTags: names.length > 0 ? names.map(familiarName) : null,
    Layers: content.layers.map(({ digest }: Descriptor) => pathOf(digest)),
  };
}

function repositoriesOf(images: readonly SavedImage[]): object {
  const repositories: Record<string, Record<string, string>> = {};
  for (const { content, names } of images) {
    for (const name of names.map(familiarName)) {
      const split = name.lastIndexOf(":");
      const repository = (repositories[name.slice(0, split)] ??= {});
      repository[name.slice(split + 1)] = content.config.digest.slice("sha256:".length);
    }
  }
  return repositories;
}

function* fileOf(path: string, data: Buffer): Generator<Buffer> {
  yield printTarHeader(path, data.length, "file");
  yield data;
  yield tarPadding(data.length);
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}

function pathOf(digest: string): string {
  return `blobs/${digest.replace(":", "/")}`;
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
