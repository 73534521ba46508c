/** Which run of shoald this worker belongs to: shoald is its parent, and forks a new worker when one ends. */
import { readFile } from "node:fs/promises";

/** Boot, process id and start time of the parent: no two runs have all three. */
export async function daemonRun(): Promise<string> {
  const boot = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  const stat = await readFile(`/proc/${process.ppid}/stat`, "utf8");
  // The name in parentheses may hold anything; the start time is the 20th field after it (proc(5)).
  const startTime = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  return `${boot.trim()} ${process.ppid} ${startTime}`;
}
