import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { HostSettings } from "../proto/host.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import { programFile } from "../runtime/programs.ts";

const firstRestartDelayMs = 100;
const longestRestartDelayMs = 5_000;
/** A child that lived this long had started well; its next restart is immediate again. */
const settledAfterMs = 10_000;
/** A child that has not ended on SIGTERM by now is ended with SIGKILL. */
const stopTimeoutMs = 5_000;

/**
 * glibc gives every thread that allocates an arena of its own, and node has a dozen; two serve the two that work hard,
 * and an idle process keeps four MiB less.
 */
const allocatorSettings = { MALLOC_ARENA_MAX: "2" } as const;

/** One of our own processes, started again whenever it ends unasked. */
export interface SupervisedChild<ToChild> {
  /** Sent only while the child runs; a new child gets `onStart`'s messages instead. */
  send(message: ToChild): void;
  readonly pid: number | undefined;
  /** Ends it for good: SIGTERM, and after a grace SIGKILL. Settles when it is gone. */
  stop(): Promise<void>;
}

export interface ChildOptions<ToChild, FromChild> {
  readonly name: "worker" | "manager";
  readonly settings: HostSettings;
  /** Messages that every new incarnation needs first. */
  onStart(): readonly ToChild[];
  onMessage(message: FromChild): void;
  /** It ended unasked; answer `restart` or `leave` it. */
  onExit(reason: string): "restart" | "leave";
}

export function superviseChild<ToChild extends object, FromChild>(
  { clock, log }: { clock: Clock; log: Log },
  options: ChildOptions<ToChild, FromChild>,
): SupervisedChild<ToChild> {
  const entry = fileURLToPath(programFile(options.name));
  let child: ChildProcess | undefined;
  let stopping: (() => void) | undefined;
  let stopped = false;
  let delayMs = firstRestartDelayMs;
  let cancelRestart: (() => void) | undefined;
  start();

  function start(): void {
    const startedAt = clock.monotonic();
    const current = fork(entry, [], {
      env: { ...process.env, SHOAL_HOST: JSON.stringify(options.settings), ...allocatorSettings },
      execArgv: [],
      serialization: "json",
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    child = current;
    current.on("message", (message) => options.onMessage(message as FromChild));
    current.on("error", (error) => {
      log.error({ child: options.name, error: error.message }, "child process failed");
      // Without a process, as when the host is out of processes or descriptors, there will be no `exit`.
      if (current.pid === undefined) ended(error.message, startedAt);
    });
    current.once("exit", (code, signal) => {
      ended(signal === null ? `exit code ${code}` : `signal ${signal}`, startedAt);
    });
    if (current.pid === undefined) return;
    log.info({ child: options.name, pid: current.pid }, "child process started");
    for (const message of options.onStart()) deliver(current, message);
  }

  function ended(reason: string, startedAt: number): void {
    child = undefined;
    if (stopped) return stopping?.();
    if (options.onExit(reason) === "leave") return;
    if (clock.monotonic() - startedAt > settledAfterMs) delayMs = firstRestartDelayMs;
    log.warn({ child: options.name, reason, delayMs }, "child process ended; starting it again");
    cancelRestart = clock.after(delayMs, start);
    delayMs = Math.min(delayMs * 2, longestRestartDelayMs);
  }

  /** A message to a child that is just ending is lost on purpose: its successor starts from `onStart`. */
  function deliver(target: ChildProcess, message: ToChild): void {
    if (!target.connected) return;
    target.send(message, (error) => {
      if (error !== null) log.debug({ child: options.name, error: error.message }, "message not delivered");
    });
  }

  return {
    send(message) {
      if (child !== undefined) deliver(child, message);
    },
    get pid() {
      return child?.pid;
    },
    stop() {
      stopped = true;
      cancelRestart?.();
      const target = child;
      if (target?.pid === undefined) return Promise.resolve(); // Without a process a signal would go to a stranger.
      return new Promise((resolve) => {
        const cancelKill = clock.after(stopTimeoutMs, () => target.kill("SIGKILL"));
        stopping = () => {
          cancelKill();
          resolve();
        };
        target.kill("SIGTERM");
      });
    },
  };
}
