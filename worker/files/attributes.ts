/**
 * Extended attributes of files, read and set by the system's getfattr and setfattr, as Node can do neither. Files are named by what
 * is held open of them, so that nothing a container does meanwhile leads elsewhere.
 */
import { execFile } from "node:child_process";
import type { FileHandle } from "node:fs/promises";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { TarHeader } from "../engine/tar.ts";
import { runTool } from "../mounts/tool.ts";
import { bytesOf, type Place, textOf } from "./tree.ts";

/** What a program may do that others may not: `setcap`. */
export const capability = "security.capability";
/** The kernel's own limits. */
const nameLimitBytes = 255;
const valueLimitBytes = 65_536;
const attributesLimit = 256;
/** Of files that are asked for in one go; a command line holds them all. */
const batchLimit = 1_000;
const toolTimeoutMs = 120_000;
/** Beyond it each directory is asked for itself. */
const walkTimeoutMs = 20_000;
const outputLimitBytes = 64 * 2 ** 20;

/**
 * Where below a directory there are files with a capability, in one go: most trees have none. Paths of directories from there on, empty
 * for itself. It walks by path, so that what it says of a tree that changes meanwhile is only where to look.
 *
 * @returns Undefined when that took too long, or was too much to say.
 */
export async function capableDirectories({ handle }: Place): Promise<ReadonlySet<string> | undefined> {
  const root = `/proc/${process.pid}/fd/${handle.fd}/.`;
  const said = await getfattr(["--recursive", "--physical", "-h"], [root], walkTimeoutMs).catch(
    () => undefined,
  );
  if (said === undefined) return undefined;
  const paths = [...parseAttributes(said).keys()].map((path) => path.slice(root.length + 1));
  return new Set(paths.map((path) => path.slice(0, Math.max(0, path.lastIndexOf("/")))));
}

/** Value by name of the file, one character for each byte; files without one are left out. */
export async function capabilitiesIn(
  directory: Place,
  names: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const above = `/proc/${process.pid}/fd/${directory.handle.fd}/`;
  const found = new Map<string, string>();
  const texts = names.filter(isText).map(textOf);
  for (let start = 0; start < texts.length; start += batchLimit) {
    const paths = texts.slice(start, start + batchLimit).map((name) => `${above}${name}`);
    for (const [path, value] of parseAttributes(await getfattr(["-h"], paths)))
      found.set(path.slice(above.length), value);
  }
  return found;
}

/** Of one file. */
export async function capabilityOf({ handle }: Place): Promise<string | undefined> {
  const path = `/proc/${process.pid}/fd/${handle.fd}`;
  return parseAttributes(await getfattr([], [path])).get(path);
}

/** Whether a name can be said to a program: one whose bytes are no UTF-8 cannot. */
export function isText(name: string): boolean {
  return bytesOf(textOf(name)) === name;
}

/** False: archives of containers go out without them. */
export async function canReadAttributes(): Promise<boolean> {
  return runTool("getfattr", ["--version"]).then(
    () => true,
    () => false,
  );
}

/**
 * Those of an entry, by name, that are to be set. Docker sets whatever an archive says; here it is what a program of the
 * container could set itself, and what programs may do.
 *
 * @throws {ClusterError} `invalid-argument` for others, such as those by which the host's file system is told how layers lie.
 */
export function settableAttributes({ name, type, attributes }: TarHeader): [name: string, value: string][] {
  const all = [...(attributes ?? [])];
  const refuse = (why: string): ClusterError =>
    new ClusterError(
      "invalid-argument",
      `attributes of ${JSON.stringify(textOf(name))} in the archive: ${why}`,
    );
  if (all.length > attributesLimit) throw refuse(`${all.length}, at most ${attributesLimit} are accepted`);
  for (const [key, value] of all) {
    const shown = JSON.stringify(textOf(key));
    const isSettable = key === capability || /^user\../.test(key);
    if (!isSettable || !isText(key) || key.includes("\0") || key.length > nameLimitBytes)
      throw refuse(`${shown} is refused: ${capability} and user.* are accepted`);
    if (value.length > valueLimitBytes)
      throw refuse(`${shown} has ${value.length} bytes, at most ${valueLimitBytes} are accepted`);
  }
  // A further name of a file comes with what the file has already.
  if (type === "1") return [];
  if (all.length > 0 && !["0", "7", "5"].includes(type)) throw refuse("only files and directories have any");
  return all;
}

/** After the content and the owner, whose change takes `security.capability` away. */
export async function setAttributes(
  { fd }: Pick<FileHandle, "fd">,
  shownName: string,
  attributes: readonly (readonly [name: string, value: string])[],
): Promise<void> {
  const path = `/proc/${process.pid}/fd/${fd}`;
  for (const [name, value] of attributes) {
    const coded = `0s${Buffer.from(value, "latin1").toString("base64")}`;
    try {
      await runTool("setfattr", ["-n", textOf(name), "-v", coded, "--", path]);
    } catch (cause) {
      const isMissing = ((cause as Error).cause as NodeJS.ErrnoException | undefined)?.code === "ENOENT";
      const why = isMissing
        ? "this host has no setfattr: install the Debian package attr"
        : errorText(cause).replace(/^(setfattr: )+(\/proc\/\d+\/fd\/\d+: )?/, "");
      const what = `cannot set attribute ${JSON.stringify(textOf(name))} of ${shownName}`;
      throw new ClusterError("invalid-argument", `${what}: ${why}`, { cause });
    }
  }
}

/** What it says of those files that are there and have one. */
function getfattr(
  options: readonly string[],
  paths: readonly string[],
  timeout = toolTimeoutMs,
): Promise<string> {
  const pattern = `^${capability.replace(".", "\\.")}$`;
  const args = [
    ...options,
    "--dump",
    "--match",
    pattern,
    "--encoding=hex",
    "--absolute-names",
    "--",
    ...paths,
  ];
  const limits = { timeout, maxBuffer: outputLimitBytes, encoding: "latin1" } as const;
  return new Promise((resolve, reject) => {
    execFile("getfattr", args, limits, (error, stdout) => {
      // 1: one of them is gone meanwhile. Without the program, the host's warnings say so.
      if (error === null || error.code === 1 || (error as NodeJS.ErrnoException).code === "ENOENT")
        resolve(stdout);
      else reject(new Error(`getfattr: ${error.message}`, { cause: error }));
    });
  });
}

/** By path. Paths and values have one character for each byte. */
export function parseAttributes(text: string): Map<string, string> {
  const found = new Map<string, string>();
  let path = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("# file: "))
      path = line
        .slice("# file: ".length)
        .replace(/\\([0-7]{3})/g, (_all, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
    const value = line.startsWith(`${capability}=0x`) ? line.slice(capability.length + 3) : undefined;
    if (value !== undefined) found.set(path, Buffer.from(value, "hex").toString("latin1"));
  }
  return found;
}
