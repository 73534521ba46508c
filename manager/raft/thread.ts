import { parentPort, workerData } from "node:worker_threads";
import { ClusterError, errorText, toClusterError } from "../../model/errors.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { type FileLock, lockFile } from "../../runtime/file-lock.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { explainSystemError } from "../../runtime/system-error.ts";
import { TlsKeeper } from "../../runtime/tls.ts";
import { endAll } from "./ending.ts";
import { Member } from "./member.ts";
import { type ThreadCommand, type ThreadOutput, type ThreadStart, transfersOf } from "./port.ts";
import { recover } from "./recover.ts";
import { PeerTransport, type TransportHandler } from "./transport.ts";

/** For a manager before us that is just ending; whoever starts us tries again after that. */
const lockWaitMs = 2_000;

/** Entry of the raft thread: recovers, listens, drives one member until told to stop. */
const port = parentPort;
if (port === null) throw new Error("assertion failed: the raft thread was started as a process");
const { options, logLevel } = workerData as ThreadStart; // Written by client.ts.
const log = createLog("raft", logLevel);
const keeper = new TlsKeeper(options.identity);
let lock: FileLock | undefined;

void run().catch(async (error: unknown) => {
  const { code, message } = toClusterError(explainSystemError(error) ?? error);
  const text = code === "internal" ? `the raft thread could not start: ${errorText(error)}` : message;
  emit({ kind: "failed", failure: { code, message: text }, removed: false });
  await lock?.close();
  port.close();
});

async function run(): Promise<void> {
  const deps = { clock: systemClock, random: systemRandom, disk: systemDisk, log, keeper };
  lock = await lockDirectory(options.directory);
  const state = await recover(deps, options);
  const { clusterId, listenHost, listenPort, raftAddress } = options;
  const { memberId } = state;
  const wired: { transport?: PeerTransport } = {};
  const wire = (handler: TransportHandler): PeerTransport => {
    const place = { memberId, clusterId, listenHost, listenPort, raftAddress };
    wired.transport = new PeerTransport(deps, place, handler);
    return wired.transport;
  };
  const member = new Member({ ...deps, wire, emit }, options, state);
  try {
    await wired.transport?.listen();
  } catch (error) {
    // The log makes its next segment ready already, which may not go on once another member has the lock.
    await state.wal.close();
    await state.snapshot?.close();
    throw error;
  }
  emit({ kind: "started", memberId, port: wired.transport?.port ?? 0 });
  port?.on("message", (command: ThreadCommand) => {
    switch (command.kind) {
      case "identity":
        keeper.replace(command.identity);
        return;
      case "stop":
        void stop();
        return;
      case "propose":
      case "read":
      case "change":
      case "transfer":
      case "snapshot":
      case "no-snapshot":
      case "log-limits":
      case "applied":
      case "snapshot-taken":
      case "rotate-key":
        member.command(command);
        return;
    }
  });
  member.start();

  async function stop(): Promise<void> {
    await endAll(
      [() => member.stop(), () => wired.transport?.close(), () => lock?.close(), () => port?.close()],
      (error) => log.error({ error }, "raft thread did not stop cleanly"),
    );
  }
}

/**
 * Two members on one directory would vote twice and write over each other's log, and already the second one's look at it
 * takes the segment away that the first is about to go on in.
 */
async function lockDirectory(directory: string): Promise<FileLock> {
  await systemDisk.makeDirectory(directory);
  const path = `${directory}/lock`;
  const lock = await lockFile(path, lockWaitMs);
  if (lock !== undefined) return lock;
  throw new ClusterError(
    "unavailable",
    `another process uses the state in ${directory}, and only one may: end the other manager (fuser -v ${path} shows it), or ` +
      "give this one a state directory of its own",
  );
}

function emit(output: ThreadOutput): void {
  port?.postMessage(output, transfersOf(output));
}
