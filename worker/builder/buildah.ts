/** The one place that starts buildah, with storage and settings of our own. */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access, mkdir, readdir, rmdir, statfs, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { ProxySettings } from "../../proto/host.ts";
import type { Clock } from "../../runtime/clock.ts";

/** Of what a command prints that is kept: ids, and the end of an error. */
const keptBytes = 4 * 2 ** 20;
/** OVERLAYFS_SUPER_MAGIC (linux/magic.h): no overlay can lie on another. */
const overlayMagic = 0x794c7630;
const cgroupRoot = "/sys/fs/cgroup";
/** CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC (linux/magic.h): in directories of anything else there is nothing to wait for. */
const cgroupMagics = new Set([0x27e0eb, 0x63677270]);
/** For which processes that were killed may be in their cgroup still. */
const dyingMs = 5_000;
const dyingPollMs = 20;

export interface BuildahDirectories {
  /** Images and layers; what lies here is a cache. */
  readonly root: string;
  /** What need not survive a reboot. */
  readonly runRoot: string;
  /** Settings that we write for it. */
  readonly settings: string;
}

export interface BuildahRun {
  readonly args: readonly string[];
  /** For its temporary files. */
  readonly temporary: string;
  readonly onOutput?: (text: string) => void;
  readonly onError?: (text: string) => void;
  /** Asked after each text: while what it returns is open no more is read, and so it stops where it writes. */
  readonly behind?: () => Promise<void> | undefined;
}

export interface BuildahResult {
  readonly code: number;
  /** The last part of each. */
  readonly out: string;
  readonly err: string;
}

/**
 * Every run has a process and a mount namespace of its own, and ends with us: so nothing that it started, and nothing
 * that it mounted, is left when it is killed.
 */
const inNamespaces =
  "--pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc --propagation slave".split(" ");

/** Nothing of the host's own settings of buildah and podman counts. */
const containersConf = `[containers]
base_hosts_file = "none"
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
`;
/** Images come from our own store, which has verified them. */
const policy = '{"default":[{"type":"insecureAcceptAnything"}]}\n';

export class Buildah {
  readonly #directories: BuildahDirectories;
  readonly #proxies: ProxySettings;
  #ready: Promise<readonly string[]> | undefined;

  /** @param proxies - For what `ADD` fetches; commands of a build are not told of them. */
  constructor(directories: BuildahDirectories, proxies: ProxySettings) {
    this.#directories = directories;
    this.#proxies = proxies;
  }

  get policyFile(): string {
    return join(this.#directories.settings, "policy.json");
  }

  /**
   * Runs to its end; a code other than 0 is a result. Once the signal aborts, it is killed with all that it started.
   *
   * @throws {ClusterError} `unavailable` when it is not installed; the signal's reason.
   */
  async run(run: BuildahRun, signal: AbortSignal): Promise<BuildahResult> {
    const { args, temporary, onOutput, onError, behind } = run;
    this.#ready ??= this.#prepare().catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    const storage = await this.#ready;
    signal.throwIfAborted();
    const env = {
      PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      HTTP_PROXY: this.#proxies.httpProxy,
      HTTPS_PROXY: this.#proxies.httpsProxy,
      NO_PROXY: this.#proxies.noProxy,
      HOME: temporary,
      TMPDIR: temporary,
      // Where its runtime notes what runs: a build that is killed leaves that behind, and it goes with the rest of it.
      XDG_RUNTIME_DIR: temporary,
      CONTAINERS_CONF: join(this.#directories.settings, "containers.conf"),
      CONTAINERS_STORAGE_CONF: join(this.#directories.settings, "storage.conf"),
      CONTAINERS_REGISTRIES_CONF: join(this.#directories.settings, "registries.conf"),
    };
    const argv = [...inNamespaces, "buildah", "--log-level", "error", ...storage, ...args];
    const child = spawn("setpriv", argv, { env, cwd: temporary, stdio: ["ignore", "pipe", "pipe"] });
    const kill = (): void => {
      child.kill("SIGKILL");
      // It has ended once its output was read, whoever is behind.
      child.stdout.resume();
      child.stderr.resume();
    };
    signal.addEventListener("abort", kill, { once: true });
    const behindAlive = (): Promise<void> | undefined => (signal.aborted ? undefined : behind?.());
    const out = listen(child.stdout, onOutput, behindAlive);
    const err = listen(child.stderr, onError, behindAlive);
    try {
      const code = await new Promise<number>((resolve, reject) => {
        child.once("error", (cause) =>
          reject(new ClusterError("unavailable", `cannot run setpriv: ${cause.message}`, { cause })),
        );
        child.once("close", (status) => resolve(status ?? 128));
      });
      signal.throwIfAborted();
      return { code, out: out(), err: err() };
    } finally {
      signal.removeEventListener("abort", kill);
    }
  }

  /** As `run`; fails with buildah's own words. @param doing - Completes "cannot …". */
  async must(doing: string, run: BuildahRun, signal: AbortSignal): Promise<string> {
    const { code, out, err } = await this.run(run, signal);
    if (code === 0) return out;
    throw new ClusterError("internal", `cannot ${doing}: ${lastWords(err) || `buildah ended with ${code}`}`);
  }

  async #prepare(): Promise<readonly string[]> {
    const { root, runRoot, settings } = this.#directories;
    await requireProgram("buildah", "buildah");
    await requireProgram("setpriv", "util-linux");
    for (const directory of [root, runRoot, settings])
      await mkdir(directory, { recursive: true, mode: 0o700 });
    const { type } = await statfs(root);
    const driver = type === overlayMagic ? "vfs" : "overlay";
    const storage = `[storage]\ndriver = "${driver}"\ngraphroot = "${root}"\nrunroot = "${runRoot}"\n`;
    const files = {
      "containers.conf": containersConf,
      "policy.json": policy,
      "registries.conf": "unqualified-search-registries = []\n",
      "storage.conf": storage,
    };
    for (const [name, text] of Object.entries(files)) await writeFile(join(settings, name), text);
    return ["--root", root, "--runroot", runRoot, "--storage-driver", driver];
  }
}

/** The end of what a program said, without its level of severity. */
export function lastWords(err: string): string {
  const lines = err.split("\n").filter((line) => line.trim() !== "");
  return (lines.at(-1) ?? "").replace(/^(?:Error: |error )/, "");
}

/**
 * Removes the cgroups of a build that ended or was killed, in every hierarchy there is. Absent ones are fine. A dying process
 * keeps its own busy for a moment longer, so that it is looked at again for a while; what is left then, `Builder` finds later.
 */
export async function removeCgroup(clock: Pick<Clock, "monotonic" | "sleep">, path: string): Promise<void> {
  const hierarchies = ["", ...(await readdir(cgroupRoot).catch(() => []))];
  const deadlineMs = clock.monotonic() + dyingMs;
  for (const hierarchy of hierarchies) {
    const tree = join(cgroupRoot, hierarchy, path);
    const type = await statfs(tree).then(
      (info) => info.type,
      () => undefined,
    );
    if (type === undefined || !cgroupMagics.has(type)) continue;
    while (!(await removeTree(tree)) && clock.monotonic() < deadlineMs) await clock.sleep(dyingPollMs);
  }

  /** @returns False while something is left that may go. */
  async function removeTree(directory: string): Promise<boolean> {
    const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) if (entry.isDirectory()) await removeTree(join(directory, entry.name));
    try {
      await rmdir(directory);
      return true;
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (["ENOTEMPTY", "EBUSY"].includes(code)) return false;
      // Absent, or nothing of a hierarchy.
      if (["ENOENT", "ENOTDIR", "EPERM"].includes(code)) return true;
      throw error;
    }
  }
}

async function requireProgram(program: string, debianPackage: string): Promise<void> {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  for (const folder of folders) {
    const found = await access(join(folder, program), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return;
  }
  throw new ClusterError(
    "unavailable",
    `cannot build images: there is no ${program} on this host's PATH; on Debian: apt-get install --no-install-recommends ${debianPackage}`,
  );
}

/** Hands on what comes; returns what keeps the end of it. */
function listen(
  stream: NodeJS.ReadableStream,
  listener: ((text: string) => void) | undefined,
  behind: () => Promise<void> | undefined,
): () => string {
  let kept = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    kept += text;
    // Not for every piece, as it copies all of it.
    if (kept.length > 2 * keptBytes) kept = kept.slice(-keptBytes);
    listener?.(text);
    const wait = behind();
    if (wait === undefined) return;
    stream.pause();
    void wait.then(() => stream.resume());
  });
  return () => kept.slice(-keptBytes);
}
