import type { TLSSocket } from "node:tls";
import type { MemberId } from "raft-ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { RaftHello, RaftNotice, type RaftPeerServer } from "../../proto/gen/shoal/raft.ts";
import { type WireStatus, toStatus } from "../../proto/status.ts";
import type { Log } from "../../runtime/log.ts";
import type { Peer } from "../../runtime/tls.ts";
import { decodeMessages } from "./codec.ts";
import { type Frame, FrameReader, encodeFrame, maxPeerMessageBytes } from "./frame.ts";
import { nodeIdOf } from "./membership.ts";
import { receiveSnapshot } from "./snapshot-receiver.ts";
import type { TransportHandler, TransportOptions } from "./transport.ts";

/** Of the first frame: whoever sends it is not known yet. */
const maxHelloBytes = 64 * 1024;
const idleBoundMs = 10_000;
const managerUnit = "swarm-manager";

interface ServiceDeps {
  readonly peerOf: (call: { getPeer(): string }) => Peer | undefined;
  readonly introduce: (id: MemberId, address: string) => void;
  readonly handler: TransportHandler;
  readonly log: Log;
}

/** The receiving side of what is rare and large: checks who speaks before anything reaches the member. */
export function peerService(options: TransportOptions, deps: ServiceDeps): RaftPeerServer {
  return {
    sendSnapshot: (call) =>
      receiveSnapshot(
        {
          greet: (hello) => greet(options, deps, deps.peerOf(call), hello),
          offer: (message, identity) => deps.handler.onSnapshotOffer(message, identity),
          refusal: (error) => refusal(deps.log, error),
          log: deps.log,
        },
        call,
      ),
  };
}

/** A stream of messages: the hello, then frames as long as both live. */
export function receiveMessages(
  options: TransportOptions,
  deps: ServiceDeps,
  { socket, peer }: { socket: TLSSocket; peer: Peer },
): void {
  const reader = new FrameReader(maxHelloBytes);
  let sender: MemberId | undefined;
  let isOver = false;
  socket.setTimeout(idleBoundMs, () => socket.destroy()); // The other end pings more often than that.
  try {
    requireManager(options, peer); // Before anything of a stranger is kept.
    socket.on("data", onData);
  } catch (error) {
    refuse(error);
  }

  function onData(chunk: Buffer): void {
    try {
      for (const frame of reader.push(chunk)) {
        if (isOver) return;
        sender ??= onHello(frame);
        onFrame(sender, frame);
      }
    } catch (error) {
      refuse(error);
    }
  }

  function refuse(error: unknown): void {
    part({ removed: false, refusal: refusal(deps.log, error).details });
  }

  /** The last word; what still comes is dropped. */
  function part(notice: RaftNotice): void {
    isOver = true;
    socket.removeListener("data", onData);
    socket.resume();
    notify(notice);
    socket.destroySoon();
  }

  function onHello({ kind, payload }: Frame): MemberId {
    const hello = kind === "hello" ? RaftHello.decode(payload) : undefined;
    const from = greet(options, deps, peer, hello);
    reader.maxBytes = maxPeerMessageBytes;
    notify({ removed: false, refusal: "" });
    return from;
  }

  function onFrame(from: MemberId, { kind, payload }: Frame): void {
    if (deps.handler.isRemoved(from)) part({ removed: true, refusal: "" });
    else if (kind === "messages") {
      const messages = decodeMessages(payload);
      if (messages.some((message) => message.from !== from)) {
        throw new ClusterError("permission-denied", `member ${from} spoke for another`);
      }
      deps.handler.onMessages(messages);
    } else if (kind === "ping") socket.write(encodeFrame("pong", new Uint8Array()));
  }

  function notify(notice: RaftNotice): void {
    socket.write(encodeFrame("notice", RaftNotice.encode(notice).finish()));
  }
}

/** Certificate first, then the names: only managers of this cluster, and only under their own name. */
function greet(
  options: TransportOptions,
  deps: ServiceDeps,
  peer: Peer | undefined,
  hello: RaftHello | undefined,
): MemberId {
  const { commonName } = requireManager(options, peer);
  if (hello === undefined || hello.clusterId !== options.clusterId) {
    throw new ClusterError("invalid-argument", "raft: the first frame does not name this cluster");
  }
  if (nodeIdOf(hello.from) !== commonName) {
    throw new ClusterError("permission-denied", `raft: ${commonName} spoke as member ${hello.from}`);
  }
  if (hello.to !== options.memberId) {
    throw new ClusterError(
      "failed-precondition",
      `raft: member ${hello.to} is not here; this is ${options.memberId}`,
    );
  }
  if (!deps.handler.isRemoved(hello.from)) deps.introduce(hello.from, hello.address);
  return hello.from;
}

/** Whether a certificate was shown that is a manager's of this cluster. */
export function isManager({ clusterId }: TransportOptions, peer: Peer): boolean {
  return (
    peer.kind === "verified" && peer.organizationalUnit === managerUnit && peer.organization === clusterId
  );
}

/** @throws {ClusterError} unless the certificate is a manager's of this cluster. */
function requireManager(options: TransportOptions, peer: Peer | undefined): Peer & { kind: "verified" } {
  if (peer?.kind !== "verified") {
    throw new ClusterError("unauthenticated", "raft: no valid certificate of this cluster was shown");
  }
  if (!isManager(options, peer)) {
    throw new ClusterError(
      "permission-denied",
      `raft: certificate is for ${peer.organizationalUnit} of cluster ${peer.organization}; ` +
        `${managerUnit} of ${options.clusterId} is required`,
    );
  }
  return peer;
}

function refusal(log: Log, reason: unknown): WireStatus {
  log.warn({ error: errorText(reason) }, "raft peer refused");
  return toStatus(reason);
}
