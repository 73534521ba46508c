/** Answers the names that tasks ask for, on the gateway address of each of their networks. */
import { createSocket } from "node:dgram";
import type { Socket as UdpSocket } from "node:dgram";
import { createServer } from "node:net";
import type { Server, Socket } from "node:net";

import { isIpv6 } from "../../model/address.ts";
import { ClusterError, errorText, unreachable } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import { dnsPort, encodeReply, parseQuery, replyCodes } from "./dns-message.ts";
import type { Query, Record } from "./dns-message.ts";
import { answerQuestion } from "./records.ts";
import type { Asker, NameTable } from "./records.ts";
import { ToldAddresses } from "./told.ts";
import { framed } from "./upstream.ts";
import type { Upstream } from "./upstream.ts";

/** Short, because a task that stopped serving must be out of use soon. */
const ttlSeconds = 2;

const maxQueryBytes = 4_096;
const maxConnections = 128;
const connectionIdleMs = 10_000;
const maxUnreadBytes = 256 * 1024;

/** What is known at the moment of a question. */
export interface NameSource {
  readonly table: NameTable;
  /** The task that has this address on the network with this gateway. */
  asker(gateway: string, address: string): Asker | undefined;
}

interface Deps {
  readonly clock: Pick<Clock, "monotonic">;
  readonly random: Random;
  readonly upstream: Upstream;
  readonly source: () => NameSource;
}

interface Listener {
  readonly udp: UdpSocket;
  readonly tcp: Server;
}

export class NameServer {
  readonly #deps: Deps;
  readonly #listeners = new Map<string, Listener>();
  readonly #told = new ToldAddresses(ttlSeconds * 1_000);

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /**
   * Listens on exactly these addresses, which the host must have.
   *
   * @returns why it could not, by address; `conflict` when another program answers names there.
   */
  async listen(gateways: ReadonlySet<string>): Promise<ReadonlyMap<string, ClusterError>> {
    const failures = new Map<string, ClusterError>();
    for (const [gateway, listener] of this.#listeners) {
      if (gateways.has(gateway)) continue;
      closeListener(listener);
      this.#listeners.delete(gateway);
    }
    for (const gateway of gateways) {
      if (this.#listeners.has(gateway)) continue;
      try {
        this.#listeners.set(gateway, await this.#open(gateway));
      } catch (cause) {
        failures.set(gateway, listenFailure(gateway, cause));
      }
    }
    return failures;
  }

  /** To be called once these are in no answer any more. */
  withdraw(addresses: readonly string[]): void {
    this.#told.withdraw(addresses, this.#deps.clock.monotonic());
  }

  /** For how long askers may still use addresses that were withdrawn, in milliseconds. */
  get heldMs(): number {
    return this.#told.heldMs(this.#deps.clock.monotonic());
  }

  close(): void {
    for (const listener of this.#listeners.values()) closeListener(listener);
    this.#listeners.clear();
  }

  async #open(gateway: string): Promise<Listener> {
    const udp = createSocket("udp4");
    const tcp = createServer({ keepAlive: true }, (socket) => this.#serve(gateway, socket));
    tcp.maxConnections = maxConnections;
    udp.on("message", (bytes, { address, port }) => {
      if (bytes.length > maxQueryBytes) return;
      this.#reply(gateway, address, bytes, "udp")
        .then((reply) => reply !== undefined && udp.send(reply, port, address, () => undefined))
        .catch(() => undefined); // The socket closed meanwhile; the asker tries again.
    });
    try {
      await bound(udp, (done) => udp.bind({ port: dnsPort, address: gateway, exclusive: true }, done));
      await bound(tcp, (done) => tcp.listen({ port: dnsPort, host: gateway, exclusive: true }, done));
    } catch (cause) {
      closeListener({ udp, tcp });
      throw cause;
    }
    // A send that the kernel refuses concerns one asker, who asks again.
    udp.on("error", () => undefined);
    tcp.on("error", () => undefined);
    return { udp, tcp };
  }

  #serve(gateway: string, socket: Socket): void {
    let received = Buffer.alloc(0);
    socket.setTimeout(connectionIdleMs, () => socket.destroy());
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      while (received.length >= 2) {
        const end = 2 + received.readUInt16BE(0);
        if (end > maxQueryBytes) return void socket.destroy();
        if (received.length < end) return;
        const bytes = received.subarray(2, end);
        received = received.subarray(end);
        this.#reply(gateway, socket.remoteAddress ?? "", bytes, "tcp")
          .then((reply) => {
            // A task that asks and does not read gets no more memory of ours.
            if (reply === undefined || socket.writableLength > maxUnreadBytes) socket.destroy();
            else socket.write(framed(reply));
          })
          .catch(() => socket.destroy());
      }
    });
  }

  async #reply(
    gateway: string,
    address: string,
    bytes: Buffer,
    over: "udp" | "tcp",
  ): Promise<Buffer | undefined> {
    const query = parseQuery(bytes);
    if (query === undefined) return undefined;
    const source = this.#deps.source();
    const asker = source.asker(gateway, address);
    const encode = (code: number, records: readonly Record[] = []): Buffer =>
      encodeReply(query, { code, records, ttlSeconds, over });
    if (asker === undefined) return encode(replyCodes.refused);
    if (query.operation !== 0) return encode(replyCodes.unimplemented);
    const answer = answerQuestion(source.table, asker, query.question);
    switch (answer.kind) {
      case "addresses":
        this.#told.note(answer.addresses, this.#deps.clock.monotonic());
        return encode(
          replyCodes.done,
          this.#shuffled(answer.addresses).map((found) => ({
            type: isIpv6(found) ? "AAAA" : "A",
            address: found,
          })),
        );
      case "name":
        return encode(replyCodes.done, [{ type: "PTR", name: answer.name }]);
      case "empty":
        return encode(replyCodes.done);
      case "unknown":
        return encode(replyCodes.unknown);
      case "elsewhere": {
        const forwarded = await this.#forward(query, asker, over);
        return forwarded ?? encode(answer.singleLabel ? replyCodes.unknown : replyCodes.failure);
      }
    }
    return unreachable(answer);
  }

  async #forward(query: Query, asker: Asker, over: "udp" | "tcp"): Promise<Buffer | undefined> {
    try {
      return await this.#deps.upstream.ask(query.bytes, {
        over,
        servers: asker.nameservers,
        skip: (server) => this.#listeners.has(server),
      });
    } catch {
      return undefined; // The asker is told by the reply's code.
    }
  }

  #shuffled(addresses: readonly string[]): string[] {
    const shuffled = [...addresses];
    for (let last = shuffled.length - 1; last > 0; last -= 1) {
      const other = this.#deps.random.integer(last + 1);
      const [a, b] = [shuffled[last], shuffled[other]];
      if (a !== undefined && b !== undefined) [shuffled[last], shuffled[other]] = [b, a];
    }
    return shuffled;
  }
}

function bound(socket: UdpSocket | Server, start: (done: () => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const emitter: NodeJS.EventEmitter = socket;
    emitter.once("error", reject);
    start(() => {
      emitter.off("error", reject);
      resolve();
    });
  });
}

function listenFailure(gateway: string, cause: unknown): ClusterError {
  const doing = `cannot answer names on ${gateway}:${dnsPort}`;
  if ((cause as NodeJS.ErrnoException).code !== "EADDRINUSE") {
    return new ClusterError("internal", `${doing}: ${errorText(cause)}`, { cause });
  }
  const advice = "another program does; it must leave out the gateway addresses of task networks";
  return new ClusterError("conflict", `${doing}: ${advice}`, { cause });
}

function closeListener({ udp, tcp }: Listener): void {
  try {
    udp.close();
  } catch {
    // It was never bound.
  }
  tcp.close();
}
