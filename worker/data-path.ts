/**
 * Whether this host still has the address of its data path, and which one takes its place: decision 0085. An address that the
 * user fixed is never replaced; one that came with an interface, or was chosen, is followed.
 */
import { createSocket } from "node:dgram";
import { networkInterfaces } from "node:os";
import { hostOf } from "../model/address.ts";
import type { NodeIdentity } from "../proto/host.ts";
import { systemAddress } from "./api/address.ts";
import type { HostInterface } from "./api/deps.ts";

/** How often the host's addresses are looked at. */
export const dataPathLookMs = 1_000;
/**
 * In so many looks in a row it has to be missing: a service of the host's network that starts again takes addresses away for a moment. All
 * else that follows a change takes less than the rest of ten seconds.
 */
export const dataPathLooks = 4;

export interface DataPathDeps {
  /** IPv4 addresses, those of loopback included. */
  readonly interfaces: () => readonly HostInterface[];
  /** The address that packets to `host` leave by; undefined where there is no way to it. */
  readonly sourceTowards: (host: string) => Promise<string | undefined>;
}

export type DataPathNow =
  | { readonly kind: "kept" }
  | { readonly kind: "moved"; readonly address: string }
  /** Not on this host, and nothing takes its place. */
  | { readonly kind: "gone"; readonly problem: string };

export type Addressed = Pick<
  NodeIdentity,
  "dataPathAddress" | "dataPathSource" | "advertiseAddress" | "managers"
>;

export async function dataPathNow(deps: DataPathDeps, identity: Addressed): Promise<DataPathNow> {
  const { dataPathAddress: own, dataPathSource: source = { kind: "fixed" } } = identity;
  const interfaces = deps.interfaces();
  const isHere = interfaces.some(({ addresses }) => addresses.includes(own));
  if (own === "" || own.includes(":") || own.startsWith("127.") || isHere) return { kind: "kept" };
  const gone = `the data path address ${own} is not on this host`;
  switch (source.kind) {
    case "fixed":
      return {
        kind: "gone",
        problem:
          `${gone}, and was given as the one to use: give it back to an interface, or let the node leave the swarm ` +
          "and join again with the address it has now",
      };
    case "interface": {
      const named = interfaces.find(({ name }) => name === source.name);
      const address = named?.addresses.find(isUsable);
      if (address !== undefined) return { kind: "moved", address };
      return { kind: "gone", problem: `${gone}, and interface ${source.name} has no other` };
    }
    case "chosen": {
      const address = await chosen(deps, identity, interfaces);
      if (address !== undefined) return { kind: "moved", address };
      return { kind: "gone", problem: `${gone}, and no other leads to a manager` };
    }
  }
}

/** As when the node joined: the address that leads to a manager; where there is no other manager, the only one there is. */
async function chosen(
  { sourceTowards }: DataPathDeps,
  { managers, advertiseAddress }: Addressed,
  interfaces: readonly HostInterface[],
): Promise<string | undefined> {
  const others = managers.filter((manager) => manager !== advertiseAddress);
  const isOwn = (address: string): boolean => interfaces.some(({ addresses }) => addresses.includes(address));
  for (const manager of others) {
    const address = await sourceTowards(hostOf(manager));
    if (address !== undefined && isUsable(address) && isOwn(address)) return address;
  }
  if (others.length > 0) return undefined;
  const usable = interfaces.map(({ name, addresses }) => ({ name, addresses: addresses.filter(isUsable) }));
  try {
    return systemAddress(usable);
  } catch {
    return undefined; // None, or several: which one is meant is not for us to say.
  }
}

/** A host that waits for its DHCP server may have a link-local address meanwhile. */
function isUsable(address: string): boolean {
  return !address.startsWith("127.") && !address.startsWith("169.254.");
}

export const hostDataPath: DataPathDeps = { interfaces: () => interfacesOf("all"), sourceTowards };

/** Of what a user may mean. */
export function ownInterfaces(): HostInterface[] {
  return interfacesOf("reachable");
}

/** IPv4 only, as everything between hosts here. */
function interfacesOf(which: "all" | "reachable"): HostInterface[] {
  return Object.entries(networkInterfaces()).map(([name, entries = []]) => ({
    name,
    addresses: entries
      .filter(({ family, internal }) => family === "IPv4" && (which === "all" || !internal))
      .map(({ address }) => address),
  }));
}

/** A datagram socket is given its address as it is connected, and sends nothing for that. */
function sourceTowards(host: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    const settle = (address: string | undefined): void => {
      socket.close();
      resolve(address);
    };
    socket.once("error", () => settle(undefined)); // No way to it. With a callback, that would be told instead.
    socket.once("connect", () => settle(socket.address().address));
    socket.connect(9, host);
  });
}
