import { ClusterError } from "../../model/errors.ts";
import type { Availability } from "../../model/node.ts";
import type { SwarmOperation } from "../../proto/host.ts";
import { type ResolvedAddresses, resolveInit, resolveJoin } from "./address.ts";
import type { FrontDoorDeps } from "./deps.ts";

const defaultDataPathPort = 4789;
const defaultSubnetBits = 24;

/** `POST /swarm/init` → the node's id, a JSON string. */
export async function initSwarm(deps: FrontDoorDeps, body: unknown): Promise<string> {
  const read = fields(body);
  const asked = {
    listen: read.text("ListenAddr"),
    advertise: read.text("AdvertiseAddr"),
    dataPath: read.text("DataPathAddr"),
  };
  const spec = read.value("Spec") ?? {};
  const name = fields(spec).text("Name");
  if (name !== "" && name !== "default") {
    throw new ClusterError("invalid-argument", 'swarm spec must be named "default"');
  }
  const force = read.value("ForceNewCluster") === true;
  if (!force) refuseMember(deps);
  const subnetBits = read.number("SubnetSize") || defaultSubnetBits;
  if (subnetBits < 8 || subnetBits > 29) {
    throw new ClusterError("invalid-argument", `invalid subnet size ${subnetBits}: 8 to 29 is accepted`);
  }
  return carryOut(deps, {
    kind: "init",
    request: {
      ...((force ? addressesNow(deps, asked.advertise) : undefined) ?? resolveInit(asked, deps.interfaces())),
      dataPathPort: dataPathPort(read.number("DataPathPort")),
      addressPools: read.texts("DefaultAddrPool"),
      subnetBits,
      forceNewCluster: force,
      availability: availability(read.text("Availability")),
      spec,
    },
  });
}

/** `POST /swarm/join` */
export async function joinSwarm(deps: FrontDoorDeps, body: unknown): Promise<void> {
  const read = fields(body);
  const remoteAddresses = read.texts("RemoteAddrs").filter((address) => address !== "");
  if (remoteAddresses.length === 0) {
    throw new ClusterError("invalid-argument", "at least 1 RemoteAddr is required to join");
  }
  const asked = {
    listen: read.text("ListenAddr"),
    advertise: read.text("AdvertiseAddr"),
    dataPath: read.text("DataPathAddr"),
  };
  refuseMember(deps);
  await carryOut(deps, {
    kind: "join",
    request: {
      ...resolveJoin(asked, deps.interfaces()),
      remoteAddresses,
      joinToken: read.text("JoinToken"),
      availability: availability(read.text("Availability")),
    },
  });
}

/** `POST /swarm/leave` */
export async function leaveSwarm(deps: FrontDoorDeps, force: boolean): Promise<void> {
  if (deps.node().identity === undefined) {
    throw new ClusterError("unavailable", "This node is not part of a swarm");
  }
  await carryOut(deps, { kind: "leave", force });
}

/** `POST /swarm/unlock`: managers here are never locked. */
export function unlockSwarm(deps: FrontDoorDeps): never {
  if (deps.node().identity === undefined) {
    throw new ClusterError("unavailable", "This node is not part of a swarm");
  }
  throw new ClusterError("conflict", "swarm is not locked");
}

/** Of a node that goes on with its cluster: it keeps them, unless it is told another one to be reached at. */
function addressesNow(deps: FrontDoorDeps, advertise: string): ResolvedAddresses | undefined {
  const { identity } = deps.node();
  if (identity === undefined || advertise !== "") return undefined;
  const { listenAddress, advertiseAddress, dataPathAddress, dataPathSource = { kind: "fixed" } } = identity;
  return { listenAddress, advertiseAddress, dataPathAddress, dataPathSource };
}

function refuseMember(deps: FrontDoorDeps): void {
  if (deps.node().identity === undefined) return;
  throw new ClusterError(
    "unavailable",
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.',
  );
}

async function carryOut(deps: FrontDoorDeps, operation: SwarmOperation): Promise<string> {
  const outcome = await deps.swarm(operation);
  switch (outcome.kind) {
    case "done":
      return outcome.nodeId;
    case "failed":
      throw new ClusterError(outcome.code, outcome.message);
  }
}

function dataPathPort(port: number): number {
  if (port === 0) return defaultDataPathPort;
  if (port >= 1024 && port <= 49_151) return port;
  throw new ClusterError("invalid-argument", `invalid DataPathPort ${port}: 0 or 1024 to 49151 is accepted`);
}

function availability(text: string): Availability {
  const lower = text.toLowerCase();
  if (lower === "") return "active";
  if (lower === "active" || lower === "pause" || lower === "drain") return lower;
  throw new ClusterError("invalid-argument", `invalid Availability: "${text}"`);
}

/** Fields of a JSON object by the API's rules: names in any case, `null` is absent. */
function fields(body: unknown) {
  const entries = typeof body === "object" && body !== null ? Object.entries(body) : [];
  const byName = new Map<string, unknown>(entries.map(([name, value]) => [name.toLowerCase(), value]));
  const value = (name: string): unknown => byName.get(name.toLowerCase()) ?? undefined;
  const refuse = (name: string, wanted: string): never => {
    throw new ClusterError("invalid-argument", `invalid JSON: ${name} is not ${wanted}`);
  };
  return {
    value,
    text(name: string): string {
      const found = value(name) ?? "";
      return typeof found === "string" ? found : refuse(name, "a string");
    },
    number(name: string): number {
      const found = value(name) ?? 0;
      return typeof found === "number" ? found : refuse(name, "a number");
    },
    texts(name: string): string[] {
      const found = value(name) ?? [];
      return Array.isArray(found) ? found.map(String) : refuse(name, "a list");
    },
  };
}
