/** Runs a command inside a container. Output goes to a plain file, so that a full pipe never blocks the command. */
import { mkdir, open, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import { type Connection, detailOf, isAway, toEngineError, unlessGone } from "./connection.ts";
import type { Container } from "./container.ts";
import type { ExecRequest, ExecResult } from "./engine.ts";
import type { OciProcess, OciSpec } from "./oci.ts";
import { environmentOf } from "./process.ts";
import { startRefusal } from "./runtime.ts";
import { readInLayers } from "./rootfs.ts";
import { lowerDirectories, snapshotMounts, upperDirectory } from "./snapshots.ts";
import type { Tasks, TerminalSize } from "./task.ts";
import { resolveUser } from "./user.ts";

export const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/** The output file is cut back this often while the command runs. */
const boundEveryMs = 500;
const boundFactor = 16;
/** What starting and ending a command may take beyond its own time. */
const overheadMs = 30_000;
const sigkill = 9;

export interface ExecDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly connection: Connection;
  readonly tasks: Tasks;
  /** For output files; in memory on most hosts. */
  readonly runDirectory: string;
  /** Ids of this process's commands begin with it: those of a former one have nobody who waits for them. */
  readonly execPrefix: string;
  readonly warn: (message: string, error: unknown) => void;
}

export async function execInContainer(
  deps: ExecDeps,
  container: Container,
  request: ExecRequest,
  abort: AbortSignal,
): Promise<ExecResult> {
  const { id } = container;
  if (container.status.state !== "running") {
    throw new ClusterError("conflict", `container ${id} is not running`);
  }
  const execId = newExecId(deps);
  const directory = join(deps.runDirectory, id);
  const output = join(directory, `exec-${execId}`);
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const file = await open(output, "a", 0o600);
  await file.close();
  try {
    return await run(deps, container, request, { execId, output }, abort);
  } catch (error) {
    abort.throwIfAborted();
    if (error instanceof ClusterError || isAway(error))
      throw toEngineError(error, `cannot run a command in ${id}`);
    const { exitCode, text } = startRefusal(detailOf(error), request.args[0] ?? "");
    return { exitCode, output: text };
  } finally {
    await rm(output, { force: true });
  }
}

export function newExecId({ random, execPrefix }: Pick<ExecDeps, "random" | "execPrefix">): string {
  return `${execPrefix}${newContainerId(random).slice(0, 24)}`;
}

async function run(
  deps: ExecDeps,
  container: Container,
  request: ExecRequest,
  { execId, output }: { execId: string; output: string },
  abort: AbortSignal,
): Promise<ExecResult> {
  const { clock, connection, tasks, warn } = deps;
  const { id } = container;
  const client = connection.tasks;
  const process = await processOf(deps, container, request);
  const spec = { typeUrl: processType, value: Buffer.from(JSON.stringify(process)) };
  const io = { stdin: "", stdout: output, stderr: output, terminal: false };
  await connection.call(client, "exec", { containerId: id, execId, ...io, spec });
  const late = new AbortController();
  const waitMs = request.timeoutMs + overheadMs;
  let cancelBound = (): void => {};
  let cancelLate = (): void => {};
  try {
    // Asked before the start, so that no end can be missed.
    const ended = connection.call(client, "wait", { containerId: id, execId }, { timeoutMs: waitMs });
    ended.catch(() => {});
    await tasks.start(id, execId);
    const stop = (): void => {
      tasks.kill(id, sigkill, execId).catch((error: unknown) => warn(`cannot end a command in ${id}`, error));
    };
    cancelLate = clock.after(request.timeoutMs, () => {
      late.abort();
      stop();
    });
    abort.addEventListener("abort", stop, { once: true });
    const limit = request.outputLimitBytes;
    cancelBound = clock.every(boundEveryMs, () => {
      boundFile(output, limit).catch((error: unknown) =>
        warn(`cannot bound output of a command in ${id}`, error),
      );
    });
    try {
      const { exitStatus } = await ended;
      abort.throwIfAborted();
      if (late.signal.aborted) {
        throw new ClusterError("deadline-exceeded", `the command did not end within ${request.timeoutMs} ms`);
      }
      return { exitCode: exitStatus, output: await headOf(output, limit) };
    } finally {
      abort.removeEventListener("abort", stop);
    }
  } finally {
    cancelLate();
    cancelBound();
    await unlessGone(connection.call(client, "deleteProcess", { containerId: id, execId })).catch(
      (error: unknown) => {
        if (!isAway(error)) warn(`cannot remove a command of ${id}`, error);
      },
    );
  }
}

/** What a command changes of the container's own process. */
export interface ProcessRequest {
  readonly args: readonly string[];
  readonly env?: readonly string[];
  readonly user?: string;
  readonly workingDir?: string;
  readonly tty?: boolean;
  readonly size?: TerminalSize;
  /** These and no others, for root and everybody else. */
  readonly capabilities?: readonly string[];
}

/** The container's own process, with other arguments. */
export async function processOf(
  deps: ExecDeps,
  container: Container,
  request: ProcessRequest,
): Promise<OciProcess> {
  const own = container.process ?? (await storedProcess(deps, container.id));
  container.process = own;
  const user = request.user === undefined ? own.user : await userOf(deps, container, request.user);
  const { consoleSize: _size, ...inherited } = own;
  const { tty = false, size } = request;
  const bounding = request.capabilities ?? own.capabilities.bounding;
  const held = user.uid === 0 || request.capabilities !== undefined ? bounding : [];
  return {
    ...inherited,
    terminal: tty,
    ...(tty && size !== undefined && { consoleSize: size }),
    user,
    args: request.args,
    env: environmentOf([own.env, tty ? ["TERM=xterm"] : [], request.env ?? []]),
    cwd: request.workingDir ?? own.cwd,
    capabilities: { bounding, effective: held, permitted: held },
  };
}

async function storedProcess({ connection }: ExecDeps, id: string): Promise<OciProcess> {
  const { containers } = connection;
  const { container } = await connection.call(containers, "get", { id });
  const text = container?.spec?.value.toString("utf8");
  if (text === undefined) throw new ClusterError("not-found", `container ${id} has no specification`);
  return (JSON.parse(text) as OciSpec).process;
}

/** As the container's own files have it: users may have been added since it began. */
async function userOf(
  { connection }: ExecDeps,
  { id, stored }: Container,
  user: string,
): Promise<OciProcess["user"]> {
  const mounts = await snapshotMounts(connection, id);
  const layers = [upperDirectory(mounts) ?? [], lowerDirectories(mounts)].flat();
  const [passwd, group] = await Promise.all([
    readInLayers(layers, "/etc/passwd"),
    readInLayers(layers, "/etc/group"),
  ]);
  return resolveUser(user, stored.groups ?? [], passwd, group);
}

/** The shim appends, so cutting the file's end keeps its beginning and frees the rest. */
async function boundFile(path: string, limitBytes: number): Promise<void> {
  const { size } = await stat(path);
  if (size > limitBytes * boundFactor) await truncate(path, limitBytes);
}

async function headOf(path: string, limitBytes: number): Promise<string> {
  const file = await open(path, "r");
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(limitBytes), 0, limitBytes, 0);
    return buffer.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
}
