import { type TLSSocket, connect } from "node:tls";
import { splitHostPort } from "../../model/address.ts";
import { RaftHello, RaftNotice } from "../../proto/gen/shoal/raft.ts";
import { clientContextOptions } from "../../runtime/tls.ts";
import { managerServerName } from "../../runtime/grpc.ts";
import { FrameReader, encodeFrame, peerProtocol } from "./frame.ts";
import type { TransportDeps } from "./transport.ts";

/** From the first packet to the welcome. */
const greetingBoundMs = 3_000;
const pingEveryMs = 1_000;
/** Without an answer for this long the host is gone, or the way to it. */
const silenceBoundMs = 3_000;
const maxNoticeBytes = 64 * 1024;
/** What may wait in the socket before the sender is told to wait. */
const maxBufferedBytes = 4 * 1024 * 1024;

interface StreamEvents {
  onWelcome(): void;
  onRemoved(): void;
  /** There is room again after `send` said there was none. */
  onRoom(): void;
  /** Last call. */
  onEnd(reason: string): void;
}

/** One connection to a peer that messages leave on, from the dial to its end. */
export class PeerStream {
  readonly #socket: TLSSocket;
  readonly #events: StreamEvents;
  readonly #cancels: (() => void)[] = [];
  #heardMs: number;
  #isWelcome = false;
  #isEnded = false;

  constructor(deps: TransportDeps, peer: { address: string; hello: RaftHello }, events: StreamEvents) {
    const { clock, keeper } = deps;
    this.#events = events;
    this.#heardMs = clock.monotonic();
    const { host, port } = splitHostPort(peer.address);
    const socket = connect({
      host,
      port,
      servername: managerServerName,
      ALPNProtocols: [peerProtocol],
      ...clientContextOptions(keeper.current),
    });
    this.#socket = socket;
    socket.setNoDelay(true);
    const reader = new FrameReader(maxNoticeBytes);
    socket.once("secureConnect", () => {
      if (socket.alpnProtocol === peerProtocol) {
        socket.write(encodeFrame("hello", RaftHello.encode(peer.hello).finish()));
      } else this.#end("the other end does not speak the protocol");
    });
    socket.on("data", (chunk: Buffer) => {
      this.#heardMs = clock.monotonic();
      try {
        for (const { kind, payload } of reader.push(chunk)) {
          if (kind === "notice") this.#onNotice(RaftNotice.decode(payload));
        }
      } catch (error) {
        this.#end(`cannot be understood: ${String(error)}`);
      }
    });
    socket.on("drain", () => {
      if (!this.#isEnded) this.#events.onRoom();
    });
    socket.on("error", (error) => this.#end(error.message));
    socket.on("close", () => this.#end("closed by the peer"));
    this.#cancels.push(
      clock.after(greetingBoundMs, () => {
        if (!this.#isWelcome) this.#end("no welcome in time");
      }),
      clock.every(pingEveryMs, () => {
        if (!this.#isWelcome) return;
        if (clock.monotonic() - this.#heardMs > silenceBoundMs) this.#end("silent for too long");
        else socket.write(encodeFrame("ping", new Uint8Array()));
      }),
    );
  }

  /** @returns whether more may follow at once; `onRoom` tells when it may again. */
  send(frame: Uint8Array): boolean {
    return this.#socket.write(frame) || this.#socket.writableLength < maxBufferedBytes;
  }

  /** No more events; what was sent still leaves. */
  close(): void {
    this.#settle();
    this.#socket.destroySoon();
  }

  #onNotice({ removed, refusal }: RaftNotice): void {
    if (removed) this.#events.onRemoved();
    else if (refusal !== "") this.#end(refusal);
    else if (!this.#isWelcome) {
      this.#isWelcome = true;
      this.#events.onWelcome();
    }
  }

  #end(reason: string): void {
    this.#socket.destroy();
    if (this.#settle()) this.#events.onEnd(reason);
  }

  #settle(): boolean {
    if (this.#isEnded) return false;
    this.#isEnded = true;
    for (const cancel of this.#cancels) cancel();
    return true;
  }
}
