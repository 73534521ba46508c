/** What comes from registries: indexes, manifests and image configurations, OCI and Docker forms. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { HealthCheck, Platform } from "../../model/service.ts";
import type { ImageConfig } from "./engine.ts";
import { digestPattern } from "./reference.ts";

/** Larger manifests and configurations are refused before they are parsed. */
export const manifestLimitBytes = 4 * 2 ** 20;
export const configLimitBytes = 8 * 2 ** 20;
export const layerCountLimit = 512;

export const manifestTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
] as const;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export interface IndexEntry extends Descriptor {
  readonly platform?: Platform & { readonly variant?: string };
}

/** A layer that its maker lets nobody hand on; it lies at addresses of its own. */
export function isForeignLayer({ mediaType }: Descriptor): boolean {
  return /\.foreign\.|\.nondistributable\./.test(mediaType);
}

export type WantedPlatform = Platform & { readonly variant?: string };

/** As `uname -m` and people write them, in the words of images. */
const architectureNames: Readonly<Record<string, string>> = {
  x86_64: "amd64",
  "x86-64": "amd64",
  aarch64: "arm64",
};

export type Manifest =
  | { readonly kind: "index"; readonly mediaType: string; readonly manifests: readonly IndexEntry[] }
  | {
      readonly kind: "manifest";
      readonly mediaType: string;
      readonly config: Descriptor;
      readonly layers: readonly Descriptor[];
    };

/** @throws {ClusterError} `failed-precondition` saying what is wrong with it. */
export function parseManifest(bytes: Uint8Array, contentType: string): Manifest {
  const json = parseObject(bytes, "manifest");
  const mediaType = textOf(json["mediaType"]) ?? contentType.split(";")[0]?.trim() ?? "";
  if (json["schemaVersion"] === 1) throw firstSchema();
  if (Array.isArray(json["manifests"])) {
    const entries = json["manifests"]
      .slice(0, layerCountLimit)
      .map((entry: unknown) => indexEntry(objectOf(entry)));
    return { kind: "index", mediaType: mediaType || manifestTypes[0], manifests: entries };
  }
  const layers = json["layers"];
  if (!Array.isArray(layers)) throw malformed("neither manifests nor layers");
  if (layers.length > layerCountLimit)
    throw malformed(`${layers.length} layers, at most ${layerCountLimit} are accepted`);
  return {
    kind: "manifest",
    mediaType: mediaType || manifestTypes[2],
    config: descriptorOf(objectOf(json["config"])),
    layers: layers.map((layer: unknown) => descriptorOf(objectOf(layer))),
  };
}

/**
 * "linux/arm64/v8", or less of it: what is not given is the host's.
 *
 * @throws {ClusterError} `invalid-argument` for what is no platform.
 */
export function parsePlatform(
  text: string,
  host: WantedPlatform = { os: "linux", architecture: "" },
): WantedPlatform {
  const parts = text.toLowerCase().split("/");
  if (parts.length > 3 || !parts.every((part) => /^[a-z0-9_.-]+$/.test(part))) {
    throw new ClusterError(
      "invalid-argument",
      `${JSON.stringify(text)} is not a platform: os[/architecture[/variant]] is accepted`,
    );
  }
  const [first = "", second, variant] = parts;
  const os = second === undefined && first !== "linux" && first !== "windows" ? host.os : first;
  const architecture = second ?? (os === first ? host.architecture : first);
  return {
    os,
    architecture: architectureNames[architecture] ?? architecture,
    ...(variant !== undefined && { variant }),
  };
}

export function printPlatform({ os, architecture, variant }: WantedPlatform): string {
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join("/");
}

/**
 * The entry for a platform. A variant runs what was made for those before it, the highest first; what says nothing of its
 * variant, or of its platform at all, is taken where nothing else fits.
 */
export function chooseEntry(entries: readonly IndexEntry[], wanted: WantedPlatform): IndexEntry | undefined {
  const fitting = entries.filter(
    ({ platform }) => platform?.os === wanted.os && platform.architecture === wanted.architecture,
  );
  const plain = fitting.find(({ platform }) => platform?.variant === undefined);
  const unsaid = entries.find(({ platform }) => platform === undefined);
  // The plain one first: it runs everywhere.
  if (wanted.variant === undefined) return plain ?? fitting[0] ?? unsaid;
  const exact = fitting.find(({ platform }) => platform?.variant === wanted.variant);
  const wantedVersion = versionOf(wanted.variant);
  const [earlier] = fitting
    .filter(({ platform }) => versionOf(platform?.variant) < wantedVersion)
    .toSorted((a, b) => versionOf(b.platform?.variant) - versionOf(a.platform?.variant));
  return exact ?? earlier ?? plain ?? unsaid;
}

/** Of "v7"; not a number for what is no such variant, which is then before no other. */
function versionOf(variant: string | undefined): number {
  return Number(/^v(\d+)$/.exec(variant ?? "")?.[1] ?? Number.NaN);
}

/** @throws {ClusterError} where a registry says so of what it sends; the digest of those that are signed is not of their bytes. */
export function refuseFirstSchema(mediaType: string): void {
  if (/\.docker\.distribution\.manifest\.v1\+/.test(mediaType)) throw firstSchema();
}

function firstSchema(): ClusterError {
  return malformed("schema 1 manifests are too old, schema 2 or OCI is accepted");
}

export interface ParsedConfig {
  readonly config: ImageConfig;
  readonly diffIds: readonly string[];
  readonly architecture: string;
  readonly os: string;
  readonly variant?: string;
  readonly createdAtMs: number;
}

export function parseConfig(bytes: Uint8Array): ParsedConfig {
  const json = parseObject(bytes, "image configuration");
  const config = objectOf(json["config"] ?? {});
  const diffIds = objectOf(json["rootfs"])["diff_ids"];
  if (
    !Array.isArray(diffIds) ||
    !diffIds.every((id): id is string => typeof id === "string" && digestPattern.test(id))
  ) {
    throw malformed("image configuration without rootfs.diff_ids");
  }
  const stopSignal = textOf(config["StopSignal"]);
  const healthcheck = healthOf(config["Healthcheck"]);
  const variant = textOf(json["variant"]);
  return {
    config: {
      env: textsOf(config["Env"]),
      entrypoint: commandOf(config["Entrypoint"]),
      cmd: commandOf(config["Cmd"]),
      user: textOf(config["User"]) ?? "",
      workingDir: textOf(config["WorkingDir"]) ?? "",
      labels: labelsOf(config["Labels"]),
      ...(stopSignal !== undefined && stopSignal !== "" && { stopSignal }),
      ...(healthcheck !== undefined && { healthcheck }),
      exposedPorts: Object.keys(objectOf(config["ExposedPorts"] ?? {})),
      volumes: Object.keys(objectOf(config["Volumes"] ?? {})),
    },
    diffIds,
    architecture: textOf(json["architecture"]) ?? "",
    os: textOf(json["os"]) ?? "",
    ...(variant !== undefined && variant !== "" && { variant }),
    createdAtMs: Date.parse(textOf(json["created"]) ?? "") || 0,
  };
}

/** The platforms of a configuration or index, without attestations ("unknown"). */
export function platformsOf(entries: readonly IndexEntry[]): (Platform & { variant?: string })[] {
  return entries.flatMap(({ platform }) =>
    platform === undefined || platform.os === "unknown" ? [] : [{ ...platform }],
  );
}

function indexEntry(json: Record<string, unknown>): IndexEntry {
  const descriptor = descriptorOf(json);
  if (json["platform"] === undefined) return descriptor;
  const platform = objectOf(json["platform"]);
  const variant = textOf(platform["variant"]);
  return {
    ...descriptor,
    platform: {
      architecture: textOf(platform["architecture"]) ?? "",
      os: textOf(platform["os"]) ?? "",
      ...(variant !== undefined && variant !== "" && { variant }),
    },
  };
}

function descriptorOf(json: Record<string, unknown>): Descriptor {
  const { mediaType, digest, size } = json;
  if (typeof digest !== "string" || !digestPattern.test(digest))
    throw malformed(`digest ${JSON.stringify(digest)}`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0)
    throw malformed(`size ${JSON.stringify(size)}`);
  return { mediaType: textOf(mediaType) ?? "", digest, size };
}

function healthOf(value: unknown): HealthCheck | undefined {
  if (value === undefined || value === null) return undefined;
  const json = objectOf(value);
  const milliseconds = (key: string): number =>
    Math.round((typeof json[key] === "number" ? json[key] : 0) / 1e6);
  return {
    test: textsOf(json["Test"]),
    intervalMs: milliseconds("Interval"),
    timeoutMs: milliseconds("Timeout"),
    startPeriodMs: milliseconds("StartPeriod"),
    startIntervalMs: milliseconds("StartInterval"),
    retries: typeof json["Retries"] === "number" ? json["Retries"] : 0,
  };
}

function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  try {
    return objectOf(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    throw malformed(`${what} is not a JSON object`, { cause });
  }
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw malformed("a JSON object was expected");
  return value as Record<string, unknown>;
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}

/** Old configurations have a plain string here, which a shell runs. */
function commandOf(value: unknown): string[] {
  return typeof value === "string" ? ["/bin/sh", "-c", value] : textsOf(value);
}

function labelsOf(value: unknown): Record<string, string> {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

function malformed(seen: string, options?: { cause: unknown }): ClusterError {
  return new ClusterError("failed-precondition", `cannot use the image: ${seen}`, options);
}
