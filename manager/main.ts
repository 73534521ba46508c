import { ClusterError, errorText } from "../model/errors.ts";
import type { DaemonToManager, HostSettings, ManagerToDaemon } from "../proto/host.ts";
import { systemClock } from "../runtime/clock.ts";
import { createLog, type Log } from "../runtime/log.ts";
import { systemRandom } from "../runtime/random.ts";
import { describeFailure } from "./failure.ts";
import { Manager } from "./manager.ts";
import { openRaftGroup } from "./raft/client.ts";
import { openTelemetry } from "./telemetry/telemetry.ts";

/** A manager that has not ended in order by now ends anyway. */
const exitTimeoutMs = 12_000;

/** The manager process. shoald starts it with its settings in `SHOAL_HOST` and speaks to it over IPC. */
function main(): void {
  const settings = readSettings();
  const log = createLog("manager", settings.logLevel);
  const deps = {
    clock: systemClock,
    random: systemRandom,
    log,
    settings,
    openTelemetry,
    openGroup: (
      ...[options, source]: Parameters<typeof openRaftGroup> extends [unknown, ...infer Rest] ? Rest : never
    ) => openRaftGroup({ log: log.child({ part: "raft" }), logLevel: settings.logLevel }, options, source),
  };
  let opening: Promise<Manager> | undefined;
  let exiting = false;

  guardProcess(log);
  process.on("message", (message: DaemonToManager) => {
    receive(message).catch((error: unknown) => fail(error));
  });
  process.on("disconnect", () => void end(0, "shoald is gone"));
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void end(0, signal));

  async function receive(message: DaemonToManager): Promise<void> {
    switch (message.kind) {
      case "start": {
        if (opening !== undefined) throw new ClusterError("internal", "a manager is started once");
        opening = Manager.open(deps, message.start, notify);
        const manager = await opening;
        manager.failure.catch((error: unknown) => fail(error));
        return;
      }
      case "identity":
        (await opening)?.adopt(message.identity);
        return;
      case "leave":
        await (await opening)?.leave();
        await end(0, "left the cluster");
        return;
    }
  }

  function fail(error: unknown): void {
    if (exiting) return;
    const failure = describeFailure(error);
    log.error({ error, retry: failure.retry }, "the manager cannot go on");
    notify(failure);
    void end(1, failure.message);
  }

  async function end(code: number, reason: string): Promise<void> {
    if (exiting) return;
    exiting = true;
    setTimeout(() => process.exit(code), exitTimeoutMs).unref();
    log.info({ reason }, "manager ends");
    try {
      await (await opening)?.stop();
    } catch (error) {
      log.debug({ error: errorText(error) }, "nothing was running"); // Opening failed, and has cleaned up.
    }
    process.exit(code);
  }
}

function notify(message: ManagerToDaemon): void {
  if (process.connected) process.send?.(message);
}

function readSettings(): HostSettings {
  const text = process.env["SHOAL_HOST"];
  if (text === undefined)
    throw new ClusterError("invalid-argument", "SHOAL_HOST is not set: shoald starts the manager");
  return JSON.parse(text) as HostSettings;
}

/** A bug must be seen: the process ends, shoald starts the next one, and the containers do not notice. */
function guardProcess(log: Log): void {
  process.on("unhandledRejection", (error) => {
    log.fatal({ error }, "unhandled rejection");
    process.exit(1);
  });
  process.on("uncaughtException", (error) => {
    log.fatal({ error }, "uncaught exception");
    process.exit(1);
  });
}

main();
