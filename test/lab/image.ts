import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { request } from "node:http";
import { gzipSync } from "node:zlib";
import { run } from "./shell.ts";
import { packTar, type TarEntry } from "./tar.ts";

/** The part of an OCI image config's `config` that the lab's images use. */
export interface ImageConfig {
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly WorkingDir?: string;
  readonly User?: string;
  readonly StopSignal?: string;
  readonly ExposedPorts?: Readonly<Record<string, Record<string, never>>>;
  readonly Volumes?: Readonly<Record<string, Record<string, never>>>;
  readonly Labels?: Readonly<Record<string, string>>;
  /** Docker's extension; times in nanoseconds. */
  readonly Healthcheck?: {
    readonly Test: readonly string[];
    readonly Interval?: number;
    readonly Timeout?: number;
    readonly Retries?: number;
    readonly StartPeriod?: number;
  };
}

export interface Blob {
  readonly mediaType: string;
  /** `sha256:…` of `data`. */
  readonly digest: string;
  readonly data: Buffer;
}

/** An OCI image for linux on this machine's architecture, in memory. */
export interface Image {
  readonly manifest: Blob;
  readonly config: Blob;
  /** Gzipped, lowest first. */
  readonly layers: readonly Blob[];
}

export const architecture = process.arch === "x64" ? "amd64" : process.arch;

/** Builds an image of the given layers. The same input gives the same digests. */
export function buildImage(
  layers: readonly Layer[],
  config: ImageConfig,
  platform: Readonly<Record<string, string>> = { architecture, os: "linux" },
): Image {
  const configBlob = jsonBlob("application/vnd.oci.image.config.v1+json", {
    created: "1970-01-01T00:00:00Z",
    ...platform,
    config,
    rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
    history: layers.map(() => ({ created: "1970-01-01T00:00:00Z", created_by: "test/lab/image.ts" })),
  });
  const manifest = jsonBlob("application/vnd.oci.image.manifest.v1+json", {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: descriptor(configBlob),
    layers: layers.map((layer) => descriptor(layer.blob)),
  });
  return { manifest, config: configBlob, layers: layers.map((layer) => layer.blob) };
}

/** A layer, and the digest of its uncompressed tar. */
export interface Layer {
  readonly blob: Blob;
  readonly diffId: string;
}

export function buildLayer(entries: readonly TarEntry[]): Layer {
  const tar = packTar(entries);
  const data = gzipSync(tar, { level: 1 });
  return {
    diffId: digestOf(tar),
    blob: { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: digestOf(data), data },
  };
}

/** The layer under all images of the lab: Debian's busybox-static with a link for every applet. */
export async function busyboxLayer(binary = "/usr/bin/busybox"): Promise<Layer> {
  const [data, applets] = await Promise.all([
    readFile(binary).catch((cause: unknown) => {
      throw new Error(`cannot read ${binary}: install the Debian package busybox-static`, { cause });
    }),
    run([binary, "--list"]),
  ]);
  const names = applets.split("\n").filter((name) => name !== "" && name !== "busybox");
  return buildLayer([
    { kind: "directory", path: "bin" },
    { kind: "file", path: "bin/busybox", data, mode: 0o755 },
    ...names.map((name): TarEntry => ({ kind: "link", path: `bin/${name}`, target: "busybox" })),
    { kind: "directory", path: "etc" },
    text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    text("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    { kind: "directory", path: "root", mode: 0o700 },
    { kind: "directory", path: "tmp", mode: 0o1777 },
    { kind: "directory", path: "var" },
    { kind: "directory", path: "usr/bin" },
    { kind: "link", path: "usr/bin/env", target: "../../bin/busybox" },
  ]);
}

export function text(path: string, content: string, mode = 0o644): TarEntry {
  return { kind: "file", path, data: Buffer.from(content), mode };
}

/**
 * Pushes an image over plain HTTP; what the registry already has is not sent again.
 *
 * @param registry - `host:port`, reached from this process's network namespace.
 * @throws {Error} with method, path and status of the answer that was not expected.
 */
export async function pushImage(
  registry: string,
  repository: string,
  tag: string,
  image: Image,
): Promise<void> {
  for (const blob of [image.config, ...image.layers]) {
    const path = `/v2/${repository}/blobs/${blob.digest}`;
    if ((await send(registry, "HEAD", path)).status === 200) continue;
    const start = await expectStatus(202, registry, "POST", `/v2/${repository}/blobs/uploads/`);
    const location = new URL(start.location, `http://${registry}`);
    location.searchParams.set("digest", blob.digest);
    const target = location.pathname + location.search;
    await expectStatus(201, registry, "PUT", target, "application/octet-stream", blob.data);
  }
  const { mediaType, data } = image.manifest;
  await expectStatus(201, registry, "PUT", `/v2/${repository}/manifests/${tag}`, mediaType, data);
}

async function expectStatus(
  wanted: number,
  registry: string,
  method: string,
  path: string,
  type?: string,
  body?: Buffer,
): Promise<Answer> {
  const answer = await send(registry, method, path, type, body);
  if (answer.status === wanted) return answer;
  throw new Error(
    `cannot push: ${method} ${path}: status ${answer.status}, wanted ${wanted}: ${answer.body}`,
  );
}

interface Answer {
  readonly status: number;
  readonly location: string;
  readonly body: string;
}

function send(registry: string, method: string, path: string, type?: string, body?: Buffer): Promise<Answer> {
  const [host, port] = registry.split(":");
  return new Promise((resolve, reject) => {
    const headers = {
      "content-length": body?.length ?? 0,
      ...(type === undefined ? {} : { "content-type": type }),
    };
    const call = request({ host, port: port ?? "80", method, path, headers, timeout: 10_000 }, (response) => {
      let said = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (said += chunk));
      response.on("error", reject);
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          location: response.headers.location ?? "",
          body: said.slice(0, 500),
        }),
      );
    });
    call.on("timeout", () => call.destroy(new Error(`no answer within 10 s: ${method} ${registry}${path}`)));
    call.on("error", reject);
    call.end(body);
  });
}

function jsonBlob(mediaType: string, value: unknown): Blob {
  const data = Buffer.from(JSON.stringify(value));
  return { mediaType, digest: digestOf(data), data };
}

function descriptor({ mediaType, digest, data }: Blob): object {
  return { mediaType, digest, size: data.length };
}

function digestOf(data: Buffer): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}
