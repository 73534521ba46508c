import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { fabricPort } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runLoop } from "../../runtime/loop.ts";
import type { Random } from "../../runtime/random.ts";
import { aborted } from "../../runtime/signal.ts";
import type { TlsKeeper } from "../../runtime/tls.ts";
import type { StoreEvent } from "../store/change.ts";
import type { Store } from "../store/store.ts";
import { printConfig } from "./config.ts";

const pollMs = 20;
const stopTimeoutMs = 3_000;
const predecessorTimeoutMs = 2_000;
const restartDelays = { firstMs: 200, limitMs: 10_000, factor: 2, jitterRatio: 0.2 } as const;
/** So much longer than it took to tell nats-server of a change of nodes, the next change waits. */
const restFactor = 20;
const longestRestMs = 3_000;
/** How much of what nats-server said last is kept for the log when it ends. */
const keptOutputBytes = 4_096;

export interface FabricServerDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly store: Store;
  readonly tls: TlsKeeper;
}

export interface FabricServerOptions {
  readonly binary: string;
  readonly clusterId: string;
  /** Private to the manager; certificate and key are written there. */
  readonly folder: string;
  /** 4222 unless a test says otherwise. */
  readonly port?: number;
}

/**
 * Runs nats-server for as long as the signal allows: started again when it ends, told again who the nodes are when that
 * changes, and given a new certificate when there is one. Never rejects; nothing else depends on it.
 */
export async function superviseFabric(
  deps: FabricServerDeps,
  options: FabricServerOptions,
  signal: AbortSignal,
): Promise<void> {
  const configFile = join(options.folder, "nats.conf");
  let child: ChildProcess | undefined;
  let written: Promise<void> = Promise.resolve();
  let writes = 0;
  /** Those whom nats-server was told of last. */
  let knownNodes = "";
  const stopWatching = deps.tls.watch(() => {
    refresh().catch((error: unknown) =>
      deps.log.warn({ error: errorText(error) }, "cannot give nats-server its new certificate"),
    );
  });
  const serve = runLoop(deps, "nats-server", serveOnce, signal, restartDelays);
  const follow = runLoop(deps, "nats-server users", followNodes, signal);
  await Promise.all([serve, follow]);
  stopWatching();

  async function serveOnce(loop: AbortSignal): Promise<void> {
    await write();
    await endPredecessor(deps, configFile);
    await rm(pidFileOf(configFile), { force: true });
    if (!loop.aborted) await untilExit(loop);
  }

  async function untilExit(loop: AbortSignal): Promise<void> {
    let output = "";
    const server = spawn(options.binary, ["-c", configFile], { stdio: ["ignore", "ignore", "pipe"] });
    server.stderr.on("data", (chunk: Buffer) => {
      output = (output + chunk.toString("utf8")).slice(-keptOutputBytes);
    });
    const exited = new Promise<string>((resolve) => {
      server.once("error", (error) => resolve(error.message));
      server.once("exit", (code, kill) => resolve(kill ?? `exit code ${code}`));
    });
    // A child that never was must not be sent a signal: its handle has a number of chance for a pid.
    if (server.pid === undefined)
      throw new ClusterError("unavailable", `cannot run nats-server: ${await exited}`);
    const over = new AbortController();
    const known = writes;
    void reads(server.pid, over.signal).then(() => {
      if (over.signal.aborted) return;
      child = server;
      if (writes !== known) server.kill("SIGHUP");
    });
    const reason = await Promise.race([exited, aborted(loop)]);
    over.abort();
    child = undefined;
    if (reason !== undefined) throw new Error(`nats-server ended (${reason}): ${output.trim()}`);
    const cancelKill = deps.clock.after(stopTimeoutMs, () => server.kill("SIGKILL"));
    server.kill("SIGTERM");
    await exited;
    cancelKill();
  }

  /** Until it has written its pid file: before, it does not know SIGHUP and would end of it. */
  async function reads(pid: number, ended: AbortSignal): Promise<void> {
    while (!ended.aborted && (await pidIn(configFile)) !== pid) {
      await deps.clock.sleep(pollMs, ended).catch(() => undefined); // The condition sees the abort.
    }
  }

  async function followNodes(loop: AbortSignal): Promise<void> {
    using commits = deps.store.watch(["nodes"], loop);
    await refreshIfChanged(); // What an earlier run of this loop saw and could not write.
    for await (const events of commits) {
      if (!events.some(changesRoles)) continue;
      const startedMs = deps.clock.monotonic();
      await refreshIfChanged();
      // Thousands may join at once, and each time all of them are told; meanwhile their events gather.
      const restMs = Math.min((deps.clock.monotonic() - startedMs) * restFactor, longestRestMs);
      await deps.clock.sleep(restMs, loop).catch(() => undefined); // `commits` ends with the same signal.
    }
  }

  async function refreshIfChanged(): Promise<void> {
    const { managers, workers } = nodesOf(deps.store);
    const current = `${managers.join()} ${workers.join()}`;
    if (current !== knownNodes) await refresh();
    knownNodes = current;
  }

  /** One after the other: each file is written beside its place and then renamed, under one name. */
  function write(): Promise<void> {
    writes += 1;
    const next = written.then(() => writeFiles(deps, options, configFile));
    written = next.catch(() => undefined); // The caller hears of it.
    return next;
  }

  async function refresh(): Promise<void> {
    await write();
    child?.kill("SIGHUP"); // nats-server reads its configuration and certificates again; connections stay.
  }
}

/** Whether it can show in who is a manager and who a worker; most changes of nodes are other news of theirs. */
function changesRoles(event: StoreEvent): boolean {
  if (event.kind !== "updated" || event.table !== "nodes") return true;
  return event.object.role !== event.previous.role;
}

function nodesOf(store: Store): { managers: string[]; workers: string[] } {
  const nodes = store.view((view) => [...view.nodes.list()]);
  const ids = (role: string) =>
    nodes
      .filter((node) => node.role === role)
      .map((node) => node.id as string)
      .toSorted();
  return { managers: ids("manager"), workers: ids("worker") };
}

async function writeFiles(
  { store, tls }: FabricServerDeps,
  options: FabricServerOptions,
  configFile: string,
): Promise<void> {
  const { folder, clusterId, port = fabricPort } = options;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const files = {
    certificateFile: join(folder, "node.crt"),
    keyFile: join(folder, "node.key"),
    rootFile: join(folder, "root.crt"),
  };
  const { certificatePem, keyPem, rootPem } = tls.current;
  await writeWhole(files.certificateFile, certificatePem);
  await writeWhole(files.keyFile, keyPem);
  await writeWhole(files.rootFile, rootPem);
  await writeWhole(
    configFile,
    printConfig({ clusterId, ...files, pidFile: pidFileOf(configFile), port, ...nodesOf(store) }),
  );
}

async function writeWhole(path: string, content: string): Promise<void> {
  await writeFile(`${path}.new`, content, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

function pidFileOf(configFile: string): string {
  return `${configFile}.pid`;
}

/**
 * A manager that was killed leaves its nats-server behind, which holds the port. It is known by its pid file, and ended
 * only when the process of that number still runs with our configuration.
 */
async function endPredecessor({ clock, log }: FabricServerDeps, configFile: string): Promise<void> {
  const pid = await pidIn(configFile);
  if (pid === undefined || !(await isOurs(pid, configFile))) return;
  log.info({ pid }, "ending the nats-server of an earlier manager process");
  process.kill(pid, "SIGKILL");
  const endMs = clock.monotonic() + predecessorTimeoutMs;
  while (clock.monotonic() < endMs && (await isOurs(pid, configFile))) await clock.sleep(pollMs);
}

async function pidIn(configFile: string): Promise<number | undefined> {
  const pid = Number(await readFile(pidFileOf(configFile), "utf8").catch(() => ""));
  return Number.isInteger(pid) && pid > 1 ? pid : undefined;
}

async function isOurs(pid: number, configFile: string): Promise<boolean> {
  const command = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return command.split("\0").includes(configFile);
}
