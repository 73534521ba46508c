/** A command in a running container whose input and output belong to somebody who is attached. */
import { mkdir, rm } from "node:fs/promises";
import type { Socket } from "node:net";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { WaitResponse } from "../../proto/gen/containerd/tasks.ts";
import { backoff } from "../../runtime/backoff.ts";
import { detailOf, isAway, toEngineError, unlessGone } from "./connection.ts";
import type { Container } from "./container.ts";
import { type ExecDeps, newExecId, processOf, type ProcessRequest, processType } from "./exec.ts";
import { startRefusal } from "./runtime.ts";
import { signalNumber } from "./signals.ts";
import { makeFifos, OutputPipe, StdinPipe } from "./stdin.ts";
import type { TerminalSize } from "./task.ts";

/** A command may run for as long as its container. */
const longestMs = 2 ** 31 - 1;

export interface SessionRequest extends ProcessRequest {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface ExecSession {
  readonly pid: number;
  readonly stdin?: StdinPipe;
  /** With a terminal, this is all there is. */
  readonly stdout?: Socket;
  readonly stderr?: Socket;
  /** Code of the end; 137 when it was lost with its container. Never rejects. */
  readonly exited: Promise<number>;
  resize(size: TerminalSize): Promise<void>;
  kill(signal: string): Promise<void>;
}

/** The runtime refused to start it; code and text as `docker exec` shows them. */
export class ExecRefused extends ClusterError {
  readonly exitCode: number;

  constructor(exitCode: number, text: string, cause: unknown) {
    super("invalid-argument", text, { cause });
    this.exitCode = exitCode;
  }
}

/** @throws {ClusterError} `conflict` when the container does not run; {@link ExecRefused}. */
export async function openSession(
  deps: ExecDeps,
  container: Container,
  request: SessionRequest,
): Promise<ExecSession> {
  const { connection, tasks, warn } = deps;
  const { id } = container;
  if (container.status.state !== "running")
    throw new ClusterError("conflict", `container ${id} is not running`);
  const execId = newExecId(deps);
  const directory = join(deps.runDirectory, id);
  const path = (stream: string): string => join(directory, `exec-${execId}-${stream}`);
  const tty = request.tty ?? false;
  const hasStderr = request.stderr && !tty;
  const given = [
    request.stdin && path("stdin"),
    request.stdout && path("stdout"),
    hasStderr && path("stderr"),
  ].filter((each) => each !== false);
  await mkdir(directory, { recursive: true, mode: 0o711 });
  await makeFifos(given);
  const stdout = request.stdout ? new OutputPipe(path("stdout")) : undefined;
  const stderr = hasStderr ? new OutputPipe(path("stderr")) : undefined;
  const stdin = request.stdin
    ? new StdinPipe(path("stdin"), false, () => tasks.closeStdin(id, execId))
    : undefined;
  let isMade = false;
  const clear = async (): Promise<void> => {
    stdin?.release();
    await Promise.all(given.map((each) => rm(each, { force: true })));
    if (isMade) {
      await unlessGone(connection.call(connection.tasks, "deleteProcess", { containerId: id, execId }));
    }
  };
  const clearQuietly = (): Promise<void> =>
    clear().catch((error: unknown) => {
      if (!isAway(error)) warn(`cannot remove a command of ${id}`, error);
    });
  try {
    const process = await processOf(deps, container, request);
    const spec = { typeUrl: processType, value: Buffer.from(JSON.stringify(process)) };
    const io = {
      stdin: request.stdin ? path("stdin") : "",
      // The shim takes both streams or none.
      stdout: request.stdout ? path("stdout") : given.length > 0 || tty ? nowhere : "",
      stderr: hasStderr ? path("stderr") : given.length > 0 && !tty ? nowhere : "",
      terminal: tty,
    };
    await connection.call(connection.tasks, "exec", { containerId: id, execId, ...io, spec });
    isMade = true;
    // Asked before the start, so that no end can be missed.
    const ended = waitFor(deps, id, execId);
    ended.catch(() => undefined);
    const pid = await tasks.start(id, execId);
    await stdin?.started();
    // crun leaves a command's terminal as it is, whatever the specification says. A command that has ended needs none.
    if (tty && request.size !== undefined)
      await tasks.resize(id, request.size, execId).catch(() => undefined);
    const exited = exitCodeOf(deps, container, execId, ended);
    void exited.then(clearQuietly);
    const sockets = { stdout: stdout?.connect(), stderr: stderr?.connect() };
    return {
      pid,
      ...(stdin !== undefined && { stdin }),
      ...(sockets.stdout !== undefined && { stdout: sockets.stdout }),
      ...(sockets.stderr !== undefined && { stderr: sockets.stderr }),
      exited,
      resize: (size) => tasks.resize(id, size, execId),
      async kill(signal) {
        await tasks.kill(id, signalNumber(signal), execId);
      },
    };
  } catch (error) {
    stdout?.close();
    stderr?.close();
    await clearQuietly();
    if (error instanceof ClusterError || isAway(error))
      throw toEngineError(error, `cannot run a command in ${id}`);
    const { exitCode, text } = startRefusal(detailOf(error), request.args[0] ?? "");
    throw new ExecRefused(
      exitCode,
      text.replace(/^failed to create task for container: failed to create shim task: /, ""),
      error,
    );
  }
}

const nowhere = "/dev/null";
const lostExitCode = 137;

/**
 * The code that a command ends with, however often containerd is restarted meanwhile: its shim keeps the command and
 * its code. Asked again until there is an answer, the container has ended, or the engine is closed. Never rejects.
 *
 * @param asked - The first question, from before the command's start.
 */
export async function exitCodeOf(
  deps: ExecDeps,
  container: Container,
  execId: string,
  asked: Promise<WaitResponse>,
): Promise<number> {
  let ended = asked;
  for (const delayMs of backoff(deps.random)) {
    try {
      return (await ended).exitStatus;
    } catch (error) {
      if (!isAway(error) || container.status.state !== "running" || deps.connection.isClosed)
        return lostExitCode;
    }
    await deps.clock.sleep(delayMs);
    ended = waitFor(deps, container.id, execId);
  }
  return lostExitCode;
}

function waitFor({ connection }: ExecDeps, containerId: string, execId: string): Promise<WaitResponse> {
  return connection.call(connection.tasks, "wait", { containerId, execId }, { timeoutMs: longestMs });
}
