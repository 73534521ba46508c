import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, openSync, closeSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { HostSettings } from "../proto/host.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import { socketAnswers } from "../runtime/unix-socket.ts";
import { findBinary } from "./flags.ts";
import { ReadOnlyRuntime } from "./read-only-runtime.ts";
import { containerdEnvironment, installShim } from "./shim.ts";

const checkEveryMs = 1_000;
const restartDelayMs = 200;
/** Longest that a new containerd may take to open its socket before it is said aloud. */
const slowStartMs = 15_000;

/**
 * Keeps a containerd of our own running. It is started in a session of its own, so that it and the
 * containers outlive shoald; a later shoald finds it by its socket and takes over the watch.
 */
export function superviseContainerd(
  { clock, log }: { clock: Clock; log: Log },
  settings: HostSettings,
  binary: string,
): { stop(): Promise<void> } {
  const config = writeConfig(settings);
  // Not below /run, from where many hosts let nothing be executed.
  const programs = join(settings.stateDir, "containerd", "bin");
  installShim(programs, binary, settings);
  const crun = settings.runtime === "crun" ? findBinary("crun") : undefined;
  const runtime = crun === undefined ? undefined : new ReadOnlyRuntime(crun, programs, log);
  let child: ChildProcess | undefined;
  let startedAt = 0;
  let stopped = false;
  let busy = false;
  const cancel = clock.every(checkEveryMs, check);
  check();

  /** One look: a socket that answers is a containerd that lives, whoever started it. */
  function check(): void {
    void runtime?.look();
    if (busy || stopped) return;
    busy = true;
    void socketAnswers(settings.containerd).then((alive) => {
      busy = false;
      if (stopped || alive) return;
      if (child === undefined) start();
      else if (clock.monotonic() - startedAt > slowStartMs) {
        log.error({ log: logPath(settings) }, "containerd runs but does not answer; see its log");
        startedAt = clock.monotonic();
      }
    });
  }

  function start(): void {
    startedAt = clock.monotonic();
    const output = openSync(logPath(settings), "a");
    const started = spawn(binary, ["--config", config], {
      detached: true,
      stdio: ["ignore", output, output],
      env: containerdEnvironment(programs),
    });
    closeSync(output);
    child = started;
    started.once("error", (error) => {
      child = undefined;
      log.error({ error: error.message }, "cannot start containerd");
    });
    started.once("exit", (code, signal) => {
      child = undefined;
      if (stopped) return;
      log.warn({ code, signal, log: logPath(settings) }, "containerd ended; starting it again");
      clock.after(restartDelayMs, check);
    });
    started.unref();
    log.info({ pid: started.pid, socket: settings.containerd }, "containerd started");
  }

  return {
    /** containerd goes on. */
    async stop() {
      stopped = true;
      cancel();
      await runtime?.close();
    },
  };
}

function logPath(settings: HostSettings): string {
  return join(settings.stateDir, "containerd", "containerd.log");
}

function writeConfig(settings: HostSettings): string {
  const root = join(settings.stateDir, "containerd");
  const state = dirname(settings.containerd);
  mkdirSync(root, { recursive: true, mode: 0o711 });
  mkdirSync(state, { recursive: true, mode: 0o711 });
  const path = join(state, "config.toml");
  const quoted = (text: string) => JSON.stringify(text);
  writeFileSync(
    path,
    [
      "version = 2",
      `root = ${quoted(settings.containerdRoot ?? join(root, "root"))}`,
      `state = ${quoted(join(state, "state"))}`,
      // Kubernetes' part, and snapshotters that only log that their file system is missing.
      'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]',
      "[grpc]",
      `address = ${quoted(settings.containerd)}`,
      "[debug]",
      'level = "warn"',
      "",
    ].join("\n"),
  );
  return path;
}
