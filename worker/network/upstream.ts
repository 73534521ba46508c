/** Passes questions that are not about tasks to the resolvers of the host. */
import { createSocket } from "node:dgram";
import { readFile } from "node:fs/promises";
import { connect, isIP, isIPv6 } from "node:net";

import { ClusterError, errorText } from "../../model/errors.ts";
import { dnsPort } from "./dns-message.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";

const attemptTimeoutMs = 2_000;
/** As many resolvers as libc would use. */
const maxServers = 3;
const maxInFlight = 512;
const reloadMs = 5_000;

export interface ResolvConf {
  readonly nameservers: readonly string[];
  readonly search: readonly string[];
}

export function parseResolvConf(text: string): ResolvConf {
  const nameservers: string[] = [];
  let search: string[] = [];
  for (const line of text.split("\n")) {
    const [word, ...rest] = line
      .replace(/[#;].*$/, "")
      .trim()
      .split(/\s+/);
    if (word === "nameserver" && rest[0] !== undefined) nameservers.push(rest[0]);
    if (word === "search" || word === "domain") search = rest;
  }
  return { nameservers, search };
}

interface Deps {
  readonly clock: Clock;
  readonly random: Random;
  /** The host's, usually "/etc/resolv.conf". */
  readonly resolvConf: string;
  /** On which resolvers are asked; default 53. */
  readonly port?: number;
}

export class Upstream {
  readonly #deps: Deps;
  #inFlight = 0;
  #read: { readonly atMs: number; readonly conf: ResolvConf } | undefined;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** A host without the file has no resolvers. */
  async conf(): Promise<ResolvConf> {
    const nowMs = this.#deps.clock.monotonic();
    if (this.#read === undefined || nowMs - this.#read.atMs > reloadMs) {
      const text = await readFile(this.#deps.resolvConf, "utf8").catch(() => "");
      this.#read = { atMs: nowMs, conf: parseResolvConf(text) };
    }
    return this.#read.conf;
  }

  /**
   * The first reply of any server, in order.
   *
   * @param servers - Of either family, those of a link with its name ("fe80::1%eth0"). Empty: the host's own.
   * @param skip - Addresses of ours, which would ask us again.
   * @throws {ClusterError} `unavailable` when nobody answered; `resource-exhausted` when too many questions wait.
   */
  async ask(
    query: Buffer,
    {
      over,
      servers,
      skip,
    }: {
      readonly over: "udp" | "tcp";
      readonly servers: readonly string[];
      readonly skip: (address: string) => boolean;
    },
  ): Promise<Buffer> {
    if (this.#inFlight >= maxInFlight) {
      throw new ClusterError(
        "resource-exhausted",
        `${maxInFlight} questions to the host's resolvers are waiting`,
      );
    }
    this.#inFlight += 1;
    try {
      const configured = servers.length > 0 ? servers : (await this.conf()).nameservers;
      const usable = configured.filter((server) => isIP(server) !== 0 && !skip(server)).slice(0, maxServers);
      let last = "the host has no resolver";
      for (const server of usable) {
        try {
          return await (over === "udp" ? this.#askUdp(query, server) : askTcp(query, server, this.#port));
        } catch (reason) {
          last = `${server}: ${errorText(reason)}`;
        }
      }
      throw new ClusterError("unavailable", `no resolver answered: ${last}`);
    } finally {
      this.#inFlight -= 1;
    }
  }

  get #port(): number {
    return this.#deps.port ?? dnsPort;
  }

  /** A socket and a number of its own for every question, so that nobody can guess where the reply goes. */
  #askUdp(query: Buffer, server: string): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const socket = createSocket(isIPv6(server) ? "udp6" : "udp4");
      const id = this.#deps.random.integer(0x1_0000);
      const sent = withId(query, id);
      const timer = setTimeout(() => finish(new Error("no answer")), attemptTimeoutMs);
      function finish(outcome: Buffer | Error): void {
        clearTimeout(timer);
        socket
          .removeAllListeners()
          .on("error", () => undefined)
          .close();
        if (outcome instanceof Error) reject(outcome);
        else resolve(withId(outcome, query.readUInt16BE(0)));
      }
      socket.on("error", finish);
      socket.on("message", (reply) => {
        if (reply.length >= 12 && reply.readUInt16BE(0) === id) finish(reply);
      });
      // Without a callback of its own, so that a refusal, as for want of a route, is an `error`.
      socket.on("connect", () => socket.send(sent));
      socket.connect(this.#port, server);
    });
  }
}

function askTcp(query: Buffer, server: string, port: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: server, port });
    let received = Buffer.alloc(0);
    const timer = setTimeout(() => finish(new Error("no answer")), attemptTimeoutMs);
    function finish(outcome: Buffer | Error): void {
      clearTimeout(timer);
      socket.destroy();
      if (outcome instanceof Error) reject(outcome);
      else resolve(outcome);
    }
    socket.on("error", finish);
    socket.on("close", () => finish(new Error("the connection closed")));
    socket.on("connect", () => socket.write(framed(query)));
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2) return;
      const end = 2 + received.readUInt16BE(0);
      if (received.length >= end) finish(received.subarray(2, end));
    });
  });
}

/** A message over TCP has its length before it. */
export function framed(message: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}

function withId(message: Buffer, id: number): Buffer {
  const copy = Buffer.from(message);
  copy.writeUInt16BE(id, 0);
  return copy;
}
