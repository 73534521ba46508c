import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { waitFor } from "./shell.ts";

const mountPoint = "/sys/fs/cgroup";
const rootName = "shoal-lab";

/** Cgroup v2 alone. Otherwise (v1, or v1 with v2 beside it) the v1 freezer tells which processes are ours. */
const unified = existsSync(`${mountPoint}/cgroup.controllers`);
const trackingRoot = unified ? mountPoint : `${mountPoint}/freezer`;
/** Where the kernel counts processor time. */
const countingRoot = unified ? mountPoint : `${mountPoint}/cpuacct`;

/**
 * The cgroup of one host (or of the bridge's namespace): what says that a process is ours, freezes it and ends it.
 *
 * Below it are `host` with the host's own processes, and `containers`, the cgroup parent of its containers: cgroup v2 allows
 * no processes beside sub-groups.
 */
export class LabCgroup {
  /** Given to shoald as `--cgroup-parent`. */
  readonly containersParent: string;
  /** Writing a PID here makes that process part of the host. */
  readonly procsFile: string;
  readonly #path: string;

  readonly name: string;

  constructor(name: string) {
    this.name = name;
    this.#path = `${trackingRoot}/${rootName}/${name}`;
    this.containersParent = `/${rootName}/${name}/containers`;
    this.procsFile = `${this.#path}/host/cgroup.procs`;
  }

  async create(): Promise<void> {
    await mkdir(`${this.#path}/host`, { recursive: true });
  }

  /** Every process of the host, those of its containers included; as this machine numbers them. */
  async pids(): Promise<number[]> {
    const groups = await subtree(this.#path);
    const lists = await Promise.all(groups.map((group) => readPids(`${group}/cgroup.procs`)));
    return lists.flat();
  }

  /** From now on `processorMs` counts what the processes that are there use, and those that they start. */
  async countProcessorTime(): Promise<void> {
    if (unified) return; // The kernel does so for every group.
    const group = `${countingRoot}/${rootName}/${this.name}/host`;
    await mkdir(group, { recursive: true });
    // One that was started meanwhile by one not yet moved is found by the second look.
    for (let look = 0; look < 2; look += 1) {
      for (const pid of await readPids(this.procsFile)) {
        await writeFile(`${group}/cgroup.procs`, String(pid)).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== "ESRCH") throw error; // It has ended.
        });
      }
    }
  }

  /** User and system time of all that ran here since `countProcessorTime`, containers included, also of what has ended. */
  async processorMs(): Promise<number> {
    const group = `${countingRoot}/${rootName}/${this.name}`;
    if (!unified) return Number(await readFile(`${group}/cpuacct.usage`, "utf8")) / 1e6;
    const stat = await readFile(`${group}/cpu.stat`, "utf8");
    return Number(/^usage_usec (\d+)$/m.exec(stat)?.[1]) / 1e3;
  }

  /** Stops all processes at once, as a machine does that hangs. */
  async freeze(): Promise<void> {
    await this.#setFrozen(true);
  }

  async thaw(): Promise<void> {
    await this.#setFrozen(false);
  }

  async isFrozen(): Promise<boolean> {
    const file = unified ? "cgroup.freeze" : "freezer.state";
    const state = await readFile(`${this.#path}/${file}`, "utf8").catch(() => "");
    return unified ? state.trim() === "1" : state.trim().startsWith("FR"); // FREEZING or FROZEN
  }

  /** Ends every process of the host and waits until none is left; a frozen one is thawed for it. */
  async killAll(): Promise<void> {
    await waitFor(`end of the processes of ${this.name}`, { timeoutMs: 20_000, everyMs: 20 }, async () => {
      const pids = await this.pids();
      for (const pid of pids) signal(pid, "SIGKILL");
      if (pids.length > 0) await this.thaw();
      return pids.length === 0;
    });
  }

  /** Removes the group from every hierarchy, container runtimes' sub-groups included. All processes must have ended. */
  async remove(): Promise<void> {
    const roots = unified
      ? [mountPoint]
      : (await readdir(mountPoint)).map((entry) => `${mountPoint}/${entry}`);
    for (const root of roots) {
      const groups = await subtree(`${root}/${rootName}/${this.name}`);
      for (const group of groups.toReversed()) await removeGroup(group);
      await rmdir(`${root}/${rootName}`).catch(() => undefined); // other labs may still use it
    }
  }

  async #setFrozen(frozen: boolean): Promise<void> {
    if (!existsSync(this.#path)) return;
    if (unified) return writeFile(`${this.#path}/cgroup.freeze`, frozen ? "1" : "0");
    return writeFile(`${this.#path}/freezer.state`, frozen ? "FROZEN" : "THAWED");
  }
}

/** The names of all cgroups that labs have made and not removed. */
export async function labCgroups(): Promise<string[]> {
  const entries = await readdir(`${trackingRoot}/${rootName}`, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

/** Sends a signal to a process that was just seen in one of our cgroups; one that has ended meanwhile is no failure. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** The group and all below it, parents first. */
async function subtree(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => undefined);
  if (entries === undefined) return [];
  const below = entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => subtree(`${path}/${entry.name}`));
  return [path, ...(await Promise.all(below)).flat()];
}

async function readPids(file: string): Promise<number[]> {
  const content = await readFile(file, "utf8").catch(() => "");
  // A process of another PID namespace is listed as 0, and a signal to 0 would hit our own group.
  return content
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
}

/** A group stays busy for some milliseconds after its last process has ended. */
async function removeGroup(path: string): Promise<void> {
  await waitFor(`removal of ${path}`, { timeoutMs: 5_000, everyMs: 10 }, async () => {
    await rmdir(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    return true;
  });
}
