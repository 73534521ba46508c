import { readdir, readFile } from "node:fs/promises";

/** Of one process, in seconds. */
export interface ProcessorTime {
  /** The thread that runs its main event loop. */
  readonly main: number;
  /** All others together: the raft thread, TLS and disk of libuv's pool, and V8's collectors and compilers. */
  readonly others: number;
}

const ticksPerSecond = 100;

/** User and system time of every thread that a process has now. */
export async function processorTime(pid: number): Promise<ProcessorTime> {
  const time = { main: 0, others: 0 };
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const stat = await readFile(`/proc/${pid}/task/${thread}/stat`, "utf8").catch(() => undefined);
    if (stat === undefined) continue; // It ended meanwhile.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // From field 3, see proc(5).
    const seconds = (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
    if (Number(thread) === pid) time.main += seconds;
    else time.others += seconds;
  }
  return time;
}

export function since(before: ProcessorTime, now: ProcessorTime): ProcessorTime {
  return { main: now.main - before.main, others: now.others - before.others };
}
