import { hostOf } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { AddressSource } from "../../proto/host.ts";
import type { HostInterface } from "./deps.ts";

export const defaultPort = 2377;

/** Interfaces that we or other engines made; nobody means them when asking for "the" address. */
const ownInterface = /^(shoal|ov\d|veth|docker|br-|vx|cni|virbr)/;
const ipv4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

export interface ResolvedAddresses {
  /** "ip:port" */
  readonly listenAddress: string;
  readonly advertiseAddress: string;
  /** No port. */
  readonly dataPathAddress: string;
  readonly dataPathSource: AddressSource;
}

/** As typed; empty where nothing was. */
interface Asked {
  readonly listen: string;
  readonly advertise: string;
  readonly dataPath: string;
}

/**
 * Turns what a user typed, interface names included, into addresses.
 *
 * @throws {ClusterError} `invalid-argument` with the API's own texts, which its clients look for.
 */
export function resolveInit(asked: Asked, interfaces: readonly HostInterface[]): ResolvedAddresses {
  const listen = resolveListen(asked.listen, interfaces);
  const advertise = resolveAdvertise(asked.advertise, listen, interfaces);
  if (isUnspecified(listen.host) && !isOwn(advertise.host, interfaces)) requireSystemAddress(interfaces);
  return {
    listenAddress: join(listen),
    advertiseAddress: join(advertise),
    dataPathAddress: asked.dataPath === "" ? advertise.host : resolveDataPath(asked.dataPath, interfaces),
    dataPathSource: sourceOf(asked),
  };
}

/** As `resolveInit`; an advertise address that was not given stays empty: the way to the managers decides. */
export function resolveJoin(asked: Asked, interfaces: readonly HostInterface[]): ResolvedAddresses {
  const listen = resolveListen(asked.listen === "" ? `0.0.0.0:${defaultPort}` : asked.listen, interfaces);
  const isGiven = asked.advertise !== "" || !isUnspecified(listen.host);
  const advertise = isGiven ? resolveAdvertise(asked.advertise, listen, interfaces) : undefined;
  return {
    listenAddress: join(listen),
    advertiseAddress: advertise === undefined ? "" : join(advertise),
    dataPathAddress:
      asked.dataPath === "" ? (advertise?.host ?? "") : resolveDataPath(asked.dataPath, interfaces),
    dataPathSource: sourceOf(asked),
  };
}

/** The data path is what was asked for it; else it follows what others are told, and that what is listened on. */
function sourceOf({ dataPath, advertise, listen }: Asked): AddressSource {
  const text = [dataPath, advertise, listen].find((each) => each !== "") ?? "";
  const host = hostOf(text);
  if (host === "" || isUnspecified(host)) return { kind: "chosen" };
  return isAddress(host) ? { kind: "fixed" } : { kind: "interface", name: host };
}

interface HostPort {
  readonly host: string;
  readonly port: number;
}

function resolveListen(text: string, interfaces: readonly HostInterface[]): HostPort {
  const { host, port } = split(text, `invalid ListenAddr "${text}"`);
  if (isAddress(host)) return { host, port };
  return { host: addressOfInterface(host, interfaces, `invalid ListenAddr "${text}"`), port };
}

function resolveAdvertise(text: string, listen: HostPort, interfaces: readonly HostInterface[]): HostPort {
  if (text === "") {
    if (!isUnspecified(listen.host)) return listen;
    return { host: systemAddress(interfaces), port: listen.port };
  }
  const refusal =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";
  const { host, port } = split(text, refusal, listen.port);
  if (isUnspecified(host)) throw new ClusterError("invalid-argument", refusal);
  return { host: isAddress(host) ? host : addressOfInterface(host, interfaces, refusal), port };
}

function resolveDataPath(text: string, interfaces: readonly HostInterface[]): string {
  const refusal =
    "data path address must be a non-zero IP address or network interface (without a port number)";
  if (isUnspecified(text)) throw new ClusterError("invalid-argument", refusal);
  return isAddress(text) ? text : addressOfInterface(text, interfaces, refusal);
}

function addressOfInterface(name: string, interfaces: readonly HostInterface[], refusal: string): string {
  const found = interfaces.find((each) => each.name === name);
  if (found === undefined) throw new ClusterError("invalid-argument", refusal);
  const [first, second] = found.addresses;
  if (first === undefined)
    throw new ClusterError("invalid-argument", `interface ${name} has no usable addresses`);
  if (second !== undefined) {
    throw new ClusterError(
      "invalid-argument",
      `interface ${name} has more than one address (${first} and ${second})`,
    );
  }
  return first;
}

/** The one address of this host, or the refusal that clients add their advice to. */
export function systemAddress(interfaces: readonly HostInterface[]): string {
  const usable = interfaces
    .filter(({ name, addresses }) => !ownInterface.test(name) && addresses.length > 0)
    .flatMap(({ name, addresses }) => addresses.map((address) => ({ name, address })));
  const [first, second] = usable;
  if (first === undefined)
    throw new ClusterError("invalid-argument", "could not find the system's IP address");
  if (second === undefined) return first.address;
  const where =
    first.name === second.name
      ? `on interface ${first.name} (${first.address} and ${second.address})`
      : `on different interfaces (${first.address} on ${first.name} and ${second.address} on ${second.name})`;
  throw new ClusterError(
    "invalid-argument",
    `could not choose an IP address to advertise since this system has multiple addresses ${where}`,
  );
}

function requireSystemAddress(interfaces: readonly HostInterface[]): void {
  try {
    systemAddress(interfaces);
  } catch (cause) {
    throw new ClusterError(
      "invalid-argument",
      "must specify a listening address because the address to advertise is not recognized as a system address, " +
        "and a system's IP address to use could not be uniquely identified",
      { cause },
    );
  }
}

function split(text: string, refusal: string, port = defaultPort): HostPort {
  const colon = text.lastIndexOf(":");
  const host = colon === -1 ? text : text.slice(0, colon);
  const number = colon === -1 ? port : Number(text.slice(colon + 1));
  const isPort = Number.isInteger(number) && number > 0 && number < 65_536;
  if (host === "" || !isPort) throw new ClusterError("invalid-argument", refusal);
  return { host, port: number };
}

function isOwn(address: string, interfaces: readonly HostInterface[]): boolean {
  return address.startsWith("127.") || interfaces.some(({ addresses }) => addresses.includes(address));
}

function isAddress(text: string): boolean {
  return (
    ipv4
      .exec(text)
      ?.slice(1)
      .every((part) => Number(part) < 256) ?? false
  );
}

function isUnspecified(host: string): boolean {
  return host === "0.0.0.0";
}

function join({ host, port }: HostPort): string {
  return `${host}:${port}`;
}
