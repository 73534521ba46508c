/** The host's firewall and address translation for tasks, as one nftables table. */
import type { PublishedPort } from "../../model/task.ts";

/** Ours alone; no other table is ever read or written. */
export const rulesTable = "shoal_net";

export interface RulesNetwork {
  readonly bridge: string;
  /** Absent for the host's own bridge. */
  readonly vxlan?: string;
  /** Canonical CIDR. */
  readonly subnet: string;
  readonly internal: boolean;
}

export interface RulesPort extends PublishedPort {
  /** Of the task, no prefix length. */
  readonly address: string;
}

export interface RulesState {
  readonly networks: readonly RulesNetwork[];
  readonly ports: readonly RulesPort[];
}

/**
 * The whole table, replaced in one transaction by `nft -f`; equal states give equal texts. Connections
 * that were translated before go on as they were.
 *
 * - tasks of one network reach each other, tasks of different networks only by published ports;
 * - tasks reach the outside under the host's address, unless their network is internal;
 * - nobody outside reaches a task but by a published port, which works from other hosts, from this
 *   host under any of its addresses (localhost too), and from the task itself.
 */
export function rulesText({ networks, ports }: RulesState): string {
  const sorted = networks.toSorted((a, b) => compare(a.bridge, b.bridge));
  const devices = sorted.flatMap(devicesOf);
  const links = sorted.flatMap((network) => {
    const ends = devicesOf(network);
    return ends.flatMap((from) =>
      ends.filter((to) => canCross(network, from, to)).map((to) => `"${from}" . "${to}"`),
    );
  });
  const internal = sorted.filter((network) => network.internal).flatMap(devicesOf);
  const outward = sorted.filter((network) => !network.internal).map(({ subnet }) => subnet);
  const targets = [...new Set(ports.map(({ address }) => address))].toSorted(compare);
  return `table ip ${rulesTable}
delete table ip ${rulesTable}
table ip ${rulesTable} {
${set("task_devices", "ifname", devices.map(quoted))}
${set("task_links", "ifname . ifname", links)}
${set("internal_devices", "ifname", internal.map(quoted))}
${set("outward_subnets", "ipv4_addr; flags interval", outward)}
${set(
  "published_targets",
  "ipv4_addr . ipv4_addr",
  targets.map((address) => `${address} . ${address}`),
)}
${portMap("tcp", ports)}
${portMap("udp", ports)}
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname @task_devices ip daddr 127.0.0.0/8 drop
${sorted.map(({ bridge, subnet }) => `    iifname "${bridge}" ip saddr != { ${subnet}, 0.0.0.0 } drop\n`).join("")}  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname . oifname @task_links accept
    iifname @internal_devices reject with icmp type admin-prohibited
    ct status dnat accept
    iifname @task_devices oifname @task_devices reject with icmp type admin-prohibited
    oifname @task_devices drop
  }
  chain published {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local dnat ip to tcp dport map @ports_tcp
    fib daddr type local dnat ip to udp dport map @ports_udp
  }
  chain published_here {
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to tcp dport map @ports_tcp
    fib daddr type local dnat ip to udp dport map @ports_udp
  }
  chain outgoing {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat oifname @task_devices ip saddr 127.0.0.0/8 masquerade
    ct status dnat oifname @task_devices ip saddr . ip daddr @published_targets masquerade
    ip saddr @outward_subnets oifname != @task_devices masquerade
  }
}
`;
}

/** From a bridge back into it, and between a bridge and its VXLAN device; never through this host twice. */
function canCross({ bridge }: RulesNetwork, from: string, to: string): boolean {
  return from === bridge || to === bridge;
}

function devicesOf({ bridge, vxlan }: RulesNetwork): string[] {
  return vxlan === undefined ? [bridge] : [bridge, vxlan];
}

function portMap(protocol: "tcp" | "udp", ports: readonly RulesPort[]): string {
  const elements = ports
    .filter((port) => port.protocol === protocol)
    .toSorted((a, b) => a.publishedPort - b.publishedPort)
    .map(({ publishedPort, address, targetPort }) => `${publishedPort} : ${address} . ${targetPort}`);
  return container("map", `ports_${protocol}`, "inet_service : ipv4_addr . inet_service", elements);
}

function set(name: string, type: string, elements: readonly string[]): string {
  return container("set", name, type, elements);
}

function container(word: "set" | "map", name: string, type: string, elements: readonly string[]): string {
  const list = elements.length === 0 ? "" : `; elements = { ${elements.join(", ")} }`;
  return `  ${word} ${name} { type ${type}${list}; }`;
}

function quoted(text: string): string {
  return `"${text}"`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
