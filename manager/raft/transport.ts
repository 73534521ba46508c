import { Server } from "@grpc/grpc-js";
import { isIP } from "node:net";
import type { TLSSocket } from "node:tls";
import type { MemberId, Message, SnapshotMessage } from "raft-ts";
import type { ClusterId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { GrpcListener } from "../../runtime/grpc.ts";
import { listenGrpc, managerServerName } from "../../runtime/grpc.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { Peer, TlsKeeper } from "../../runtime/tls.ts";
import { messageToWire, snapshotToWire } from "./codec.ts";
import { maxPeerMessageBytes, peerProtocol } from "./frame.ts";
import { Introductions } from "./introductions.ts";
import { PeerLink } from "./peer-link.ts";
import { isManager, peerService, receiveMessages } from "./peer-service.ts";
import { snapshotService } from "./snapshot-codec.ts";
import type { SnapshotFile, SnapshotIdentity } from "./snapshot-file.ts";
import type { SnapshotIntake } from "./snapshot-inbox.ts";

/** On the thread of the timers: at most about half of it, and a whole group of managers still connects at once. */
const handshakePace = { count: 4, everyMs: 10, waiting: 1_024 } as const;

/** What the member hears from the wire. Calls come from the event loop, one at a time. */
export interface TransportHandler {
  onMessages(messages: readonly Message[]): void;
  /** A peer begins to send a snapshot. @throws {ClusterError} when it cannot be taken. */
  onSnapshotOffer(message: SnapshotMessage, identity: SnapshotIdentity): Promise<SnapshotIntake>;
  /** Messages to this member may have been lost. */
  onUnreachable(id: MemberId): void;
  /** Its host answers and nothing listens there: the process has ended. */
  onGone(id: MemberId): void;
  /** Another manager says that the group has removed this member. */
  onRemoved(): void;
  /** Whether this member knows for sure that `id` does not belong to the group. */
  isRemoved(id: MemberId): boolean;
}

/** The wire as the member sees it; {@link PeerTransport} is the real one. */
export interface MemberWire {
  send(messages: readonly Message[]): void;
  /**
   * Settles when the receiver has taken it in; rejects when it has not. Sends from where the receiver is, which may hold
   * a part already, and reports how much it holds.
   */
  sendSnapshot(
    message: SnapshotMessage,
    file: SnapshotFile,
    onProgress: (heldBytes: number) => void,
  ): Promise<void>;
  setPeers(addresses: ReadonlyMap<MemberId, string>): void;
  isConnected(id: MemberId): boolean;
}

export interface TransportDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly keeper: TlsKeeper;
}

export interface TransportOptions {
  readonly memberId: MemberId;
  readonly clusterId: ClusterId;
  readonly listenHost: string;
  readonly listenPort: number;
  readonly raftAddress: string;
}

/** One link to each peer, and the listener that theirs arrive on. */
export class PeerTransport implements MemberWire {
  readonly #deps: TransportDeps;
  readonly #options: TransportOptions;
  readonly #handler: TransportHandler;
  readonly #links = new Map<MemberId, PeerLink>();
  /** Those have links too. */
  readonly #introduced = new Introductions();
  #listener: GrpcListener | undefined;
  #unwatch: () => void = () => {};

  constructor(deps: TransportDeps, options: TransportOptions, handler: TransportHandler) {
    this.#deps = deps;
    this.#options = options;
    this.#handler = handler;
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  /** @throws the system's error when the address cannot be bound. */
  async listen(): Promise<void> {
    const { clock, keeper, log } = this.#deps;
    const { listenHost: host, listenPort: port } = this.#options;
    // Node asks this of each name that it dials. Its expression for IPv6 is compiled at the first use and better at the second,
    // which takes 15 ms: not while a heartbeat waits.
    for (let use = 0; use < 2; use += 1) isIP(managerServerName);
    const server = new Server({
      "grpc.max_receive_message_length": maxPeerMessageBytes,
      "grpc.max_send_message_length": maxPeerMessageBytes,
      "grpc.enable_channelz": 0,
    });
    const door = {
      peerOf: (call: { getPeer(): string }) => this.#listener?.peerOf(call),
      introduce: (id: MemberId, address: string) => this.#introduce(id, address),
      handler: this.#handler,
      log,
    };
    server.addService(snapshotService, peerService(this.#options, door));
    const protocols = new Map([
      [
        peerProtocol,
        (socket: TLSSocket, peer: Peer) => receiveMessages(this.#options, door, { socket, peer }),
      ],
    ]);
    const pace = { clock, ...handshakePace };
    const admits = (peer: Peer): boolean => isManager(this.#options, peer);
    this.#listener = await listenGrpc({ server, admits, keeper, host, port, log, protocols, pace });
    this.#unwatch = keeper.watch(() => {
      for (const link of this.#links.values()) link.reconnect(); // With the new certificate.
    });
  }

  /** Links exactly to these members; `self` is left out by the caller. */
  setPeers(addresses: ReadonlyMap<MemberId, string>): void {
    for (const [id, link] of this.#links) {
      if (addresses.has(id) || this.#introduced.has(id)) continue;
      link.close();
      this.#links.delete(id);
    }
    for (const [id, address] of addresses) {
      this.#introduced.delete(id);
      this.#link(id, address);
    }
  }

  /** What goes to one peer leaves in one frame. */
  send(messages: readonly Message[]): void {
    if (messages.length === 0) return;
    for (const [id, link] of this.#links) {
      const own = messages.filter(({ to }) => to === id);
      if (own.length > 0) link.send(own);
    }
  }

  /** Settles when the receiver has taken it in, from where it was. @throws when it has not. */
  async sendSnapshot(
    message: SnapshotMessage,
    file: SnapshotFile,
    onProgress: (heldBytes: number) => void,
  ): Promise<void> {
    const link = this.#links.get(message.to);
    if (link === undefined) throw new Error(`member ${message.to} has no address`);
    const wire = { ...messageToWire(message), snapshot: snapshotToWire(message.snapshot, file.identity) };
    await link.sendSnapshot({ message: wire, file, onProgress });
  }

  isConnected(id: MemberId): boolean {
    return this.#links.get(id)?.connected ?? false;
  }

  async close(): Promise<void> {
    this.#unwatch();
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
    await this.#listener?.close();
  }

  #introduce(id: MemberId, address: string): void {
    if (this.#links.has(id) || address === "") return;
    const oldest = this.#introduced.add(id);
    if (oldest !== undefined) {
      this.#links.get(oldest)?.close();
      this.#links.delete(oldest);
    }
    this.#link(id, address);
  }

  #link(id: MemberId, address: string): void {
    const known = this.#links.get(id);
    if (known?.address === address) return;
    known?.close();
    const { memberId: from, clusterId, raftAddress } = this.#options;
    const hello = { clusterId, from, to: id, address: raftAddress };
    this.#links.set(id, new PeerLink(this.#deps, { address, hello }, this.#handler));
  }
}
