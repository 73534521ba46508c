/** `/shoal/v1/net/doctor`: every host tests the networks it shares with the others; what is broken, and the next command. */
import type { NodeId } from "../../model/ids.ts";
import { dataPathOf, type Node } from "../../model/node.ts";
import type { NetworkFinding, NetworkPeer } from "../../proto/gen/shoal/telemetry.ts";
import type { CheckedNode } from "../../proto/telemetry.ts";
import { isTerminal } from "../../model/task.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { type Call, json, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { byHostname, hostnameOf } from "./hostname.ts";
import { byCause, type DoctorFinding, type HostsOf, isUnpublished, serviceOf } from "./net-causes.ts";

export const netDoctorRoutes: readonly Route[] = [
  { method: "GET", path: "/shoal/v1/net/doctor", handle: netDoctor },
];

/** A host tests no more than so many others, in bounded time: up to twice as many hosts and one, every pair is tested. */
const mostPeers = 64;

export interface DoctorReport {
  readonly Healthy: boolean;
  readonly Hosts: readonly {
    readonly ID: string;
    readonly Hostname: string;
    readonly Address: string;
    readonly Answered: boolean;
    /** Tests that passed. */
    readonly Passed: number;
    readonly Broken: number;
  }[];
  /** What is broken, and what could not be tested: causes, the worst first, and below each what follows from it. */
  readonly Findings: readonly DoctorFinding[];
}

async function netDoctor(deps: ApiDeps, call: Call): Promise<Reply> {
  const nodes = deps.store.view((view) => [...view.nodes.list()]).toSorted((a, b) => a.index - b.index);
  const reachable = nodes.filter(({ status }) => status.state !== "down");
  const peers = pairsOf(reachable);
  const checked = await deps.checkNetworks(
    reachable.map(({ id }) => id),
    (nodeId) => peers.get(nodeId) ?? [],
  );
  call.signal.throwIfAborted();
  const hosts = deps.store.view(hostsByService);
  return json(diagnose(nodes, checked, (service) => hosts.get(service) ?? nowhere));
}

const nowhere: ReadonlySet<string> = new Set();

/** Where each service has tasks at work, by its name. */
function hostsByService(view: StoreView): Map<string, Set<string>> {
  const hosts = new Map<string, Set<string>>();
  for (const node of view.nodes.list()) {
    const names = view.tasks
      .byNode(node.id)
      .flatMap((task) => (isTerminal(task) ? [] : (revisionOfTask(view, task)?.serviceName ?? [])));
    for (const name of names) {
      const known = hosts.get(name);
      if (known === undefined) hosts.set(name, new Set([hostnameOf(node)]));
      else known.add(hostnameOf(node));
    }
  }
  return hosts;
}

/**
 * Whom each host tests: the next half of the others in a circle, so that a pair is tested once. What it sends and what
 * comes back go both ways, so the other end has nothing to add.
 */
export function pairsOf(nodes: readonly Node[]): Map<NodeId, NetworkPeer[]> {
  const known = nodes.filter((node) => dataPathOf(node) !== "");
  const count = known.length;
  return new Map(
    known.map((node, index) => {
      // Of an even number, those opposite each other are tested from one side.
      const half = (count - 1) / 2 + (index < count / 2 ? 0.5 : 0);
      const others = Array.from(
        { length: Math.min(Math.floor(half), mostPeers) },
        (_, step) => known[(index + step + 1) % count],
      );
      return [node.id, others.flatMap((each) => (each === undefined ? [] : [peerOf(each)]))];
    }),
  );
}

function peerOf(node: Node): NetworkPeer {
  return { nodeId: node.id, hostname: hostnameOf(node), address: dataPathOf(node) };
}

/**
 * @param nodes - All there are, those that are down too.
 * @param checked - Those that were asked.
 */
export function diagnose(
  nodes: readonly Node[],
  checked: readonly CheckedNode[],
  hostsOf: HostsOf = () => nowhere,
): DoctorReport {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const replies = new Map(checked.map((each) => [each.nodeId, each]));
  const findings: DoctorFinding[] = [];
  for (const node of nodes) {
    const reply = replies.get(node.id);
    const Host = hostnameOf(node);
    // It is known whether the host answers or not.
    const problem = node.description?.problem ?? "";
    if (problem !== "") {
      const Next = `on ${Host}: ip -4 address`;
      findings.push({
        Host,
        Test: "address",
        Peer: "",
        Subject: "",
        State: "broken",
        Text: problem,
        Next,
        Follows: false,
      });
    }
    if (reply?.reply !== undefined) continue;
    const Text =
      node.status.state === "down"
        ? `the host is down: ${node.status.message || "it was not heard for longer than the grace"}`
        : `the host did not answer the check: ${reply?.problem ?? "it was not asked"}`;
    const Next =
      node.status.state === "down"
        ? `on ${Host}: systemctl status shoald`
        : `on ${Host}: systemctl status shoald; its way to port 4222/tcp of the leader must be open`;
    findings.push({
      Host,
      Test: "answer",
      Peer: "",
      Subject: "",
      State: "broken",
      Text,
      Next,
      Follows: false,
    });
  }
  const isDown = (id: string): boolean => replies.get(id as NodeId)?.reply === undefined;
  for (const { nodeId, reply } of checked) {
    const node = byId.get(nodeId);
    for (const finding of reply?.findings ?? []) {
      if (node === undefined || finding.state === "ok") continue;
      const peer = byId.get(finding.peerNodeId as NodeId); // Ids of ours come back.
      const state = finding.state === "broken" ? "broken" : "unknown";
      findings.push({
        Host: hostnameOf(node),
        Test: finding.test,
        Peer: peer === undefined ? "" : hostnameOf(peer),
        Subject: finding.subject,
        State: state,
        Text: textOf(finding, peer),
        Next:
          state === "broken"
            ? nextOf(finding, node, peer !== undefined && !isDown(peer.id) ? peer : undefined)
            : "",
        Follows: false,
      });
    }
  }
  return {
    Healthy: !findings.some(({ State }) => State === "broken"),
    Hosts: nodes.toSorted(byHostname).map((node) => {
      const own = replies.get(node.id)?.reply?.findings ?? [];
      return {
        ID: node.id,
        Hostname: hostnameOf(node),
        Address: dataPathOf(node),
        Answered: !isDown(node.id),
        Passed: own.filter(({ state }) => state === "ok").length,
        Broken: own.filter(({ state }) => state === "broken").length,
      };
    }),
    Findings: byCause(findings, hostsOf),
  };
}

function textOf({ test, subject, text }: NetworkFinding, peer: Node | undefined): string {
  const to = peer === undefined ? "" : ` ${dataPathOf(peer)}`;
  switch (test) {
    case "kernel":
      if (subject !== "") return text;
      return `the host's network is not as it should be, and could not be mended: ${text}`;
    case "reach":
      return `the address${to} does not answer ping: ${text}`;
    case "mtu":
      return subject === "" ? `the link to${to} takes no full packets: ${text}` : `${subject}: ${text}`;
    case "tunnel":
      return `the tunnel of encrypted networks to${to} does not answer: ${text}`;
    case "vxlan":
      return `overlay packets (VXLAN) to${to} do not come back, ${subject}: ${text}`;
    case "vip":
      return `the virtual IP of ${subject}: ${text}`;
    case "dns":
      return `the name ${subject} is not answered: ${text}`;
    default:
      return `the published port ${subject}: ${text}`;
  }
}

/** One command, and on which host. */
function nextOf({ test, subject, text }: NetworkFinding, node: Node, peer: Node | undefined): string {
  const on = `on ${hostnameOf(node)}: `;
  // A pair is tested from one side only, and what is lost may be lost at either.
  const ends = peer === undefined ? on : `on ${hostnameOf(node)} and ${hostnameOf(peer)}: `;
  const service = serviceOf(test, subject);
  switch (test) {
    case "kernel":
      if (subject !== "")
        return `${on}ip route; take that address or route away, or give the network another subnet (docker network create --subnet)`;
      return `${on}journalctl -u shoald -n 50`;
    case "reach":
      return peer === undefined ? `${on}ip route` : `${on}ip route get ${dataPathOf(peer)}`;
    case "mtu":
      return peer === undefined
        ? `${on}ip link`
        : `${on}tracepath -n ${dataPathOf(peer)}; lower the MTU of the hosts' link to what passes`;
    case "tunnel":
      return `${ends}nft insert rule inet filter input udp dport { 51822, 51823 } accept (or open both in the firewall between them)`;
    case "vxlan":
      return `${ends}nft insert rule inet filter input udp dport 4789 accept (or open 4789/udp in the firewall between them)`;
    case "dns":
      return `${on}nft insert rule inet filter input iifname "ov*" meta l4proto { tcp, udp } th dport 53 accept`;
    case "vip":
      return `shoal service ps ${service}`;
    default:
      return isUnpublished(test, text)
        ? `${on}ss -lntup 'sport = :${subject.split("/")[0] ?? ""}'`
        : `shoal service ps ${service}`;
  }
}
