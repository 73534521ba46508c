/** What an image's configuration says beside what running it needs. Pure. */
import type { Descriptor } from "./manifest.ts";

/** Where the parts of an image are, for whoever reads or sends them. */
export interface ImageContent {
  /** What the name stands for: an index, or the manifest itself. */
  readonly root: Descriptor;
  readonly manifest: Descriptor;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  /** The whole configuration as it was written. */
  readonly configBytes: Buffer;
}

export interface HistoryEntry {
  readonly createdAtMs: number;
  readonly createdBy: string;
  readonly comment: string;
  /** True for steps that changed no file. */
  readonly emptyLayer: boolean;
}

export interface ImageDetails {
  readonly author: string;
  readonly comment: string;
  readonly variant: string;
  readonly osVersion: string;
  readonly dockerVersion: string;
  readonly diffIds: readonly string[];
  /** Oldest first. */
  readonly history: readonly HistoryEntry[];
  /** The part `config` as it was written, which clients are shown whole. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** @param bytes - A configuration that `parseConfig` has accepted. */
export function parseDetails(bytes: Uint8Array): ImageDetails {
  const json = objectOf(JSON.parse(Buffer.from(bytes).toString("utf8")));
  const diffIds = objectOf(json["rootfs"])["diff_ids"];
  const history = json["history"];
  return {
    author: textOf(json["author"]),
    comment: textOf(json["comment"]),
    variant: textOf(json["variant"]),
    osVersion: textOf(json["os.version"]),
    dockerVersion: textOf(json["docker_version"]),
    diffIds: Array.isArray(diffIds) ? diffIds.filter((id) => typeof id === "string") : [],
    history: Array.isArray(history) ? history.map((entry: unknown) => historyEntry(objectOf(entry))) : [],
    config: objectOf(json["config"]),
  };
}

function historyEntry(json: Record<string, unknown>): HistoryEntry {
  return {
    createdAtMs: Date.parse(textOf(json["created"])) || 0,
    createdBy: textOf(json["created_by"]),
    comment: textOf(json["comment"]),
    emptyLayer: json["empty_layer"] === true,
  };
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return {};
  return value as Record<string, unknown>;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
