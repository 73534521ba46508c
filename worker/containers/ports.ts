/** Exposed and published ports of a request. Pure. */
import { canonicalIp, parseIp } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { HostPortSpec } from "../network/network.ts";
import type { ContainerConfig, HostConfig } from "./config.ts";

const portMost = 65_535;

/**
 * What the host opens.
 *
 * @throws {ClusterError} `invalid-argument` for what is no port.
 */
export function portBindings(
  { ExposedPorts }: Pick<ContainerConfig, "ExposedPorts">,
  {
    PortBindings,
    PublishAllPorts,
    NetworkMode,
  }: Pick<HostConfig, "PortBindings" | "PublishAllPorts" | "NetworkMode">,
): HostPortSpec[] {
  const ports: HostPortSpec[] = [];
  for (const [text, bindings] of Object.entries(PortBindings)) {
    const { protocol, port } = parsePort(text);
    const wanted = bindings.length === 0 ? [{ HostIp: "", HostPort: "" }] : bindings;
    for (const { HostIp, HostPort } of wanted) {
      const [first, last] = hostPorts(HostPort);
      ports.push({
        protocol,
        targetPort: port,
        publishedPort: first,
        publishMode: "host",
        ...(last > first && { publishedEnd: last }),
        ...hostAddress(HostIp),
      });
    }
  }
  for (const text of ExposedPorts) {
    const { protocol, port } = parsePort(text);
    const isBound = ports.some((each) => each.targetPort === port && each.protocol === protocol);
    if (!PublishAllPorts || isBound) continue;
    ports.push({ protocol, targetPort: port, publishedPort: 0, publishMode: "host", ipv6: true });
  }
  return NetworkMode === "host" || NetworkMode === "none" ? [] : ports;
}

function parsePort(text: string): { protocol: "tcp" | "udp" | "sctp"; port: number } {
  const [, digits = "", protocol = "tcp"] = /^(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  const port = Number(digits);
  if (digits === "" || port < 1 || port > portMost) {
    throw new ClusterError("invalid-argument", `invalid port specification: "${text}"`);
  }
  // The pattern has only these three.
  return { protocol: protocol as "tcp" | "udp" | "sctp", port };
}

/** "8080", or "8080-8090" for the first of them that is free. */
function hostPorts(text: string): readonly [first: number, last: number] {
  if (text === "") return [0, 0];
  const [, from = "", to = from] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const [first, last] = [Number(from), Number(to)];
  if (from === "" || last > portMost || last < first) {
    throw new ClusterError("invalid-argument", `invalid port specification: "${text}"`);
  }
  return [first, last];
}

/** Nothing said leaves it to the network, and is for IPv6 as well. */
function hostAddress(text: string): { readonly hostAddress?: string; readonly ipv6?: true } {
  if (text === "") return { ipv6: true };
  const ip = parseIp(text);
  if (ip === undefined) throw new ClusterError("invalid-argument", `invalid IP address: ${text}`);
  return { hostAddress: canonicalIp(text) };
}
