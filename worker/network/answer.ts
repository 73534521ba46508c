/** Answers managers who ask, over the telemetry fabric, what this host finds of the networks it shares with others. */
import type { Msg, NatsConnection } from "@nats-io/transport-node";

import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import { NetworkCheckReply, NetworkCheckRequest } from "../../proto/gen/shoal/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import { subjects } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runInBackground } from "../../runtime/loop.ts";
import type { HostNetwork } from "./network.ts";

/** Within what a manager waits for. */
const checkTimeoutMs = 12_000;

interface Deps {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeId: string;
  readonly network: HostNetwork;
}

/** Until `signal` aborts. One check at a time: each is answered, and those that come meanwhile wait for their turn. */
export function answerNetworkChecks(deps: Deps, connection: NatsConnection, signal: AbortSignal): void {
  const subscription = connection.subscribe(subjects.networkChecks(deps.nodeId));
  signal.addEventListener("abort", () => subscription.unsubscribe(), { once: true });
  runInBackground(deps.log, "listening for network checks", listen(), signal);

  async function listen(): Promise<void> {
    for await (const message of subscription) {
      await answer(deps, message, signal).catch((error: unknown) =>
        deps.log.warn({ error }, "a check of the host's network failed"),
      );
    }
  }
}

async function answer({ clock, network }: Deps, message: Msg, signal: AbortSignal): Promise<void> {
  const { peers } = NetworkCheckRequest.decode(message.data);
  const late = new AbortController();
  const cancel = clock.after(checkTimeoutMs, () =>
    late.abort(new ClusterError("deadline-exceeded", "the check of the host's network took too long")),
  );
  try {
    const findings = await network.examine(
      peers.map((peer) => ({ ...peer, nodeId: peer.nodeId as NodeId })),
      AbortSignal.any([signal, late.signal]),
    );
    const reply = { findings: findings.map(({ peer, ...finding }) => ({ ...finding, peerNodeId: peer })) };
    message.respond(NetworkCheckReply.encode(reply).finish());
  } finally {
    cancel();
  }
}
