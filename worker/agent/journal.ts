import { crc32 } from "node:zlib";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { TaskStatus } from "../../model/task.ts";
import type { AppendFile, Disk } from "../../runtime/disk.ts";
import type { Log } from "../../runtime/log.ts";
import type { Assignment } from "./assignment.ts";

/** What this node must still know of a task after a restart. */
export interface JournalTask {
  /** Without registry credentials: those are never written to disk, and the managers send them again. */
  readonly assignment: Assignment;
  /** Chosen and written before the container is made, so that none is ever lost. */
  readonly containerId?: string;
  readonly status: TaskStatus;
}

type JournalRecord =
  | { readonly kind: "task"; readonly task: JournalTask }
  | { readonly kind: "status"; readonly taskId: TaskId; readonly status: TaskStatus }
  | { readonly kind: "forget"; readonly taskId: TaskId }
  /** The node was in a session then. */
  | { readonly kind: "session"; readonly atMs: number };

interface Contents {
  readonly tasks: Map<TaskId, JournalTask>;
  sessionAtMs: number | undefined;
}

/** Rewritten when what was appended is this many times what lives, and at least the floor. */
const rewriteRatio = 4;
const rewriteFloorBytes = 1024 * 1024;

interface Waiter {
  resolve(): void;
  reject(error: ClusterError): void;
}

/**
 * The tasks of this node on disk: one file of checked lines, `<crc32> <JSON>`, appended in groups with one
 * sync each. A half-written or damaged line costs that line only. After a failed write the file is
 * written anew from memory, which is always whole.
 */
export class Journal {
  readonly #disk: Disk;
  readonly #log: Log;
  readonly #path: string;
  readonly #tasks: Map<TaskId, JournalTask>;
  #sessionAtMs: number | undefined;
  #file: AppendFile | undefined;
  #lines: string[] = [];
  #waiters: Waiter[] = [];
  #flushing: Promise<void> | undefined;
  #appendedBytes = 0;
  #liveBytes = 0;

  private constructor(deps: JournalDeps, path: string, { tasks, sessionAtMs }: Contents) {
    this.#disk = deps.disk;
    this.#log = deps.log;
    this.#path = path;
    this.#tasks = tasks;
    this.#sessionAtMs = sessionAtMs;
  }

  /** Reads what a former process left. Damaged lines are counted in the log and left out. */
  static async open(deps: JournalDeps, directory: string): Promise<Journal> {
    await deps.disk.makeDirectory(directory);
    const path = `${directory}/tasks.journal`;
    const data = await deps.disk.read(path);
    const { contents, damagedLineCount } = readLines(
      data === undefined ? "" : Buffer.from(data).toString("utf8"),
    );
    if (damagedLineCount > 0) {
      deps.log.warn(
        { path, damagedLineCount, taskCount: contents.tasks.size },
        "journal had damaged lines; they were left out",
      );
    }
    const journal = new Journal(deps, path, contents);
    if (data !== undefined && data.length > 0) await journal.#rewrite();
    return journal;
  }

  get tasks(): ReadonlyMap<TaskId, JournalTask> {
    return this.#tasks;
  }

  /** When the node was last known to be in a session, unix milliseconds; `undefined` if that was never noted. */
  get sessionAtMs(): number | undefined {
    return this.#sessionAtMs;
  }

  noteSession(atMs: number): Promise<void> {
    this.#sessionAtMs = atMs;
    return this.#append({ kind: "session", atMs });
  }

  /** Settles when it is on disk; rejects with `internal` when it could not be written. Need not be awaited. */
  put(task: JournalTask): Promise<void> {
    const { registryAuth: _secret, ...revision } = task.assignment.revision;
    const written = { ...task, assignment: { ...task.assignment, revision } };
    this.#tasks.set(task.assignment.taskId, written);
    return this.#append({ kind: "task", task: written });
  }

  /** As `put`, for the part that changes often. Of a task it does not know, it writes nothing. */
  setStatus(taskId: TaskId, status: TaskStatus): Promise<void> {
    const task = this.#tasks.get(taskId);
    if (task === undefined) return Promise.resolve();
    this.#tasks.set(taskId, { ...task, status });
    return this.#append({ kind: "status", taskId, status });
  }

  forget(taskId: TaskId): Promise<void> {
    if (!this.#tasks.delete(taskId)) return Promise.resolve();
    return this.#append({ kind: "forget", taskId });
  }

  /** Writes what waits and closes the file. */
  async close(): Promise<void> {
    await this.#flushing;
    await this.#file?.close();
    this.#file = undefined;
  }

  #append(record: JournalRecord): Promise<void> {
    this.#lines.push(printLine(record));
    const written = new Promise<void>((resolve, reject) => this.#waiters.push({ resolve, reject }));
    written.catch(() => undefined); // Whoever must know awaits it; nobody has to.
    this.#flushing ??= this.#flush();
    return written;
  }

  /** Groups form while the disk is busy: all that came during one sync goes into the next. */
  async #flush(): Promise<void> {
    await Promise.resolve(); // All of one turn of the event loop goes into one group.
    while (this.#lines.length > 0) {
      const text = this.#lines.join("");
      const waiters = this.#waiters;
      this.#lines = [];
      this.#waiters = [];
      try {
        await this.#write(text);
        for (const waiter of waiters) waiter.resolve();
      } catch (cause) {
        this.#log.error({ path: this.#path, error: cause }, "journal could not be written");
        const error = new ClusterError("internal", `cannot write ${this.#path}: ${errorText(cause)}`, {
          cause,
        });
        for (const waiter of waiters) waiter.reject(error);
      }
    }
    this.#flushing = undefined; // In the same turn as the look above, so that no line is left behind.
  }

  async #write(text: string): Promise<void> {
    const isOversized = this.#appendedBytes > Math.max(rewriteFloorBytes, rewriteRatio * this.#liveBytes);
    if (this.#file === undefined || isOversized) return this.#rewrite();
    try {
      const data = Buffer.from(text, "utf8");
      await this.#file.append(data);
      await this.#file.sync();
      this.#appendedBytes += data.length;
    } catch (error) {
      // Part of a line may be in the file: the next write starts from a whole one.
      const broken = this.#file;
      this.#file = undefined;
      await broken.close().catch(() => undefined); // The failure to report is the first one.
      throw error;
    }
  }

  /** Replaces the file by what is known now, which includes every line that waits. */
  async #rewrite(): Promise<void> {
    const old = this.#file;
    this.#file = undefined;
    await old?.close();
    const records: JournalRecord[] = [...this.#tasks.values()].map((task) => ({ kind: "task", task }));
    if (this.#sessionAtMs !== undefined) records.push({ kind: "session", atMs: this.#sessionAtMs });
    const text = records.map(printLine).join("");
    const data = Buffer.from(text, "utf8");
    await this.#disk.replace(this.#path, data);
    this.#file = await this.#disk.openAppend(this.#path);
    this.#appendedBytes = 0;
    this.#liveBytes = data.length;
  }
}

export interface JournalDeps {
  readonly disk: Disk;
  readonly log: Log;
}

function printLine(record: JournalRecord): string {
  const json = JSON.stringify(record);
  return `${checksum(json)} ${json}\n`;
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, "0");
}

/** Later lines win; what does not check or parse is only counted. */
function readLines(text: string): { contents: Contents; damagedLineCount: number } {
  const contents: Contents = { tasks: new Map(), sessionAtMs: undefined };
  let damagedLineCount = 0;
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const record = readLine(line);
    if (record === undefined) damagedLineCount += 1;
    else apply(contents, record);
  }
  return { contents, damagedLineCount };
}

function readLine(line: string): JournalRecord | undefined {
  const json = line.slice(9);
  if (line[8] !== " " || line.slice(0, 8) !== checksum(json)) return undefined;
  try {
    return JSON.parse(json) as JournalRecord;
  } catch {
    return undefined; // Cannot be with a right checksum, and would be damage all the same.
  }
}

function apply(contents: Contents, record: JournalRecord): void {
  const { tasks } = contents;
  switch (record.kind) {
    case "task":
      tasks.set(record.task.assignment.taskId, record.task);
      return;
    case "status": {
      const task = tasks.get(record.taskId);
      if (task !== undefined) tasks.set(record.taskId, { ...task, status: record.status });
      return;
    }
    case "forget":
      tasks.delete(record.taskId);
      return;
    case "session":
      contents.sessionAtMs = record.atMs;
      return;
  }
}
