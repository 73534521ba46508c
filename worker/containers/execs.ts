/** Commands that a user runs in containers: from their creation to the code they ended with. In memory, as they end with us. */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Log } from "../../runtime/log.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import { ExecRefused, type ExecSession } from "../engine/exec-session.ts";
import type { LocalEngine } from "../engine/local.ts";
import { capabilitiesOf } from "../engine/process.ts";
import type { TerminalSize } from "../engine/task.ts";
import { Fields } from "./fields.ts";

export interface ExecConfig {
  readonly attachStdin: boolean;
  readonly attachStdout: boolean;
  readonly attachStderr: boolean;
  readonly detachKeys: string;
  readonly tty: boolean;
  readonly env: readonly string[];
  readonly cmd: readonly string[];
  readonly privileged: boolean;
  readonly user: string;
  readonly workingDir: string;
  readonly size: TerminalSize | undefined;
}

export interface Exec {
  readonly id: string;
  readonly containerId: string;
  /** The run of the container that it was created in. */
  readonly runStartedAtMs: number;
  readonly config: ExecConfig;
  session: ExecSession | undefined;
  pid: number;
  state: "created" | "running" | "ended";
  exitCode: number | undefined;
}

export interface ExecStart {
  readonly attached: boolean;
  readonly tty: boolean;
  readonly size?: TerminalSize;
  /** Called before the command runs, once nothing but its start can go wrong. */
  readonly onAccepted?: () => void;
}

export interface ExecsDeps {
  readonly engine: LocalEngine;
  readonly random: Random;
  readonly log: Log;
  readonly facts: { readonly lastCapability: number };
  emit(containerId: string, action: string, attributes: Readonly<Record<string, string>>): Promise<void>;
}

/** Of those that have ended, the oldest are forgotten beyond this many. */
const keptExecs = 1_000;
const liveExecsLimit = 10_000;

export class Execs {
  readonly #deps: ExecsDeps;
  readonly #execs = new Map<string, Exec>();

  constructor(deps: ExecsDeps) {
    this.#deps = deps;
  }

  /** @throws {ClusterError} `invalid-argument`; `conflict` when the container does not run or is paused. */
  async create(containerId: string, body: unknown): Promise<string> {
    const { random } = this.#deps;
    const config = parseExec(body);
    if (config.cmd.length === 0) throw new ClusterError("invalid-argument", "No exec command specified");
    const runStartedAtMs = await this.#requireRunning(containerId);
    await this.#forgetOver();
    this.#forget();
    const id = newContainerId(random);
    this.#execs.set(id, {
      id,
      containerId,
      runStartedAtMs,
      config,
      session: undefined,
      pid: 0,
      state: "created",
      exitCode: undefined,
    });
    await this.#emit(containerId, `exec_create: ${config.cmd.join(" ")}`, { execID: id });
    return id;
  }

  /** @throws {ClusterError} `not-found`. */
  require(id: string): Exec {
    const exec = this.#execs.get(id);
    if (exec === undefined) throw new ClusterError("not-found", `No such exec instance: ${id}`);
    return exec;
  }

  /** Those of one container that have not ended. */
  idsOf(containerId: string): string[] {
    return [...this.#execs.values()]
      .filter((exec) => exec.containerId === containerId && exec.state !== "ended")
      .map(({ id }) => id);
  }

  /** @throws {ClusterError} `conflict` when it has run before; `ExecRefused`. */
  async start(id: string, { attached, tty, size, onAccepted }: ExecStart): Promise<ExecSession> {
    const { engine, facts } = this.#deps;
    const exec = this.require(id);
    const { config, containerId } = exec;
    requireNew(exec);
    await this.#requireRunning(containerId);
    requireNew(exec); // Somebody else may have started it meanwhile.
    exec.state = "running";
    onAccepted?.();
    const consoleSize = size ?? config.size;
    try {
      const session = await engine.openSession(containerId, {
        args: config.cmd,
        env: config.env,
        tty: tty || config.tty,
        ...(consoleSize !== undefined && { size: consoleSize }),
        ...(config.user !== "" && { user: config.user }),
        ...(config.workingDir !== "" && { workingDir: config.workingDir }),
        ...(config.privileged && { capabilities: capabilitiesOf(["ALL"], [], facts.lastCapability) }),
        stdin: attached && config.attachStdin,
        stdout: attached && config.attachStdout,
        stderr: attached && config.attachStderr,
      });
      exec.session = session;
      exec.pid = session.pid;
      void session.exited.then((exitCode) => this.#ended(exec, exitCode));
      await this.#emit(containerId, `exec_start: ${config.cmd.join(" ")}`, { execID: id });
      return session;
    } catch (error) {
      exec.state = "ended";
      // As what cannot run, and read by the client as output, not as a failed request.
      const isUser = error instanceof ClusterError && /^unable to find (user|group) /.test(error.message);
      const refused = isUser ? new ExecRefused(126, error.message, error) : error;
      exec.exitCode = refused instanceof ExecRefused ? refused.exitCode : 126;
      throw refused;
    }
  }

  async resize(id: string, size: TerminalSize): Promise<void> {
    const { session } = this.require(id);
    if (session === undefined) throw new ClusterError("conflict", `exec ${id} is not running`);
    await session.resize(size);
  }

  async #ended(exec: Exec, exitCode: number): Promise<void> {
    exec.state = "ended";
    exec.exitCode = exitCode;
    exec.session = undefined;
    await this.#emit(exec.containerId, "exec_die", { execID: exec.id, exitCode: String(exitCode) });
  }

  /** @returns When it was started. */
  async #requireRunning(containerId: string): Promise<number> {
    const record = await this.#deps.engine.inspect(containerId);
    if (record?.status.state !== "running") {
      throw new ClusterError("conflict", `container ${containerId} is not running`);
    }
    if (record.status.paused === true) {
      throw new ClusterError(
        "conflict",
        `container ${containerId} is paused, unpause the container before exec`,
      );
    }
    return record.status.startedAtMs;
  }

  /** Those of containers that are removed, and what was never started in a run that is over. */
  async #forgetOver(): Promise<void> {
    const { engine } = this.#deps;
    const ids = new Set([...this.#execs.values()].map(({ containerId }) => containerId));
    const records = new Map<string, ContainerRecord | undefined>();
    for (const id of ids) records.set(id, await engine.inspect(id));
    for (const { id, containerId, state, runStartedAtMs } of this.#execs.values()) {
      if (state === "running" || !records.has(containerId)) continue;
      const status = records.get(containerId)?.status;
      const isItsRun = status?.state === "running" && status.startedAtMs === runStartedAtMs;
      if (status === undefined || (state === "created" && !isItsRun)) this.#execs.delete(id);
    }
  }

  #forget(): void {
    const ended = [...this.#execs.values()].filter(({ state }) => state === "ended");
    for (const { id } of ended.slice(0, Math.max(0, ended.length - keptExecs))) this.#execs.delete(id);
    if (this.#execs.size - ended.length >= liveExecsLimit) {
      throw new ClusterError(
        "resource-exhausted",
        `${liveExecsLimit} commands are created or running: let some end first`,
      );
    }
  }

  async #emit(
    containerId: string,
    action: string,
    attributes: Readonly<Record<string, string>>,
  ): Promise<void> {
    await this.#deps.emit(containerId, action, attributes).catch((error: unknown) => {
      this.#deps.log.warn({ containerId, action, error: errorText(error) }, "an event was not told");
    });
  }
}

function requireNew({ id, state }: Exec): void {
  if (state === "running") throw new ClusterError("conflict", `Exec command ${id} is already running`);
  if (state === "ended") {
    throw new ClusterError("conflict", `cannot start exec ${id}: Exec command ${id} has already run`);
  }
}

function parseExec(body: unknown): ExecConfig {
  const from = new Fields(body);
  return {
    attachStdin: from.flag("AttachStdin"),
    attachStdout: from.flag("AttachStdout"),
    attachStderr: from.flag("AttachStderr"),
    detachKeys: from.text("DetachKeys"),
    tty: from.flag("Tty"),
    env: from.texts("Env"),
    cmd: from.texts("Cmd"),
    privileged: from.flag("Privileged"),
    user: from.text("User"),
    workingDir: from.text("WorkingDir"),
    size: consoleSize(from),
  };
}

/** [height, width], as the API has it. */
export function consoleSize(from: Fields): TerminalSize | undefined {
  const [height, width] = from.list("ConsoleSize").map(Number);
  if (height === undefined || width === undefined || !(height > 0) || !(width > 0)) return undefined;
  return { width, height };
}
