/** Options of the driver "local": a volume that is a mount of something else. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";

/** What `mount` is to be told. */
export interface VolumeSource {
  /** Such as "tmpfs", "nfs", or "none" for a bind. */
  readonly type: string;
  readonly device: string;
  /** Joined by commas; empty for none. */
  readonly options: string;
}

const known = ["type", "o", "device"];

/**
 * Undefined for a plain directory.
 *
 * @throws {ClusterError} `invalid-argument` in Docker's words.
 */
export function volumeSource(options: Labels): VolumeSource | undefined {
  const keys = Object.keys(options);
  if (keys.length === 0) return undefined;
  for (const key of keys) {
    if (!known.includes(key))
      throw new ClusterError("invalid-argument", `invalid option: ${JSON.stringify(key)}`);
  }
  const { type = "", device = "", o = "" } = options;
  for (const [key, value] of Object.entries({ device, type })) {
    if (value === "")
      throw new ClusterError("invalid-argument", `missing required option: ${JSON.stringify(key)}`);
  }
  for (const value of [type, device, o]) {
    if (value.includes("\0") || value.startsWith("-"))
      throw new ClusterError(
        "invalid-argument",
        `invalid value for a volume option: ${JSON.stringify(value)}`,
      );
  }
  const isBind = o.split(",").some((option) => option === "bind" || option === "rbind");
  if (isBind && !device.startsWith("/")) {
    throw new ClusterError(
      "invalid-argument",
      `invalid device of a bind: ${JSON.stringify(device)}: an absolute path is accepted`,
    );
  }
  return { type, device, options: o };
}
