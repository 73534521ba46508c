import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { readFile, readlink } from "node:fs/promises";
import { basename } from "node:path";

export interface Place {
  /** `cgroup.procs` of the group that the process joins before it is anything else. */
  readonly procsFile: string;
  readonly netns: string;
  /** Takes both outputs; appended to. */
  readonly logFile: string;
}

/** Starts a command that outlives us inside a cgroup and a network namespace. */
export function spawnInside({ procsFile, netns, logFile }: Place, argv: readonly string[]): void {
  const log = openSync(logFile, "a");
  const enter = ["nsenter", `--net=/run/netns/${netns}`, ...argv];
  const child = spawn("sh", ["-c", 'echo $$ >"$0" && exec "$@"', procsFile, ...enter], {
    detached: true,
    stdio: ["ignore", log, log],
    cwd: "/",
  });
  child.on("error", () => undefined); // whoever waits for the service's first answer says what is missing
  child.unref();
  closeSync(log);
}

/** What /proc says of a process. */
export interface ProcessInfo {
  readonly pid: number;
  readonly parentPid: number;
  /** The PID inside the innermost namespace; 1 for a host's or container's first process. */
  readonly innerPid: number;
  /** How many PID namespaces the process can be seen from; 1 for a process of this machine. */
  readonly depth: number;
  readonly argv: readonly string[];
  /** Name of the executable file, such as `containerd`. */
  readonly executable: string;
  readonly rssBytes: number;
}

/** @returns `undefined` for a process that has ended, also when it is still a zombie. */
export async function readProcess(pid: number): Promise<ProcessInfo | undefined> {
  try {
    const [status, cmdline, link] = await Promise.all([
      readFile(`/proc/${pid}/status`, "utf8"),
      readFile(`/proc/${pid}/cmdline`, "utf8"),
      readlink(`/proc/${pid}/exe`),
    ]);
    const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
    const inner = field("NSpid").split(/\s+/).map(Number);
    return {
      pid,
      parentPid: Number(field("PPid")),
      innerPid: inner.at(-1) ?? pid,
      depth: inner.length,
      argv: cmdline.split("\0").slice(0, -1),
      executable: basename(link),
      rssBytes: Number.parseInt(field("VmRSS") || "0", 10) * 1024,
    };
  } catch {
    return undefined;
  }
}
