import { parseCidr, parseIp, printCidr, printIp } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import {
  hostProblemLimit,
  ipv6AddressLimit,
  type NodeDescription,
  type NodeTunnel,
  ownSubnetLimit,
  type TunnelKey,
} from "../../model/node.ts";
import type { NodeDescriptionMessage } from "../../proto/gen/shoal/dispatcher.ts";

const descriptionLimitBytes = 256 * 1024;

/**
 * Reads what a node says of itself.
 *
 * @throws {ClusterError} `invalid-argument`, naming the field, when it is not a `NodeDescription`.
 */
export function readDescription(message: NodeDescriptionMessage | undefined): NodeDescription {
  const json = message?.json ?? Buffer.alloc(0);
  if (json.length > descriptionLimitBytes) throw invalid(`${json.length} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(json.toString("utf8"));
  } catch (cause) {
    throw invalid("no JSON", cause);
  }
  const description = record(value, "description");
  const platform = record(description["platform"], "platform");
  const resources = record(description["resources"], "resources");
  return {
    hostname: text(description["hostname"], "hostname"),
    platform: {
      architecture: text(platform["architecture"], "architecture"),
      os: text(platform["os"], "os"),
    },
    resources: {
      nanoCpus: count(resources["nanoCpus"], "nanoCpus"),
      memoryBytes: count(resources["memoryBytes"], "memoryBytes"),
      generic: mapOf(resources["generic"], "generic", count),
      ...named(resources["named"]),
    },
    engineVersion: text(description["engineVersion"], "engineVersion"),
    engineLabels: mapOf(description["engineLabels"], "engineLabels", text),
    plugins: list(description["plugins"], "plugins").map((value) => {
      const plugin = record(value, "plugins");
      return { type: text(plugin["type"], "type"), name: text(plugin["name"], "name") };
    }),
    ...tunnel(description["tunnel"]),
    ...ipv6Addresses(description["ipv6Addresses"]),
    ...subnets(description["subnets"]),
    ...problem(description["problem"]),
  };
}

/** Absent on nodes that do not say. */
function ipv6Addresses(value: unknown): { ipv6Addresses?: readonly string[] } {
  if (value === undefined) return {};
  const read = list(value, "ipv6Addresses").map((each) => text(each, "ipv6Addresses"));
  // They become elements of other nodes' firewall rules.
  const isSound = (address: string): boolean => {
    const ip = parseIp(address);
    return ip?.bits === 128 && printIp(ip) === address;
  };
  if (!read.every(isSound) || read.length > ipv6AddressLimit)
    throw invalid(`ipv6Addresses is no list of at most ${ipv6AddressLimit} IPv6 addresses`);
  return { ipv6Addresses: read };
}

/** Absent on nodes that have none. */
function problem(value: unknown): { problem?: string } {
  if (value === undefined) return {};
  return { problem: text(value, "problem").slice(0, hostProblemLimit) };
}

/** Absent on nodes that do not say. */
function subnets(value: unknown): { subnets?: readonly string[] } {
  if (value === undefined) return {};
  const read = list(value, "subnets").map((each) => text(each, "subnets"));
  // A default route would leave nothing for networks.
  const isSound = (subnet: string): boolean => {
    const block = parseCidr(subnet);
    return block !== undefined && block.prefixBits > 0 && printCidr(block) === subnet;
  };
  if (!read.every(isSound) || read.length > ownSubnetLimit)
    throw invalid(`subnets is no list of at most ${ownSubnetLimit} CIDR blocks`);
  return { subnets: read };
}

/** Absent on nodes that know no tunnels. */
function tunnel(value: unknown): { tunnel?: NodeTunnel } {
  if (value === undefined) return {};
  const { keys, problem } = record(value, "tunnel");
  const read = list(keys, "tunnel.keys").map(tunnelKey);
  if (read.length > 2 || new Set(read.map(({ slot }) => slot)).size < read.length)
    throw invalid("tunnel.keys has more than one key for a slot");
  return {
    tunnel: { keys: read, ...(problem !== undefined && { problem: text(problem, "tunnel.problem") }) },
  };
}

function tunnelKey(value: unknown): TunnelKey {
  const { publicKey, slot } = record(value, "tunnel.keys");
  const key = text(publicKey, "publicKey");
  // It becomes an argument of a command on other nodes.
  if (!/^[A-Za-z0-9+/]{43}=$/.test(key)) throw invalid("publicKey is no key");
  if (slot !== 0 && slot !== 1) throw invalid("slot is neither 0 nor 1");
  return { publicKey: key, slot };
}

/** Absent on nodes that only count theirs. */
function named(value: unknown): { named?: Record<string, readonly string[]> } {
  if (value === undefined) return {};
  return { named: mapOf(value, "named", (names) => list(names, "named").map((name) => text(name, "named"))) };
}

function record(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalid(`${name} is no object`);
  return value as Record<string, unknown>;
}

function list(value: unknown, name: string): readonly unknown[] {
  if (!Array.isArray(value)) throw invalid(`${name} is no list`);
  return value as readonly unknown[];
}

function text(value: unknown, name: string): string {
  if (typeof value !== "string") throw invalid(`${name} is no text`);
  return value;
}

function count(value: unknown, name: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
    throw invalid(`${name} is no count`);
  return value;
}

function mapOf<T>(
  value: unknown,
  name: string,
  read: (value: unknown, name: string) => T,
): Record<string, T> {
  return Object.fromEntries(
    Object.entries(record(value, name)).map(([key, item]) => [key, read(item, name)]),
  );
}

function invalid(seen: string, cause?: unknown): ClusterError {
  return new ClusterError("invalid-argument", `invalid node description: ${seen}`, { cause });
}
