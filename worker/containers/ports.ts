/** Exposed and published ports of a request. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { PortSpec } from "../../model/service.ts";
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
): PortSpec[] {
  const ports: PortSpec[] = [];
  for (const [text, bindings] of Object.entries(PortBindings)) {
    const { protocol, port } = parsePort(text);
    const wanted = bindings.length === 0 ? [{ HostIp: "", HostPort: "" }] : bindings;
    for (const { HostPort } of wanted) {
      ports.push({ protocol, targetPort: port, publishedPort: hostPort(HostPort), publishMode: "host" });
    }
  }
  for (const text of ExposedPorts) {
    const { protocol, port } = parsePort(text);
    const isBound = ports.some((each) => each.targetPort === port && each.protocol === protocol);
    if (!PublishAllPorts || isBound) continue;
    ports.push({ protocol, targetPort: port, publishedPort: 0, publishMode: "host" });
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

/** Of a range, the first: whoever wants each of them names each of them. */
function hostPort(text: string): number {
  if (text === "") return 0;
  const [, digits = ""] = /^(\d{1,5})(?:-\d{1,5})?$/.exec(text) ?? [];
  const port = Number(digits);
  if (digits === "" || port > portMost) {
    throw new ClusterError("invalid-argument", `invalid port specification: "${text}"`);
  }
  return port;
}
