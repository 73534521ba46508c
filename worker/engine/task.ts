/** containerd's calls about tasks (running containers), in our words. */
import { status } from "@grpc/grpc-js";

import { type Process, Status } from "../../proto/gen/containerd/tasks.ts";
import type { Mount } from "../../proto/gen/containerd/types.ts";
import type { Any } from "../../proto/gen/google/protobuf/any.ts";
import type { Timestamp } from "../../proto/gen/google/protobuf/timestamp.ts";
import { type Connection, isNotFound, isShimGone, statusOf, unlessGone } from "./connection.ts";
import type { OciResources } from "./oci.ts";
import type { ShimGroups } from "./shims.ts";

const resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

export interface TerminalSize {
  /** Characters. */
  readonly width: number;
  readonly height: number;
}

export interface TaskIo {
  /** Path of a FIFO; empty: none. */
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
}

export type TaskView =
  | { readonly state: "created" | "running"; readonly pid: number; readonly paused?: true }
  | { readonly state: "stopped"; readonly exitCode: number; readonly atMs: number };

export class Tasks {
  readonly #connection: Connection;
  readonly #shims: ShimGroups;

  constructor(connection: Connection, shims: ShimGroups) {
    this.#connection = connection;
    this.#shims = shims;
  }

  async create(id: string, rootfs: readonly Mount[], io: TaskIo, options: Any): Promise<void> {
    const { tasks } = this.#connection;
    const request = { containerId: id, rootfs: [...rootfs], ...io, options };
    await this.#shims.create(id, () => this.#connection.call(tasks, "create", request));
  }

  /** @returns The process id on the host. */
  async start(id: string, execId = ""): Promise<number> {
    const { tasks } = this.#connection;
    const { pid } = await this.#connection.call(tasks, "start", { containerId: id, execId });
    return pid;
  }

  /** False when there was nothing left to signal. */
  async kill(id: string, signal: number, execId = ""): Promise<boolean> {
    const { tasks } = this.#connection;
    try {
      await this.#connection.call(tasks, "kill", { containerId: id, execId, signal, all: false });
      return true;
    } catch (error) {
      const code = statusOf(error);
      if (code === status.NOT_FOUND || code === status.FAILED_PRECONDITION || isShimGone(error)) return false;
      throw error;
    }
  }

  async pause(id: string): Promise<void> {
    const { tasks } = this.#connection;
    await this.#connection.call(tasks, "pause", { containerId: id });
  }

  async resume(id: string): Promise<void> {
    const { tasks } = this.#connection;
    await this.#connection.call(tasks, "resume", { containerId: id });
  }

  async resize(id: string, { width, height }: TerminalSize, execId = ""): Promise<void> {
    const { tasks } = this.#connection;
    await this.#connection.call(tasks, "resizePty", { containerId: id, execId, width, height });
  }

  /** The process reads to the end of what was written. A process that has ended needs no such news. */
  async closeStdin(id: string, execId = ""): Promise<void> {
    const { tasks } = this.#connection;
    await unlessGone(this.#connection.call(tasks, "closeIo", { containerId: id, execId, stdin: true }));
  }

  async update(id: string, resources: OciResources): Promise<void> {
    const { tasks } = this.#connection;
    const value = Buffer.from(JSON.stringify(resources));
    await this.#connection.call(tasks, "update", {
      containerId: id,
      resources: { typeUrl: resourcesType, value },
    });
  }

  /** Settles when the task has ended; at once if it has or there is none. */
  async ended(id: string, timeoutMs: number): Promise<void> {
    const { tasks } = this.#connection;
    await unlessGone(this.#connection.call(tasks, "wait", { containerId: id, execId: "" }, { timeoutMs }));
  }

  /** Removes an ended task. */
  async delete(id: string): Promise<void> {
    const { tasks } = this.#connection;
    await this.#shims.delete(id, () =>
      unlessGone(this.#connection.call(tasks, "delete", { containerId: id })),
    );
  }

  /** Removes what is left of a command that has ended. */
  async deleteExec(id: string, execId: string): Promise<void> {
    const { tasks } = this.#connection;
    await unlessGone(this.#connection.call(tasks, "deleteProcess", { containerId: id, execId }));
  }

  async get(id: string): Promise<TaskView | undefined> {
    const { tasks } = this.#connection;
    try {
      const { process } = await this.#connection.call(tasks, "get", { containerId: id, execId: "" });
      return process === undefined ? undefined : viewOf(process);
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  /** Every task, by container id. */
  async list(): Promise<Map<string, TaskView>> {
    const { tasks } = this.#connection;
    const { tasks: processes } = await this.#connection.call(tasks, "list", { filter: "" });
    return new Map(processes.map((process) => [process.id, viewOf(process)]));
  }
}

export function millisecondsOf(timestamp: Timestamp | undefined): number {
  if (timestamp === undefined || timestamp.seconds <= 0) return 0;
  return timestamp.seconds * 1000 + Math.floor(timestamp.nanos / 1e6);
}

function viewOf({ status: state, pid, exitStatus, exitedAt }: Process): TaskView {
  if (state === Status.STOPPED)
    return { state: "stopped", exitCode: exitStatus, atMs: millisecondsOf(exitedAt) };
  const isPaused = state === Status.PAUSED || state === Status.PAUSING;
  return { state: state === Status.CREATED ? "created" : "running", pid, ...(isPaused && { paused: true }) };
}
