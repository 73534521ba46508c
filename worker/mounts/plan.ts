/** The mounts of a spec and its image, checked and put together; what needs the disk is left to `resolve.ts`. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { ContainerSpec, Mount, VolumeOptions } from "../../model/service.ts";
import type { OciMount } from "../engine/oci.ts";
import { volumeSource } from "./volume-options.ts";

export type PlannedMount =
  | {
      readonly type: "bind";
      readonly source: string;
      readonly target: string;
      readonly readOnly: boolean;
      readonly options: readonly string[];
      readonly createSource: boolean;
      /** How mounts of the host go on into the container was asked for. */
      readonly hasPropagation: boolean;
    }
  | {
      readonly type: "volume";
      /** Empty: anonymous, named by the engine and removed with the container. */
      readonly name: string;
      readonly target: string;
      readonly readOnly: boolean;
      readonly volume: VolumeOptions;
    }
  | {
      readonly type: "image";
      /** As it was asked for. */
      readonly reference: string;
      /** Relative, of a file or directory in the image; empty for all of it. */
      readonly subpath: string;
      readonly target: string;
      /** Always. */
      readonly readOnly: true;
    }
  | {
      readonly type: "tmpfs";
      readonly target: string;
      readonly readOnly: boolean;
      readonly options: readonly string[];
    };

const volumeNamePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$/;
const volumeNameForm = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

/**
 * The spec's mounts, then an anonymous volume for each of the image's that no mount covers.
 *
 * @throws {ClusterError} `invalid-argument` with the texts of the Engine API.
 */
export function planMounts(
  spec: Pick<ContainerSpec, "mounts">,
  imageVolumes: readonly string[],
): PlannedMount[] {
  const planned = spec.mounts.map(planMount);
  const seen = new Set<string>();
  for (const { target } of planned) {
    if (seen.has(target)) throw new ClusterError("invalid-argument", `Duplicate mount point: ${target}`);
    seen.add(target);
  }
  for (const path of imageVolumes) {
    const target = cleanPath(path);
    if (!target.startsWith("/") || seen.has(target)) continue;
    seen.add(target);
    planned.push({ type: "volume", name: "", target, readOnly: false, volume: {} });
  }
  return planned;
}

/** The options of a bind mount, as the runtimes take them. */
export function bindOptions(readOnly: boolean, propagation = "rprivate", recursive = true): string[] {
  return [recursive ? "rbind" : "bind", readOnly ? "ro" : "rw", propagation];
}

/**
 * A bind that shows the engine's own directories would else keep every mount that is in there by now, and with it what
 * the engine unmounts later: as with Docker, these are slaves of the host's, unless something else was asked for.
 *
 * @param own - Directories of the engine.
 */
export function propagated(
  { source, options, hasPropagation }: Extract<PlannedMount, { type: "bind" }>,
  own: readonly string[],
): readonly string[] {
  const isAbove = own.some((path) => source === "/" || path === source || path.startsWith(`${source}/`));
  if (hasPropagation || !isAbove) return options;
  return options.map((option) => (option === "rprivate" ? "rslave" : option));
}

export function bindMount(source: string, target: string, readOnly: boolean): OciMount {
  return { destination: target, type: "bind", source, options: bindOptions(readOnly) };
}

/** Without "." and "..", doubled or trailing slashes; a relative path stays relative. */
export function cleanPath(path: string): string {
  const absolute = path.startsWith("/");
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") parts.pop();
    else parts.push(part);
  }
  return `${absolute ? "/" : ""}${parts.join("/")}` || (absolute ? "/" : ".");
}

function planMount(mount: Mount): PlannedMount {
  const target = cleanPath(mount.target);
  if (!mount.target.startsWith("/")) {
    throw new ClusterError(
      "invalid-argument",
      `invalid mount target, must be an absolute path: ${mount.target}`,
    );
  }
  if (target === "/") {
    throw new ClusterError("invalid-argument", "invalid mount target: destination can't be '/'");
  }
  const { readOnly } = mount;
  switch (mount.type) {
    case "bind": {
      if (!mount.source.startsWith("/")) {
        throw new ClusterError(
          "invalid-argument",
          `invalid bind mount source, must be an absolute path: ${mount.source}`,
        );
      }
      const { propagation, nonRecursive = false, createMountpoint = false } = mount.bind ?? {};
      const options = bindOptions(readOnly, propagation, !nonRecursive);
      return {
        type: "bind",
        source: cleanPath(mount.source),
        target,
        readOnly,
        options,
        createSource: createMountpoint,
        hasPropagation: propagation !== undefined,
      };
    }
    case "volume": {
      const { source, volume = {} } = mount;
      if (source !== "") requireVolumeName(source);
      const driver = volume.driverName ?? "local";
      if (driver !== "" && driver !== "local") {
        throw new ClusterError("invalid-argument", `plugin ${JSON.stringify(driver)} not found`);
      }
      volumeSource(volume.driverOptions ?? {});
      return { type: "volume", name: source, target, readOnly, volume };
    }
    case "tmpfs": {
      const { sizeBytes = 0, mode } = mount.tmpfs ?? {};
      const options = [
        "nosuid",
        "nodev",
        "noexec",
        readOnly ? "ro" : "rw",
        ...(sizeBytes > 0 ? [`size=${sizeBytes}`] : []),
        `mode=${(mode ?? 0o1777).toString(8)}`,
      ];
      return { type: "tmpfs", target, readOnly, options };
    }
  }
}

export function isVolumeName(name: string): boolean {
  return volumeNamePattern.test(name);
}

/** @throws {ClusterError} `invalid-argument` with Docker's text. */
export function requireVolumeName(name: string): void {
  if (name.length === 1) {
    const text = "volume name is too short, names should be at least two alphanumeric characters";
    throw new ClusterError("invalid-argument", text);
  }
  if (isVolumeName(name)) return;
  const text = `${JSON.stringify(name)} includes invalid characters for a local volume name, only ${JSON.stringify(volumeNameForm)} are allowed. If you intended to pass a host directory, use absolute path`;
  throw new ClusterError("invalid-argument", text);
}
