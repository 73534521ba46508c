/** `POST /networks/create` for a network of this host, refused in Docker's words. Pure. */
import {
  canonicalIp,
  type CidrBlock,
  contains,
  overlaps,
  parseCidr,
  parseIp,
  printCidr,
  unusableIpv6,
  withoutPrefix,
} from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import { requireIpv4 } from "../../model/network.ts";
import { Fields } from "../containers/fields.ts";
import { addressNumber } from "../network/addresses.ts";
import { bridgeOptions, isBoolean } from "./record.ts";

export interface SubnetRequest {
  /** Canonical CIDR; absent: the host chooses. */
  readonly subnet?: string;
  readonly range?: string;
  readonly gateway?: string;
  readonly auxiliary: Labels;
}

export interface NetworkRequest extends SubnetRequest {
  readonly name: string;
  readonly internal: boolean;
  readonly attachable: boolean;
  readonly ipamOptions: Labels;
  readonly options: Labels;
  readonly labels: Labels;
  /** Absent: it has IPv4 alone. */
  readonly ipv6?: SubnetRequest;
}

const predefinedNames = ["bridge", "host", "none", "default"];
/** Room for the network's own address, its last, a gateway and a container. */
const longestPrefixBits = { 32: 30, 128: 126 } as const;
const unusableBlocks = unusableIpv6.flatMap((text) => parseCidr(text) ?? []);
const mtuLeast = 68;
const mtuMost = 65_535;
/** Below that the kernel takes IPv6 off a device (RFC 8200). */
const ipv6MtuLeast = 1_280;
const nameLimit = 256;

/** Whether the cluster is to make it. */
export function isShared(body: unknown): boolean {
  const fields = new Fields(body);
  return fields.text("Driver") === "overlay" || fields.text("Scope") === "swarm" || fields.flag("Ingress");
}

/** @throws {ClusterError} `invalid-argument`, `permission-denied`, `not-found`, `unimplemented`. */
export function parseRequest(body: unknown): NetworkRequest {
  const fields = new Fields(body);
  const name = fields.text("Name");
  if (name.trim() === "") throw invalid("invalid name: name is empty");
  if (name.length > nameLimit) throw invalid(`invalid name: at most ${nameLimit} characters are accepted`);
  if (predefinedNames.includes(name)) {
    throw new ClusterError("permission-denied", `operation is not permitted on predefined ${name} network`);
  }
  requireBridge(fields.text("Driver"));
  if (fields.flag("ConfigOnly") || fields.object("ConfigFrom").text("Network") !== "") {
    throw later("configuration-only networks");
  }
  requireIpv4("bridge", { ipv4: fields.optionalFlag("EnableIPv4"), ipv6: fields.flag("EnableIPv6") });
  const ipam = fields.object("IPAM");
  const ipamDriver = ipam.text("Driver");
  if (ipamDriver !== "" && ipamDriver !== "default") {
    throw new ClusterError(
      "not-found",
      `failed to get ipam driver: plugin ${JSON.stringify(ipamDriver)} not found`,
    );
  }
  const options = fields.labels("Options");
  const families = fields.flag("EnableIPv6") ? "dual" : "ipv4";
  checkOptions(options, families === "dual" ? ipv6MtuLeast : mtuLeast);
  return {
    name,
    internal: fields.flag("Internal"),
    attachable: fields.flag("Attachable"),
    ipamOptions: ipam.labels("Options"),
    options,
    labels: fields.labels("Labels"),
    ...parseSubnets(ipam.objects("Config"), families),
  };
}

function requireBridge(driver: string): void {
  switch (driver) {
    case "":
    case "bridge":
    case "default":
      return;
    case "host":
    case "null":
      throw new ClusterError("permission-denied", `only one instance of "${driver}" network is allowed`);
    case "macvlan":
    case "ipvlan":
      throw later(`network driver ${driver}`);
    default:
      throw new ClusterError(
        "not-found",
        `could not find plugin ${driver} in v1 plugin registry: plugin not found`,
      );
  }
}

function checkOptions(options: Labels, leastMtu: number): void {
  for (const option of [bridgeOptions.mutual, bridgeOptions.masquerade]) {
    const text = options[option];
    if (text !== undefined && !isBoolean(text)) {
      throw invalid(`strconv.ParseBool: parsing ${JSON.stringify(text)}: invalid syntax`);
    }
  }
  const mtu = options[bridgeOptions.mtu];
  if (mtu !== undefined && !(/^\d+$/.test(mtu) && Number(mtu) >= leastMtu && Number(mtu) <= mtuMost)) {
    throw invalid(`invalid MTU ${JSON.stringify(mtu)}: a number from ${leastMtu} to ${mtuMost} is accepted`);
  }
  const hostAddress = options[bridgeOptions.hostAddress];
  if (hostAddress !== undefined && addressNumber(hostAddress) === undefined) {
    throw invalid(
      `invalid ${bridgeOptions.hostAddress} ${JSON.stringify(hostAddress)}: an IPv4 address is accepted`,
    );
  }
  const device = options[bridgeOptions.device];
  if (device !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/.test(device)) {
    throw invalid(
      `invalid bridge name ${JSON.stringify(device)}: up to 15 letters, digits, dots, dashes and underscores are accepted`,
    );
  }
  for (const family of ["ipv4", "ipv6"]) {
    const option = `com.docker.network.bridge.gateway_mode_${family}`;
    const mode = options[option];
    if (mode !== undefined && mode !== "nat") throw later(`${option}=${mode}`);
  }
}

function parseSubnets(
  configs: readonly Fields[],
  families: "ipv4" | "dual",
): SubnetRequest & Pick<NetworkRequest, "ipv6"> {
  const problems: string[] = [];
  const found: { 32: SubnetRequest[]; 128: SubnetRequest[] } = { 32: [], 128: [] };
  for (const config of configs) {
    const given = config.text("Subnet");
    const block = parseCidr(given);
    if (block === undefined) {
      // A gateway or range alone is found out by Docker as well.
      problems.push(`invalid subnet ${given}: invalid CIDR block notation`);
      continue;
    }
    if (block.bits === 128 && families === "ipv4") continue; // Without IPv6, Docker leaves these out of account too.
    problems.push(...subnetProblems(given, block));
    const range = config.text("IPRange");
    problems.push(...rangeProblems(range, block));
    const gateway = config.text("Gateway");
    const auxiliary = config.labels("AuxiliaryAddresses");
    for (const [what, address] of [
      [`gateway ${gateway}`, gateway],
      ...Object.entries(auxiliary).map(([key, address]) => [`auxiliary address ${key}`, address]),
    ] as const) {
      const problem = addressProblem(address ?? "", block);
      if (problem !== undefined) problems.push(`invalid ${what}: ${problem}`);
    }
    found[block.bits].push({
      subnet: printCidr(block),
      auxiliary: Object.fromEntries(
        Object.entries(auxiliary).map(([key, address]) => [key, canonicalIp(address)]),
      ),
      ...(range !== "" && { range: canonicalIp(range) }),
      ...(gateway !== "" && { gateway: canonicalIp(gateway) }),
    });
  }
  if (problems.length > 0) throw invalid(`invalid network config:\n${joined(problems)}`);
  const [ipv4 = { auxiliary: {} }, ...moreIpv4] = found[32];
  const [ipv6 = { auxiliary: {} }, ...moreIpv6] = found[128];
  if (moreIpv4.length + moreIpv6.length > 0) throw invalid("bridge driver doesn't support multiple subnets");
  return { ...ipv4, ...(families === "dual" && { ipv6 }) };
}

function subnetProblems(given: string, block: CidrBlock): string[] {
  const subnet = printCidr(block);
  const problems: string[] = [];
  if (hasHostBits(given, block)) problems.push(`invalid subnet ${given}: it should be ${subnet}`);
  const longest = longestPrefixBits[block.bits];
  if (block.prefixBits > longest) {
    problems.push(`invalid subnet ${given}: a block of at least /${longest} is accepted`);
  }
  if (unusableBlocks.some((each) => each.bits === block.bits && overlaps(each, block))) {
    problems.push(`invalid subnet ${given}: a block of unicast addresses such as fd00:1::/64 is accepted`);
  }
  return problems;
}

function hasHostBits(text: string, { base }: CidrBlock): boolean {
  return parseIp(withoutPrefix(text))?.value !== base;
}

function rangeProblems(range: string, outer: CidrBlock): string[] {
  if (range === "") return [];
  const inner = parseCidr(range);
  if (inner === undefined) return [`invalid ip-range ${range}: invalid CIDR block notation`];
  if (inner.bits !== outer.bits) return [`invalid ip-range ${range}: ${otherFamily(outer)}`];
  const subnet = printCidr(outer);
  const problems: string[] = [];
  if (inner.prefixBits < outer.prefixBits) {
    problems.push(`invalid ip-range ${range}: CIDR block is bigger than its parent subnet ${subnet}`);
  }
  if (hasHostBits(range, inner)) {
    problems.push(`invalid ip-range ${range}: it should be ${printCidr(inner)}`);
  }
  if (!contains(outer, { bits: inner.bits, value: inner.base })) {
    problems.push(`invalid ip-range ${range}: parent subnet ${subnet} doesn't contain ip-range`);
  }
  return problems;
}

function addressProblem(address: string, block: CidrBlock): string | undefined {
  if (address === "") return undefined;
  const ip = parseIp(address);
  if (ip === undefined) return "invalid address";
  if (ip.bits !== block.bits) return otherFamily(block);
  return contains(block, ip) ? undefined : `parent subnet ${printCidr(block)} doesn't contain this address`;
}

function otherFamily({ bits }: CidrBlock): string {
  return `parent subnet is an ${bits === 32 ? "IPv4" : "IPv6"} block`;
}

/** One alone as it stands, several as a list. */
export function joined(problems: readonly string[]): string {
  return problems.length === 1 ? (problems[0] ?? "") : problems.map((problem) => `* ${problem}`).join("\n");
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}

function later(what: string): ClusterError {
  return new ClusterError("unimplemented", `${what} is not available yet`);
}
