/** Answers managers who ask, over the telemetry fabric, what this host finds of the networks it shares with others. */
import type { NatsConnection } from "@nats-io/transport-node";

import type { NodeId } from "../../model/ids.ts";
import { NetworkCheckReply, NetworkCheckRequest } from "../../proto/gen/shoal/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import { subjects } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runInBackground } from "../../runtime/loop.ts";
import type { HostNetwork } from "./network.ts";
import { deadline } from "../../runtime/signal.ts";

/** Within what a manager waits for. */
const checkTimeoutMs = 12_000;

interface Deps {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeId: string;
  readonly network: HostNetwork;
}

/** A check under way, and what it will answer; nothing where it failed, which is in the log. */
interface Running {
  readonly question: string;
  readonly answer: Promise<Uint8Array | undefined>;
}

/** Until `signal` aborts. One check at a time: who asks the same meanwhile gets its answer too, others wait for their turn. */
export function answerNetworkChecks(deps: Deps, connection: NatsConnection, signal: AbortSignal): void {
  const subscription = connection.subscribe(subjects.networkChecks(deps.nodeId));
  signal.addEventListener("abort", () => subscription.unsubscribe(), { once: true });
  runInBackground(deps.log, "listening for network checks", listen(), signal);

  async function listen(): Promise<void> {
    let running: Running | undefined;
    for await (const message of subscription) {
      const question = Buffer.from(message.data).toString("base64");
      if (running?.question !== question) {
        await running?.answer;
        running = { question, answer: begin(message.data) };
      }
      void running.answer.then((reply) => {
        if (running?.question === question) running = undefined;
        if (reply !== undefined) message.respond(reply);
      });
    }
  }

  function begin(question: Uint8Array): Promise<Uint8Array | undefined> {
    return check(deps, question, signal).catch((error: unknown) => {
      deps.log.warn({ error }, "a check of the host's network failed");
      return undefined;
    });
  }
}

async function check(
  { clock, network }: Deps,
  question: Uint8Array,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { peers } = NetworkCheckRequest.decode(question);
  using limit = deadline(clock, checkTimeoutMs, "the check of the host's network", signal);
  const findings = await network.examine(
    peers.map((peer) => ({ ...peer, nodeId: peer.nodeId as NodeId })),
    limit.signal,
  );
  const reply = { findings: findings.map(({ peer, ...finding }) => ({ ...finding, peerNodeId: peer })) };
  return NetworkCheckReply.encode(reply).finish();
}
