/** Entry of the worker process; shoald forks it and speaks over the IPC channel (`proto/host.ts`). */
import { errorText } from "../model/errors.ts";
import type { DaemonToWorker, HostSettings, WorkerToDaemon } from "../proto/host.ts";
import { systemClock } from "../runtime/clock.ts";
import { systemDisk } from "../runtime/disk.ts";
import { createLog } from "../runtime/log.ts";
import type { Log } from "../runtime/log.ts";
import { systemRandom } from "../runtime/random.ts";
import { LocalNetworks } from "./bridges/networks.ts";
import { openContainerdEngine } from "./engine/containerd.ts";
import { openHostNetwork } from "./network/open.ts";
import { Worker } from "./worker.ts";

/** A worker that has not ended by then ends anyway: containers do not depend on it. */
const endTimeoutMs = 4_000;

async function main(): Promise<void> {
  const settings = JSON.parse(process.env["SHOAL_HOST"] ?? "null") as HostSettings | null;
  if (settings === null || process.send === undefined) {
    process.stderr.write("worker: cannot start: no settings, this process is started by shoald\n");
    process.exitCode = 1;
    return;
  }
  const log = createLog("worker", settings.logLevel);
  process.on("unhandledRejection", (error) =>
    log.error({ error }, "a rejection was not handled; this is a bug"),
  );
  const ending = new AbortController();
  const early: DaemonToWorker[] = [];
  let worker: Worker | undefined;
  process.on("message", (message) => {
    if (worker === undefined) early.push(message as DaemonToWorker);
    else worker.receive(message as DaemonToWorker);
  });
  const end = (reason: string): void => {
    if (ending.signal.aborted) return;
    ending.abort(new Error(reason));
    log.info({ reason }, "worker is ending; containers run on");
    systemClock.after(endTimeoutMs, () => process.exit(1));
    void (worker?.close() ?? Promise.resolve())
      .catch((error: unknown) => log.error({ error }, "worker did not end cleanly"))
      .finally(() => process.exit(0));
  };
  process.once("disconnect", () => end("shoald is gone"));
  process.once("SIGTERM", () => end("SIGTERM"));
  process.once("SIGINT", () => end("SIGINT"));
  try {
    worker = await open(settings, log, ending.signal);
    for (const message of early) worker.receive(message);
  } catch (error) {
    if (ending.signal.aborted) return;
    log.fatal({ error }, "worker cannot start");
    process.stderr.write(`worker: cannot start: ${errorText(error)}\n`);
    process.exit(1);
  }
}

async function open(settings: HostSettings, log: Log, signal: AbortSignal): Promise<Worker> {
  const deps = { clock: systemClock, random: systemRandom };
  const networks = await LocalNetworks.open({ ...deps, ...settings });
  const [engine, network] = await Promise.all([
    openContainerdEngine(
      { ...deps, warn: (text: string, error: unknown) => log.warn({ error }, text) },
      settings,
    ),
    openHostNetwork(
      { ...deps, warn: (text: string) => log.warn({}, text) },
      { ...settings, bridges: networks.bridges },
      signal,
    ),
  ]);
  networks.use(network);
  return Worker.open({ ...deps, disk: systemDisk, log, settings, engine, network, networks, send });
}

/** shoald may be gone at any moment; its end is seen by `disconnect`. */
function send(message: WorkerToDaemon): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
}

await main();
