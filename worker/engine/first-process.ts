/** Signals to a container's first process that the runtime does not have to carry: starting it costs more than all else of a stop. */
import { readFileSync } from "node:fs";

/**
 * Signals the process as the runtime would.
 *
 * @param pid - Of the first process, on the host.
 * @returns False where it is not certain that the process is the container's; the runtime then finds out.
 */
export function signalFirstProcess(pid: number, containerId: string, signal: number): boolean {
  if (pid <= 0) return false;
  try {
    if (!namesCgroupOf(readFileSync(`/proc/${pid}/cgroup`, "utf8"), containerId)) return false;
    process.kill(pid, signal);
    return true;
  } catch {
    return false; // It is gone, or not ours to signal.
  }
}

/**
 * Whether a process with this `/proc/PID/cgroup` is in the container's cgroup, or in one that was made below it. Once a
 * container has ended its number may be another process's, which is in another cgroup.
 */
export function namesCgroupOf(text: string, containerId: string): boolean {
  return text.split("\n").some((line) => line.split(":").slice(2).join(":").split("/").includes(containerId));
}
