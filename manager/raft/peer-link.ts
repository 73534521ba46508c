import { Client } from "@grpc/grpc-js";
import type { MemberId, Message } from "raft-ts";
import type { RaftHello } from "../../proto/gen/shoal/raft.ts";
import { channelOptions } from "../../runtime/grpc.ts";
import { channelCredentials } from "../../runtime/tls.ts";
import { encodeMessages } from "./codec.ts";
import { encodeFrame, maxPeerMessageBytes } from "./frame.ts";
import { Outbox, isNews } from "./outbox.ts";
import { PeerStream } from "./peer-stream.ts";
import { openSnapshotCall } from "./snapshot-codec.ts";
import { type SnapshotSending, sendSnapshot } from "./snapshot-sender.ts";
import type { TransportDeps } from "./transport.ts";

/** How long the news that something is committed may wait for an append that tells the same; half a heartbeat. */
const newsDelayMs = 20;
const firstRetryMs = 5;
const maxRetryMs = 1_000;
/** A stream that lasted this long was welcome; the next attempt after it is immediate again. */
const settledAfterMs = 1_000;

interface LinkEvents {
  onUnreachable(id: MemberId): void;
  onGone(id: MemberId): void;
  onRemoved(): void;
}

/** The outgoing side of one peer: a stream that is opened again whenever it breaks, and a bounded queue. */
export class PeerLink {
  readonly address: string;
  readonly #deps: TransportDeps;
  readonly #hello: RaftHello;
  readonly #events: LinkEvents;
  /** For snapshots; most peers never need one. */
  #client: Client | undefined;
  #stream: PeerStream | undefined;
  #connected = false;
  readonly #outbox = new Outbox();
  #blocked = false;
  #cancelNews: (() => void) | undefined;
  #retryMs = firstRetryMs;
  #connectedSinceMs = 0;
  #cancelRetry: () => void = () => {};
  #closed = false;

  constructor(deps: TransportDeps, peer: { address: string; hello: RaftHello }, events: LinkEvents) {
    this.#deps = deps;
    this.address = peer.address;
    this.#hello = peer.hello;
    this.#events = events;
    this.#open();
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** One frame as a rule, and at once: whatever the caller does next does not hold it up. */
  send(messages: readonly Message[]): void {
    if (this.#closed) return;
    for (const message of messages) {
      const isFull = this.#outbox.put(message, this.#connected ? "connected" : "away");
      if (isFull && this.#connected) this.#events.onUnreachable(this.#hello.to);
    }
    if (messages.every(isNews)) {
      this.#cancelNews ??= this.#deps.clock.after(newsDelayMs, () => this.#flush());
    } else this.#flush();
  }

  /** @throws {Error} when the peer did not take it in. */
  sendSnapshot(sending: Omit<SnapshotSending, "hello">): Promise<void> {
    this.#client ??= this.#newClient();
    return sendSnapshot(this.#deps, openSnapshotCall(this.#client), { ...sending, hello: this.#hello });
  }

  /** A new connection, with the certificate of now; nothing queued is lost. */
  reconnect(): void {
    if (this.#closed) return;
    const old = { client: this.#client, stream: this.#stream };
    this.#client = undefined;
    this.#cancelRetry();
    this.#open();
    old.stream?.close();
    old.client?.close();
  }

  close(): void {
    this.#closed = true;
    this.#connected = false;
    this.#cancelRetry();
    this.#cancelNews?.();
    this.#stream?.close();
    this.#client?.close();
    this.#outbox.clear();
  }

  #newClient(): Client {
    return new Client(this.address, channelCredentials(this.#deps.keeper.current), {
      ...channelOptions(),
      "grpc.max_send_message_length": maxPeerMessageBytes,
      "grpc.max_reconnect_backoff_ms": maxRetryMs,
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  #open(): void {
    this.#connected = false;
    this.#blocked = false;
    this.#stream = new PeerStream(
      this.#deps,
      { address: this.address, hello: this.#hello },
      {
        onWelcome: () => {
          this.#connected = true;
          this.#connectedSinceMs = this.#deps.clock.monotonic();
          this.#flush();
        },
        onRemoved: () => this.#events.onRemoved(),
        onRoom: () => {
          this.#blocked = false;
          this.#flush();
        },
        onEnd: (reason) => this.#broken(reason),
      },
    );
  }

  #broken(reason: string): void {
    const { to } = this.#hello;
    const wasConnected = this.#connected;
    this.#stream = undefined;
    this.#connected = false;
    this.#outbox.shorten();
    if (wasConnected) this.#deps.log.info({ peer: to, reason }, "raft peer lost");
    this.#events.onUnreachable(to);
    if (reason.includes("ECONNREFUSED")) this.#events.onGone(to);
    // A peer that accepts a stream only to end it, as it does with a member that was removed, is not asked at once again.
    const lastedMs = this.#deps.clock.monotonic() - this.#connectedSinceMs;
    if (wasConnected && lastedMs >= settledAfterMs) this.#retryMs = firstRetryMs;
    const jitter = this.#deps.random.next() * this.#retryMs;
    this.#cancelRetry = this.#deps.clock.after(this.#retryMs + jitter, () => {
      if (!this.#closed) this.#open();
    });
    this.#retryMs = Math.min(this.#retryMs * 2, maxRetryMs);
  }

  #flush(): void {
    this.#cancelNews?.();
    this.#cancelNews = undefined;
    const stream = this.#stream;
    if (stream === undefined || !this.#connected || this.#closed) return;
    while (!this.#outbox.isEmpty && !this.#blocked) {
      this.#blocked = !stream.send(encodeFrame("messages", encodeMessages(this.#outbox.take())));
    }
  }
}
