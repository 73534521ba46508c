/**
 * What a host can find out about the networks it shares with others: which probes to make, and what their outcomes say.
 * `examiner.ts` makes them.
 */
import { isIpv6 } from "../../model/address.ts";
import type { NodeId } from "../../model/ids.ts";
import { portKey } from "../../model/task.ts";
import { addressNumber, contains, parseCidr } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import { familiesOf } from "./network.ts";
import type { OverlayNetwork, WantedNetworks } from "./network.ts";
import { markOf, otherHosts, ownAddress, resolveNetwork } from "./objects.ts";
import { tunnelAddressOf, tunnelHosts } from "./tunnel-plan.ts";

/** Another host, as the managers know it. */
export interface Peer {
  readonly nodeId: NodeId;
  readonly hostname: string;
  /** Where its VXLAN listens, no port. */
  readonly address: string;
}

export interface Finding {
  readonly test: "kernel" | "reach" | "mtu" | "tunnel" | "vxlan" | "vip" | "dns" | "port";
  /** Empty where no other host is concerned. */
  readonly peer: NodeId | "";
  /** What was tested, such as "web on front"; empty when test and peer say it. */
  readonly subject: string;
  readonly state: "ok" | "broken" | "unknown";
  readonly text: string;
}

export interface Ping {
  /** Of a task; absent for the host's own. */
  readonly namespace?: string;
  readonly target: string;
  /** The host's address that answers come to, or the device that it is to leave by. */
  readonly source?: string;
  /** Sends it by VXLAN to the host with that mark. */
  readonly mark?: string;
  /** Of the whole IP packet, which is not to be cut on its way. */
  readonly packetBytes: number;
}

export interface PeerProbes {
  readonly peer: Peer;
  readonly reach: Ping;
  readonly mtu: Ping;
  /** Where both are on one encrypted network. */
  readonly tunnel?: {
    /** Undefined: the other host has told no key. */
    readonly ping: Ping | undefined;
    /** When the other host was last heard by it, in words. */
    readonly heard: string;
  };
  /** One after the other, small before large, on each path there is. */
  readonly vxlan: readonly { readonly subject: string; readonly small: Ping; readonly large: Ping }[];
}

export interface Probes {
  readonly peers: readonly PeerProbes[];
  readonly virtualIps: readonly { readonly subject: string; readonly ping: Ping }[];
  /** Asked of one gateway from one task's namespace. */
  readonly names: readonly {
    readonly namespace: string;
    readonly gateway: string;
    readonly network: string;
    readonly names: readonly string[];
  }[];
  readonly ports: readonly { readonly subject: string; readonly address: string; readonly port: number }[];
  /** What is known without a probe. */
  readonly findings: readonly Finding[];
}

export interface ExamineState {
  readonly wanted: WantedNetworks | undefined;
  readonly records: Iterable<TaskRecord>;
  readonly underlayMtu: number;
  /** Ports of the mesh that this host could not hold, with the reason. */
  readonly refusedPorts: ReadonlyMap<string, string>;
  /** Undefined: no network here is encrypted. */
  readonly tunnel?:
    | {
        /** The one that packets leave by. */
        readonly device: string;
        readonly mtu: number;
        /** Seconds since each key was heard, by public key. */
        readonly heard: ReadonlyMap<string, number>;
      }
    | undefined;
}

/** Enough to go through, small enough for every link. */
const smallBytes = 100;
const mostPerKind = 50;
/** To each peer, in each family. */
const mostPaths = 4;

/** Everything worth a try; bounded, whatever the cluster's size. */
export function probesOf(state: ExamineState, peers: readonly Peer[]): Probes {
  const { wanted, underlayMtu, refusedPorts } = state;
  if (wanted === undefined) return { peers: peers.map((peer) => reachOf(peer, underlayMtu)), ...nothing };
  const own = ownAddress(wanted);
  const homes = homesOf(state, wanted);
  const serving = servingOf(wanted);
  const findings: Finding[] = [];
  const virtualIps: { subject: string; ping: Ping }[] = [];
  const names = homes.map(({ network, namespace, gateway }) => ({
    namespace,
    gateway,
    network: network.name,
    names: wanted.services
      .filter(({ networkId }) => networkId === network.id)
      .map(({ serviceName }) => serviceName)
      .slice(0, mostPerKind),
  }));
  for (const service of wanted.services) {
    const home = homes.find(({ network }) => network.id === service.networkId);
    if (home === undefined) continue;
    const subject = `${service.serviceName} on network ${home.network.name}`;
    if ((serving.get(`${service.networkId}/${service.serviceId}`) ?? 0) === 0) {
      findings.push({ test: "vip", peer: "", subject, state: "unknown", text: "no task of it is healthy" });
    } else if (virtualIps.length < mostPerKind) {
      for (const target of familiesOf(service)) {
        const ping = { namespace: home.namespace, target, packetBytes: smallBytes };
        virtualIps.push({ subject: `${subject}${byFamily(target)}`, ping });
      }
    }
  }
  const ports: { subject: string; address: string; port: number }[] = [];
  for (const service of wanted.services) {
    for (const port of service.ports) {
      const subject = `${port.publishedPort}/${port.protocol} of ${service.serviceName}`;
      const refused = refusedPorts.get(portKey(port));
      if (refused !== undefined) {
        findings.push({ test: "port", peer: "", subject, state: "broken", text: refused });
        continue;
      }
      if (port.protocol !== "tcp" || !isPublishedOn(service.within, own)) continue;
      if ((serving.get(`${service.networkId}/${service.serviceId}`) ?? 0) === 0) {
        findings.push({
          test: "port",
          peer: "",
          subject,
          state: "unknown",
          text: "no task of it is healthy",
        });
      } else if (ports.length < mostPerKind) {
        ports.push({ subject, address: own, port: port.publishedPort });
      }
    }
  }
  return {
    peers: peers.map((peer) => ({
      ...reachOf(peer, underlayMtu),
      ...tunnelTo(peer, wanted, state.tunnel),
      vxlan: pathsTo(peer, wanted, homes, underlayMtu),
    })),
    virtualIps,
    names: names.filter(({ names: asked }) => asked.length > 0),
    ports,
    findings,
  };
}

const nothing = { virtualIps: [], names: [], ports: [], findings: [] };

interface Home {
  readonly network: OverlayNetwork;
  /** Of one of this host's tasks on it. */
  readonly namespace: string;
  /** Whom that task asks for names. */
  readonly gateway: string;
  /** Of its device, which it keeps while that of the network changes. */
  readonly mtu: number;
}

function homesOf({ records }: ExamineState, { networks }: WantedNetworks): Home[] {
  const all = [...records].filter(({ state }) => state === "attached");
  return networks.flatMap((network) => {
    if (network.ingress) return [];
    for (const { attached, mtus } of all) {
      if (attached.kind !== "namespace") continue;
      const index = attached.addresses.findIndex(({ networkId }) => networkId === network.id);
      const place = attached.addresses[index];
      if (place === undefined) continue;
      return [{ network, namespace: attached.path, gateway: place.gateway, mtu: mtus[index] ?? Infinity }];
    }
    return [];
  });
}

function reachOf(peer: Peer, underlayMtu: number): PeerProbes {
  const { address: target } = peer;
  return {
    peer,
    reach: { target, packetBytes: smallBytes },
    mtu: { target, packetBytes: underlayMtu },
    vxlan: [],
  };
}

function tunnelTo(
  peer: Peer,
  wanted: WantedNetworks,
  tunnel: ExamineState["tunnel"],
): Pick<PeerProbes, "tunnel"> {
  const host = tunnelHosts(wanted).find(({ nodeId }) => nodeId === peer.nodeId);
  if (tunnel === undefined || host === undefined) return {};
  const target = tunnelAddressOf(host);
  const seconds = (host.tunnelKeys ?? []).flatMap(({ publicKey }) => tunnel.heard.get(publicKey) ?? []);
  const heard =
    seconds.length === 0
      ? "the other end was never heard"
      : `the other end was last heard ${Math.min(...seconds)} s ago`;
  if (target === undefined) return { tunnel: { ping: undefined, heard } };
  return { tunnel: { ping: { target, source: tunnel.device, packetBytes: tunnel.mtu }, heard } };
}

/**
 * By the mesh's own way to that host, and from task to task on networks that both are on. The first needs a task on neither:
 * the mark is what sends answers back to the host where a client came in.
 */
function pathsTo(
  peer: Peer,
  wanted: WantedNetworks,
  homes: readonly Home[],
  underlayMtu: number,
): PeerProbes["vxlan"] {
  const path = (subject: string, to: Omit<Ping, "packetBytes">, mtu: number) => ({
    subject,
    small: { ...to, packetBytes: smallBytes },
    large: { ...to, packetBytes: mtu },
  });
  const ingress = wanted.networks.find((network) => network.ingress);
  const host = otherHosts(wanted).find(({ nodeId }) => nodeId === peer.nodeId);
  const byMesh =
    ingress === undefined || host === undefined
      ? []
      : [
          path(
            `network ${ingress.name}`,
            { target: host.address, source: ownAddress(wanted), mark: markOf(host.index) },
            resolveNetwork(ingress, underlayMtu).mtu,
          ),
        ];
  const byTasks = homes.flatMap(({ network, namespace, mtu: ownMtu }) => {
    const endpoint = wanted.endpoints.find(
      ({ networkId, nodeId, serving }) => serving && networkId === network.id && nodeId === peer.nodeId,
    );
    if (endpoint === undefined) return [];
    const mtu = Math.min(ownMtu, resolveNetwork(network, underlayMtu).mtu);
    return familiesOf(endpoint).map((target) =>
      path(`network ${network.name}${byFamily(target)}`, { namespace, target }, mtu),
    );
  });
  const all = [...byMesh, ...byTasks];
  // One family may work where the other does not.
  return [false, true].flatMap((six) =>
    all.filter(({ small }) => isIpv6(small.target) === six).slice(0, mostPaths),
  );
}

/** For the subject of a finding; nothing is said of IPv4. */
function byFamily(address: string): string {
  return isIpv6(address) ? " by IPv6" : "";
}

function servingOf({ endpoints }: WantedNetworks): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { networkId, serviceId, serving } of endpoints) {
    const key = `${networkId}/${serviceId}`;
    if (serving) counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function isPublishedOn(within: readonly string[], address: string): boolean {
  const number = addressNumber(address);
  if (number === undefined) return false;
  return within.length === 0 || within.some((block) => contains(parseCidr(block), number));
}

/** @param code - 0 when at least one answer came. */
export function pingArgv({ namespace, target, source, mark, packetBytes }: Ping): string[] {
  const headerBytes = isIpv6(target) ? 48 : 28; // IP and ICMP.
  return [
    ...(namespace === undefined ? [] : ["nsenter", `--net=${namespace}`]),
    "ping",
    "-n",
    "-q",
    "-c",
    "2",
    "-i",
    "0.2",
    "-W",
    "1",
    "-M",
    "do",
    "-s",
    String(packetBytes - headerBytes),
    ...(source === undefined ? [] : ["-I", source]),
    ...(mark === undefined ? [] : ["-m", String(Number(mark))]),
    target,
  ];
}

export interface PingOutcome {
  readonly answered: boolean;
  /** "0.05 ms", or what was seen instead. */
  readonly text: string;
}

export function pingOutcome(code: number, output: string): PingOutcome {
  const average = /= [\d.]+\/([\d.]+)\//.exec(output)?.[1];
  if (code === 0) return { answered: true, text: average === undefined ? "" : `${average} ms` };
  const tooLong = /mtu ?= ?(\d+)/.exec(output)?.[1];
  if (tooLong !== undefined)
    return { answered: false, text: `something on the way takes only ${tooLong} bytes` };
  const said = output.split("\n").find((line) => /^ping:|nsenter:|Unreachable|prohibited/i.test(line));
  return { answered: false, text: said?.trim() ?? "no answer" };
}

/** @param outcomes - Undefined for a probe that was not made because a smaller one failed already. */
export function peerFindings(
  { peer, mtu, tunnel, vxlan }: PeerProbes,
  outcomes: {
    readonly reach: PingOutcome;
    readonly mtu: PingOutcome | undefined;
    readonly tunnel?: PingOutcome | undefined;
    readonly vxlan: readonly { readonly small: PingOutcome; readonly large: PingOutcome | undefined }[];
  },
): Finding[] {
  const findings: Finding[] = [];
  const add = (test: Finding["test"], subject: string, state: Finding["state"], text: string): void =>
    void findings.push({ test, peer: peer.nodeId, subject, state, text });
  const passes = outcomes.vxlan.some(({ small }) => small.answered);
  if (outcomes.reach.answered) add("reach", "", "ok", `answers in ${outcomes.reach.text}`);
  else if (passes) add("reach", "", "ok", "does not answer ping, but overlay packets pass");
  else add("reach", "", "broken", outcomes.reach.text);
  if (outcomes.mtu?.answered) add("mtu", "", "ok", `${mtu.packetBytes} bytes pass`);
  else if (outcomes.mtu !== undefined) {
    add("mtu", "", "broken", `packets of ${mtu.packetBytes} bytes are lost: ${outcomes.mtu.text}`);
  }
  if (tunnel !== undefined && tunnel.ping === undefined) {
    add("tunnel", "", "broken", "the managers know no key of it");
  } else if (outcomes.tunnel?.answered === true) {
    add("tunnel", "", "ok", `${tunnel?.ping?.packetBytes} bytes pass in ${outcomes.tunnel.text}`);
  } else if (outcomes.tunnel !== undefined) {
    add("tunnel", "", "broken", `${outcomes.tunnel.text}; ${tunnel?.heard}`);
  }
  outcomes.vxlan.forEach(({ small, large }, index) => {
    const { subject = "", large: wide } = vxlan[index] ?? {};
    if (!small.answered) add("vxlan", subject, "broken", small.text);
    else if (large?.answered === false) {
      add("mtu", subject, "broken", `packets of ${wide?.packetBytes} bytes are lost: ${large.text}`);
    } else add("vxlan", subject, "ok", `${wide?.packetBytes} bytes pass in ${small.text}`);
  });
  return findings;
}

/** What a firewall of this host's may stop. */
const stoppable: readonly Finding["test"][] = ["tunnel", "vxlan", "vip", "dns"];

/** Where not even a ping passes, no rule about our own packets is to blame. */
export function mayBeStopped(findings: readonly Finding[]): ReadonlySet<Finding> {
  const broken = findings.filter(({ state }) => state === "broken");
  const cutOff = new Set(broken.flatMap(({ test, peer }) => (test === "reach" ? [peer] : [])));
  return new Set(broken.filter(({ test, peer }) => stoppable.includes(test) && !cutOff.has(peer)));
}
