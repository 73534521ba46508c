/** Binds, mounts, tmpfs and volumes of a request, as the engine takes them. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { MountRecord } from "../engine/engine.ts";
import { bindOptions, cleanPath, type PlannedMount, requireVolumeName } from "../mounts/plan.ts";
import type { CreateRequest, MountRequest } from "./config.ts";

const propagations = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
const bindModes = new Set([
  ...propagations,
  "ro",
  "rw",
  "z",
  "Z",
  "nocopy",
  "consistent",
  "cached",
  "delegated",
]);
/** What Docker gives a tmpfs, unless told otherwise. */
const tmpfsDefaults = ["noexec", "nosuid", "nodev"];

/**
 * In the order they are mounted; no two have one target.
 *
 * @param imageVolumes - Paths for which the image wants a volume.
 * @param borrowed - Mounts of the containers named in `VolumesFrom`.
 * @throws {ClusterError} `invalid-argument` with Docker's texts.
 */
export function plannedMounts(
  { config, hostConfig }: CreateRequest,
  imageVolumes: readonly string[],
  borrowed: readonly MountRecord[],
): PlannedMount[] {
  const given = [
    ...hostConfig.Binds.map(parseBind),
    ...hostConfig.Mounts.map(planMount),
    ...Object.entries(hostConfig.Tmpfs).map(([target, options]) => planTmpfs(target, options)),
  ];
  const taken = new Set<string>();
  for (const { target } of given) {
    if (taken.has(target)) throw invalid(`Duplicate mount point: ${target}`);
    taken.add(target);
  }
  const more = [...borrowed.map(borrow), ...[...config.Volumes, ...imageVolumes].map(anonymous)];
  for (const mount of more) {
    if (taken.has(mount.target)) continue;
    taken.add(mount.target);
    given.push(mount);
  }
  return given;
}

/** "/host:/target[:options]", "name:/target[:options]". */
function parseBind(text: string): PlannedMount {
  const [source = "", destination = "", modes = "", ...rest] = text.split(":");
  if (rest.length > 0 || source === "" || destination === "")
    throw invalid(`invalid volume specification: '${text}'`);
  const target = targetOf(destination, text, source.startsWith("/") ? "bind" : "volume");
  const options = modes.split(",").filter((mode) => mode !== "");
  const unknown = options.find((mode) => !bindModes.has(mode));
  const given = options.filter((mode) => propagations.includes(mode));
  if (unknown !== undefined || given.length > 1 || (options.includes("ro") && options.includes("rw"))) {
    throw invalid(`invalid mode: ${modes}`);
  }
  const readOnly = options.includes("ro");
  if (source.startsWith("/")) {
    return {
      type: "bind",
      source: cleanPath(source),
      target,
      readOnly,
      options: bindOptions(readOnly, given[0]),
      createSource: true,
      hasPropagation: given.length > 0,
    };
  }
  if (given.length > 0) throw invalid(`invalid volume specification: '${text}'`);
  requireVolumeName(source);
  return { type: "volume", name: source, target, readOnly, volume: { noCopy: options.includes("nocopy") } };
}

function planMount(mount: MountRequest): PlannedMount {
  const refuse = (text: string): ClusterError =>
    invalid(`invalid mount config for type "${mount.Type}": ${text}`);
  if (mount.Target === "") throw refuse("field Target must not be empty");
  if (!mount.Target.startsWith("/")) {
    throw refuse(`invalid mount path: '${mount.Target}' mount path must be absolute`);
  }
  const target = cleanPath(mount.Target);
  if (target === "/") throw refuse("invalid specification: destination can't be '/'");
  const readOnly = mount.ReadOnly;
  switch (mount.Type) {
    case "bind": {
      if (mount.Source === "") throw refuse("field Source must not be empty");
      if (!mount.Source.startsWith("/")) {
        throw refuse(`invalid mount path: '${mount.Source}' mount path must be absolute`);
      }
      const propagation = mount.Propagation === "" ? undefined : mount.Propagation;
      if (propagation !== undefined && !propagations.includes(propagation)) {
        throw refuse(`invalid propagation mode: ${propagation}`);
      }
      const isForced = mount.ReadOnlyForceRecursive === true;
      if (isForced && (!readOnly || mount.NonRecursive))
        throw refuse("ReadOnlyForceRecursive needs a read-only and recursive mount");
      if (isForced && propagation !== undefined && propagation !== "rprivate")
        throw refuse('ReadOnlyForceRecursive is only supported with "rprivate" propagation');
      const options = bindOptions(readOnly, propagation, !mount.NonRecursive);
      return {
        type: "bind",
        source: cleanPath(mount.Source),
        target,
        readOnly,
        options: isForced ? options.map((option) => (option === "ro" ? "rro" : option)) : options,
        createSource: mount.CreateMountpoint,
        hasPropagation: propagation !== undefined,
      };
    }
    case "volume":
      if (mount.Source !== "") requireVolumeName(mount.Source);
      return {
        type: "volume",
        name: mount.Source,
        target,
        readOnly,
        volume: {
          noCopy: mount.NoCopy,
          labels: mount.Labels,
          ...(mount.Subpath !== "" && { subpath: mount.Subpath }),
          ...(mount.DriverName !== "" && { driverName: mount.DriverName }),
          driverOptions: mount.DriverOptions,
        },
      };
    case "tmpfs": {
      if (mount.Source !== "") throw refuse("field Source must not be specified");
      const size = mount.SizeBytes > 0 ? [`size=${mount.SizeBytes}`] : [];
      const mode = mount.Mode === undefined ? [] : [`mode=${(mount.Mode & 0o7777).toString(8)}`];
      return {
        type: "tmpfs",
        target,
        readOnly,
        options: tmpfsOptions([readOnly ? "ro" : "rw", ...size, ...mode, ...(mount.Options ?? [])]),
      };
    }
    case "image": {
      if (mount.Source === "") throw refuse("field Source must not be empty");
      const { ImageSubpath: subpath = "" } = mount;
      if (subpath !== "" && !isInside(subpath))
        throw refuse("subpath must be a relative path within the image");
      return { type: "image", reference: mount.Source, subpath, target, readOnly: true };
    }
    default:
      throw refuse("mount type unknown");
  }
}

/** Relative, and never above where it begins. */
function isInside(path: string): boolean {
  let depth = 0;
  for (const part of path.split("/")) {
    if (part === "..") depth -= 1;
    else if (part !== "" && part !== ".") depth += 1;
    if (depth < 0) return false;
  }
  return !path.startsWith("/");
}

function planTmpfs(path: string, text: string): PlannedMount {
  if (!path.startsWith("/")) throw invalid(`invalid mount path: '${path}' mount path must be absolute`);
  const target = targetOf(path, path, "volume");
  const options = text.split(",").filter((option) => option !== "");
  return {
    type: "tmpfs",
    target,
    readOnly: options.includes("ro"),
    options: tmpfsOptions(options),
  };
}

/** Docker's own, where nothing says otherwise. */
function tmpfsOptions(given: readonly string[]): string[] {
  const opposite = (option: string): string => option.replace(/^no/, "");
  const defaults = tmpfsDefaults.filter((option) => !given.includes(opposite(option)));
  return [...new Set([...defaults, ...given])];
}

function borrow(mount: MountRecord): PlannedMount {
  const { target, readOnly, source, subpath } = mount;
  const options = (own: readonly string[]): string[] =>
    (mount.options ?? own).map((option) => (readOnly && option === "rw" ? "ro" : option));
  switch (mount.type) {
    case "bind": {
      const { createSource = false } = mount;
      return {
        type: "bind",
        source,
        target,
        readOnly,
        options: options(bindOptions(readOnly)),
        createSource,
        hasPropagation: true,
      };
    }
    case "volume": {
      const volume = { noCopy: true, ...(subpath !== undefined && { subpath }) };
      return { type: "volume", name: mount.name ?? "", target, readOnly, volume };
    }
    case "image": {
      const { imageId: reference = "" } = mount;
      return { type: "image", reference, subpath: subpath ?? "", target, readOnly: true };
    }
    case "tmpfs": {
      const own = [...tmpfsDefaults, readOnly ? "ro" : "rw"];
      const given = options(own);
      const isSaid = !readOnly || given.includes("ro");
      return { type: "tmpfs", target, readOnly, options: isSaid ? given : [...given, "ro"] };
    }
  }
}

function anonymous(path: string): PlannedMount {
  return { type: "volume", name: "", target: targetOf(path, path, "volume"), readOnly: false, volume: {} };
}

function targetOf(path: string, text: string, type: "bind" | "volume"): string {
  const refuse = (why: string): ClusterError =>
    invalid(`invalid volume specification: '${text}': invalid mount config for type "${type}": ${why}`);
  if (!path.startsWith("/")) throw refuse(`invalid mount path: '${path}' mount path must be absolute`);
  const target = cleanPath(path);
  if (target === "/") throw refuse("invalid specification: destination can't be '/'");
  return target;
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
