import { parentPort, workerData } from "node:worker_threads";
import { errorText, toClusterError } from "../../model/errors.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { TlsKeeper } from "../../runtime/tls.ts";
import { Member } from "./member.ts";
import { type ThreadCommand, type ThreadOutput, type ThreadStart, transfersOf } from "./port.ts";
import { recover } from "./recover.ts";
import { PeerTransport, type TransportHandler } from "./transport.ts";

/** Entry of the raft thread: recovers, listens, drives one member until told to stop. */
const port = parentPort;
if (port === null) throw new Error("assertion failed: the raft thread was started as a process");
const { options, logLevel } = workerData as ThreadStart; // Written by client.ts.
const log = createLog("raft", logLevel);
const keeper = new TlsKeeper(options.identity);

void run().catch((error: unknown) => {
  const { code, message } = toClusterError(error);
  const text = code === "internal" ? `the raft thread could not start: ${errorText(error)}` : message;
  emit({ kind: "failed", failure: { code, message: text }, removed: false });
  port.close();
});

async function run(): Promise<void> {
  const deps = { clock: systemClock, random: systemRandom, disk: systemDisk, log, keeper };
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
  await wired.transport?.listen();
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
    try {
      await member.stop();
      await wired.transport?.close();
    } catch (error) {
      log.error({ error }, "raft thread did not stop cleanly");
    }
    port?.close();
  }
}

function emit(output: ThreadOutput): void {
  port?.postMessage(output, transfersOf(output));
}
