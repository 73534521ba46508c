/**
 * Published ports of tasks, held by sockets of ours: the rules that translate them would otherwise
 * take the port of any other program on the host, or be given to one later.
 */
import { createSocket } from "node:dgram";
import { createServer } from "node:net";

import { joinHostPort } from "../../model/address.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { portKey } from "../../model/task.ts";
import { dnsPort } from "./dns-message.ts";
import type { HostPort, HostPortSpec } from "./network.ts";
import { holdOwn, type OwnPortDeps, ownPortDeps, type PortHolder as Holder } from "./own-ports.ts";
import { openedPort } from "./prepare.ts";
import { type RelayTarget, relayTcp, relayUdp } from "./relay.ts";

interface Held {
  readonly port: HostPort;
  readonly holder: Holder;
}

/** Where those of SCTP are chosen from, which the system cannot choose for us. */
const firstEphemeralPort = 49_152;
const lastPort = 65_535;
const everywhere = "0.0.0.0";
const everywhereOfIpv6 = "::";

export class PublishedPorts {
  /** Of one number and protocol, at different addresses of the host. */
  readonly #held = new Map<string, Held[]>();
  readonly #deps: OwnPortDeps & { readonly namesPort: number };

  /** @param deps.namesPort - On which tasks ask this host for names; default 53. */
  constructor(deps: Partial<OwnPortDeps & { readonly namesPort: number }> = {}) {
    this.#deps = { ...ownPortDeps, namesPort: dnsPort, ...deps };
  }

  /**
   * @param port - `publishedPort` 0 takes a free one from the system's ephemeral range, `publishedEnd` the first free one
   *   of several.
   * @param target - Whom a relay is to call for what arrives by IPv6.
   * @param gateways - Where tasks ask for names: what is published at all addresses is not at these, if it is their port.
   * @returns the port that it became.
   * @throws {ClusterError} `conflict` when another program or task has it.
   */
  async hold(
    port: HostPortSpec | HostPort,
    target: () => string | undefined,
    gateways: ReadonlySet<string> = new Set(),
  ): Promise<HostPort> {
    const { publishedPort: first } = port;
    const last = Math.max(first, ("publishedEnd" in port ? port.publishedEnd : undefined) ?? first);
    for (let number = first; ; number += 1) {
      try {
        return await this.#holdOne(port, number, { target, gateways });
      } catch (reason) {
        const isTaken = reason instanceof ClusterError && reason.code === "conflict";
        if (!isTaken || number >= last) throw reason;
      }
    }
  }

  release(ports: readonly HostPort[]): void {
    for (const port of ports) {
      const key = portKey(port);
      const all = this.#held.get(key) ?? [];
      const rest = all.filter((held) => held.port.hostAddress !== port.hostAddress);
      for (const { holder } of all.filter((held) => !rest.includes(held))) holder.close();
      if (rest.length > 0) this.#held.set(key, rest);
      else this.#held.delete(key);
    }
  }

  close(): void {
    for (const { holder } of [...this.#held.values()].flat()) holder.close();
    this.#held.clear();
  }

  async #holdOne(
    port: HostPortSpec | HostPort,
    number: number,
    {
      target,
      gateways,
    }: { readonly target: () => string | undefined; readonly gateways: ReadonlySet<string> },
  ): Promise<HostPort> {
    const { protocol, targetPort, hostAddress = "" } = port;
    const at = joinHostPort(hostAddress === "" ? everywhere : hostAddress, number);
    if (this.#isHeld({ protocol, publishedPort: number, hostAddress })) {
      throw new ClusterError("conflict", `Bind for ${at} failed: port is already allocated`);
    }
    if (protocol === "sctp" && !hostAddress.includes(":")) {
      // Nothing in Node.js could hold one: what is known is what tasks have, so nothing may be waited for before it is noted.
      const held = openedPort(port, number || this.#freeSctp(hostAddress), false);
      this.#keep(held, { close: () => undefined });
      return held;
    }
    const relayed = { address: target, port: targetPort };
    let bound: { holder: Holder; number: number };
    try {
      bound = hostAddress.includes(":")
        ? await holdRelay(protocol, number, hostAddress, relayed)
        : await this.#holdIpv4(protocol === "udp" ? "udp" : "tcp", number, hostAddress, gateways);
    } catch (cause) {
      throw bindFailure(`${at}/${protocol}`, cause);
    }
    let relay: Holder | undefined;
    if (port.ipv6 === true) {
      try {
        relay = (await holdRelay(protocol, bound.number, everywhereOfIpv6, relayed)).holder;
      } catch (cause) {
        // A host without IPv6 has none to publish at.
        if (!isMissing(cause)) {
          bound.holder.close();
          throw bindFailure(`${joinHostPort(everywhereOfIpv6, bound.number)}/${protocol}`, cause);
        }
      }
    }
    const held = openedPort(port, bound.number, relay !== undefined);
    this.#keep(held, {
      close() {
        bound.holder.close();
        relay?.close();
      },
    });
    return held;
  }

  async #holdIpv4(
    protocol: "tcp" | "udp",
    number: number,
    hostAddress: string,
    spared: ReadonlySet<string>,
  ): Promise<{ holder: Holder; number: number }> {
    const hold = protocol === "udp" ? holdUdp : holdTcp;
    if (number !== this.#deps.namesPort || hostAddress !== "") {
      return await hold(number, hostAddress || everywhere);
    }
    const open = async (address: string): Promise<Holder> => (await hold(number, address)).holder;
    return { holder: await holdOwn(protocol, number, { open, spared, deps: this.#deps }), number };
  }

  #keep(port: HostPort, holder: Holder): void {
    const key = portKey(port);
    this.#held.set(key, [...(this.#held.get(key) ?? []), { port, holder }]);
  }

  /** Any address stands in the way of all, and all of each. */
  #isHeld({
    hostAddress,
    ...port
  }: Pick<HostPort, "protocol" | "publishedPort"> & { readonly hostAddress: string }): boolean {
    const others = this.#held.get(portKey(port)) ?? [];
    return others.some(({ port: other }) => {
      if (isIpv6(hostAddress) !== isIpv6(other.hostAddress))
        return other.ipv6 === true && isIpv6(hostAddress);
      return isAny(hostAddress) || isAny(other.hostAddress) || other.hostAddress === hostAddress;
    });
  }

  #freeSctp(hostAddress: string): number {
    for (let number = firstEphemeralPort; number <= lastPort; number += 1) {
      if (!this.#isHeld({ protocol: "sctp", publishedPort: number, hostAddress })) return number;
    }
    throw new ClusterError("resource-exhausted", "no port of SCTP is left to publish");
  }
}

function holdTcp(port: number, host: string): Promise<{ holder: Holder; number: number }> {
  return new Promise((resolve, reject) => {
    // Only a connection made before the rule is loaded arrives here.
    const server = createServer((socket) => socket.destroy());
    server.once("error", reject);
    server.listen({ port, host, exclusive: true }, () => {
      server.off("error", reject).on("error", () => undefined); // An accept that failed changes nothing.
      const address = server.address();
      resolve({
        holder: server,
        number: typeof address === "object" && address !== null ? address.port : port,
      });
    });
  });
}

function holdUdp(port: number, host: string): Promise<{ holder: Holder; number: number }> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
    socket.once("error", (cause) => {
      socket.close();
      reject(cause);
    });
    socket.bind({ port, address: host, exclusive: true }, () => {
      socket.removeAllListeners("error").on("error", () => undefined); // Nothing is sent or expected here.
      resolve({ holder: socket, number: socket.address().port });
    });
  });
}

/** IPv6 has no rules that translate, so a program of ours passes on what arrives. */
async function holdRelay(
  protocol: HostPort["protocol"],
  number: number,
  host: string,
  target: RelayTarget,
): Promise<{ holder: Holder; number: number }> {
  if (protocol === "sctp") {
    throw new ClusterError("unimplemented", "SCTP is published at IPv4 addresses only");
  }
  const relay = await (protocol === "tcp" ? relayTcp : relayUdp)(host, number, target);
  return { holder: relay, number: relay.port };
}

/** The host has no IPv6, or SCTP was asked for, which is not carried by it. */
function isMissing(cause: unknown): boolean {
  if (cause instanceof ClusterError) return cause.code === "unimplemented";
  return ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes((cause as NodeJS.ErrnoException).code ?? "");
}

function isIpv6(address: string | undefined): boolean {
  return address?.includes(":") === true;
}

/** All addresses of its family. */
function isAny(address: string | undefined): boolean {
  return address === undefined || address === "" || address === everywhereOfIpv6;
}

function bindFailure(at: string, cause: unknown): ClusterError {
  if (cause instanceof ClusterError) return cause;
  const doing = `failed to bind host port ${at}`;
  const { code } = cause as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") {
    return new ClusterError("conflict", `${doing}: address already in use`, { cause });
  }
  if (code === "EADDRNOTAVAIL") {
    return new ClusterError("invalid-argument", `${doing}: cannot assign requested address`, { cause });
  }
  return new ClusterError("internal", `${doing}: ${errorText(cause)}`, { cause });
}
