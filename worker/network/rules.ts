/** The host's firewall and address translation for tasks, as one nftables table. */
import type { Subnet } from "../../model/network.ts";
import type { PortProtocol } from "../../model/service.ts";
import { hostMac, shortHash } from "./addresses.ts";
import type { HostPort } from "./network.ts";
import { markMask, markOf } from "./objects.ts";
import { rulesetText } from "./ruleset.ts";
import type { Container, HookChain, Ruleset } from "./ruleset.ts";

export interface RulesNetwork {
  readonly bridge: string;
  /** Absent for the host's own bridge. */
  readonly vxlan?: string;
  /** Canonical CIDR. */
  readonly subnet: string;
  /** Other subnets of the network; absent where there are none. */
  readonly further?: readonly Subnet[];
  readonly internal: boolean;
  readonly ingress: boolean;
  /** False: its tasks are seen outside under their own addresses. */
  readonly masquerade: boolean;
  /** False: its tasks reach each other by published ports only. */
  readonly mutual: boolean;
}

/** A service's virtual IP on one network. */
export interface RulesService {
  readonly bridge: string;
  /** The virtual IP, no prefix length. */
  readonly address: string;
  /** Serving tasks, no prefix length. */
  readonly backends: readonly string[];
}

/** A port that every host publishes. */
export interface RulesMeshPort {
  readonly protocol: PortProtocol;
  readonly publishedPort: number;
  readonly targetPort: number;
  /** Serving tasks, on the ingress network. */
  readonly backends: readonly string[];
  /** Canonical CIDR of the host addresses that it is published on; empty for all. */
  readonly within: readonly string[];
}

/** Another host, where a client may have come in. */
export interface RulesHost {
  readonly address: string;
  readonly index: number;
}

export interface RulesPort extends HostPort {
  /** Of the task, no prefix length. */
  readonly address: string;
}

export interface RulesState {
  readonly networks: readonly RulesNetwork[];
  readonly ports: readonly RulesPort[];
  readonly services: readonly RulesService[];
  readonly mesh: readonly RulesMeshPort[];
  readonly hosts: readonly RulesHost[];
  /** Of tasks here, no prefix length. */
  readonly tasks: readonly string[];
  /** The host's own on the data path; empty while unknown. */
  readonly ownAddress: string;
}

/**
 * The whole table. Connections that were translated before go on as they were when it changes.
 *
 * - tasks of one network reach each other, tasks of different networks only by published ports;
 * - tasks reach the outside under the host's address, unless their network is internal;
 * - nobody outside reaches a task but by a published port, which works from other hosts, from this
 *   host under any of its addresses (localhost too), and from the task itself;
 * - a virtual IP leads to one of its service's serving tasks, from the network it is on;
 * - a port of the mesh leads to a serving task on whichever host, which sees the client's own address:
 *   the task's host marks the connection with the host it came by, and answers go back there.
 */
export function rulesetOf(state: RulesState): Ruleset {
  const { networks, ports, services, mesh, hosts } = state;
  const sorted = networks.toSorted((a, b) => compare(a.bridge, b.bridge));
  const devices = sorted.flatMap(devicesOf);
  const links = sorted.flatMap((network) => {
    const ends = devicesOf(network);
    return ends.flatMap((from) =>
      ends.filter((to) => canCross(network, from, to)).map((to) => `"${from}" . "${to}"`),
    );
  });
  const internal = sorted.filter((network) => network.internal).flatMap(devicesOf);
  const outward = sorted
    .filter(({ internal: isInternal, masquerade }) => masquerade && !isInternal)
    .flatMap(blocksOf);
  const targets = [...new Set([...ports.map(({ address }) => address), ...state.tasks])].toSorted(compare);
  const balanced = services
    .filter(({ backends }) => backends.length > 0)
    .map((service) => ({ ...service, chain: serviceChain(service) }))
    .toSorted(byText(({ chain }) => chain));
  const held = mesh
    .map((port) => ({ ...port, chain: meshChain(port) }))
    .toSorted(byText(({ chain }) => chain));
  const meshed = held.filter(({ backends }) => backends.length > 0);
  const ingress = sorted.find((network) => network.ingress);
  const protocols = protocolsOf(ports);
  return {
    containers: new Map<string, Container>([
      ["task_devices", set("ifname", devices.map(quoted))],
      ["task_links", set("ifname . ifname", links)],
      ["internal_devices", set("ifname", internal.map(quoted))],
      ["outward_subnets", set("ipv4_addr; flags interval", outward)],
      [
        "published_targets",
        set(
          "ipv4_addr . ipv4_addr",
          targets.map((address) => `${address} . ${address}`),
        ),
      ],
      ...protocols.flatMap((protocol) => portMaps(protocol, ports)),
      ["other_hosts", set("ipv4_addr", hosts.map(({ address }) => address).toSorted(compare))],
      [
        "virtual_ips",
        map(
          "ifname . ipv4_addr : verdict",
          balanced.map((each) => `"${each.bridge}" . ${each.address} : goto ${each.chain}`),
        ),
      ],
      [
        "mesh",
        map(
          "inet_proto . inet_service : verdict",
          meshed.map((each) => `${each.protocol} . ${each.publishedPort} : goto ${each.chain}`),
        ),
      ],
      [
        "mesh_held",
        set(
          "inet_proto . inet_service",
          held.map(({ protocol, publishedPort }) => `${protocol} . ${publishedPort}`),
        ),
      ],
    ]),
    chains: new Map<string, readonly string[]>([
      ...balanced.map((each) => [each.chain, [`dnat to ${oneOf(each.backends)}`]] as const),
      ...meshed.map((each) => [each.chain, [meshRule(each)]] as const),
    ]),
    hooks: new Map<string, HookChain>([
      [
        "guard",
        hook("filter", "prerouting", "raw", [
          "iifname @task_devices ip daddr 127.0.0.0/8 drop",
          ...sorted.map(
            (network) =>
              `iifname "${network.bridge}" ip saddr != { ${[...blocksOf(network), "0.0.0.0"].join(", ")} } drop`,
          ),
        ]),
      ],
      [
        "forward",
        hook("filter", "forward", "filter", [
          "ct state established,related accept",
          "iifname . oifname @task_links accept",
          "iifname @internal_devices reject with icmp type admin-prohibited",
          "ct status dnat accept",
          "iifname @task_devices oifname @task_devices reject with icmp type admin-prohibited",
          "oifname @task_devices drop",
        ]),
      ],
      // What was translated never comes here: nobody serves it, or not on that address.
      [
        "idle",
        hook("filter", "input", "filter", [
          "ct state new meta l4proto . th dport @mesh_held fib daddr type local meta l4proto tcp reject with tcp reset",
          "ct state new meta l4proto . th dport @mesh_held fib daddr type local reject",
        ]),
      ],
      ...(ingress === undefined ? [] : originHooks(ingress, hosts)),
      [
        "published",
        hook("nat", "prerouting", "dstnat", [
          "iifname . ip daddr vmap @virtual_ips",
          "fib daddr type local meta l4proto . th dport vmap @mesh",
          "iifname @task_devices ip daddr @other_hosts meta l4proto . th dport vmap @mesh",
          ...protocols.flatMap(translations),
        ]),
      ],
      [
        "published_here",
        hook("nat", "output", "-100", [
          "fib daddr type local meta l4proto . th dport vmap @mesh",
          "ip daddr @other_hosts meta l4proto . th dport vmap @mesh",
          ...protocols.flatMap(translations),
        ]),
      ],
      [
        "outgoing",
        hook("nat", "postrouting", "srcnat", [
          ...ownSource(ingress, state.ownAddress),
          "ct status dnat oifname @task_devices ip saddr 127.0.0.0/8 masquerade",
          "ct status dnat oifname @task_devices ip saddr . ip daddr @published_targets masquerade",
          "ip saddr @outward_subnets oifname != @task_devices masquerade",
        ]),
      ],
    ]),
  };
}

export function rulesText(state: RulesState): string {
  return rulesetText(rulesetOf(state));
}

/**
 * From a bridge back into it, and between a bridge and its VXLAN device; never through this host twice. What tasks on the
 * ingress network send each other has come by a published port, and is let through as such.
 */
function canCross({ bridge, ingress, mutual }: RulesNetwork, from: string, to: string): boolean {
  if (!mutual) return false;
  if (ingress) return from !== bridge && to === bridge;
  return from === bridge || to === bridge;
}

function serviceChain({ bridge, address }: RulesService): string {
  return `vip_${shortHash(`${bridge}/${address}`)}`;
}

function meshChain({ protocol, publishedPort }: RulesMeshPort): string {
  return `mesh_${protocol}_${publishedPort}`;
}

/** On an address it is not for, the packet goes on as if the port were not published. */
function meshRule({ protocol, targetPort, backends, within }: RulesMeshPort): string {
  const to = backends.map((address) => `${address} . ${targetPort}`);
  const only = within.length === 0 ? "" : `ip daddr { ${within.join(", ")} } `;
  return `${only}meta l4proto ${protocol} dnat ip to ${oneOf(to)}`;
}

/** Every connection is given to one of them by chance, each as likely as the others. */
function oneOf(values: readonly string[]): string {
  const list = values.toSorted(compare).map((value, index) => `${index} : ${value}`);
  return `numgen random mod ${values.length} map { ${list.join(", ")} }`;
}

/**
 * Remembers by which host a client's connection came, and sends the task's answers that way, where the client's own
 * address is put back in place. A client may use one of its ports towards two hosts: a zone for each keeps them apart.
 * The mark must not stay on the packet that carries the answer, or its own way would be looked up by it.
 */
function originHooks(network: RulesNetwork, hosts: readonly RulesHost[]): [string, HookChain][] {
  const { bridge, vxlan } = network;
  if (hosts.length === 0 || vxlan === undefined) return [];
  const sorted = hosts.toSorted((a, b) => a.index - b.index);
  const zones = sorted.map(({ address, index }) => `${hostMac(address)} : ${index}`);
  const marks = sorted.map(({ address, index }) => `${hostMac(address)} : ${markOf(index)}`);
  const foreign = `iifname "${vxlan}" ip saddr != ${oneOrSet(blocksOf(network))}`;
  return [
    [
      "zones",
      hook("filter", "prerouting", "raw", [
        `${foreign} ct original zone set ether saddr map { ${zones.join(", ")} }`,
      ]),
    ],
    [
      "origins",
      hook("filter", "prerouting", "mangle", [
        `${foreign} ct direction original ct mark set ether saddr map { ${marks.join(", ")} }`,
        `iifname "${bridge}" ct direction reply ct mark and ${markMask} != 0 meta mark set ct mark and ${markMask}`,
      ]),
    ],
    [
      "unmark",
      hook("filter", "postrouting", "mangle", [`oifname "${vxlan}" meta mark set meta mark and 0x0000ffff`]),
    ],
  ];
}

/** What this host itself asks of localhost must carry an address that another host can answer to. */
function ownSource(ingress: RulesNetwork | undefined, ownAddress: string): string[] {
  if (ingress?.vxlan === undefined || ownAddress === "") return [];
  return [`ct status dnat oifname "${ingress.vxlan}" ip saddr 127.0.0.0/8 snat to ${ownAddress}`];
}

function blocksOf({ subnet, further = [] }: RulesNetwork): string[] {
  return [subnet, ...further.map((each) => each.subnet)];
}

function oneOrSet(blocks: readonly string[]): string {
  return blocks.length === 1 ? (blocks[0] ?? "") : `{ ${blocks.join(", ")} }`;
}

function devicesOf({ bridge, vxlan }: RulesNetwork): string[] {
  return vxlan === undefined ? [bridge] : [bridge, vxlan];
}

/** SCTP only where a port of it is published: not every kernel has it. */
function protocolsOf(ports: readonly RulesPort[]): readonly PortProtocol[] {
  return ports.some(({ protocol }) => protocol === "sctp") ? ["tcp", "udp", "sctp"] : ["tcp", "udp"];
}

/** Of ports that are open at all addresses of the host, and of those that are open at one. */
function portMaps(protocol: PortProtocol, ports: readonly RulesPort[]): [string, Container][] {
  const own = ports
    .filter((port) => port.protocol === protocol)
    .toSorted(
      (a, b) => a.publishedPort - b.publishedPort || compare(a.hostAddress ?? "", b.hostAddress ?? ""),
    );
  const target = ({ address, targetPort }: RulesPort): string => `${address} . ${targetPort}`;
  const at = own.flatMap((port) =>
    port.hostAddress === undefined ? [] : [`${port.hostAddress} . ${port.publishedPort} : ${target(port)}`],
  );
  const anywhere = own.flatMap((port) =>
    port.hostAddress === undefined ? [`${port.publishedPort} : ${target(port)}`] : [],
  );
  return [
    [`ports_${protocol}`, map("inet_service : ipv4_addr . inet_service", anywhere)],
    [`ports_${protocol}_at`, map("ipv4_addr . inet_service : ipv4_addr . inet_service", at)],
  ];
}

function translations(protocol: PortProtocol): string[] {
  return [
    `fib daddr type local dnat ip to ip daddr . ${protocol} dport map @ports_${protocol}_at`,
    `fib daddr type local dnat ip to ${protocol} dport map @ports_${protocol}`,
  ];
}

function set(type: string, elements: readonly string[]): Container {
  return { word: "set", type, elements };
}

function map(type: string, elements: readonly string[]): Container {
  return { word: "map", type, elements };
}

function hook(type: string, name: string, priority: string, rules: readonly string[]): HookChain {
  return { head: `type ${type} hook ${name} priority ${priority}; policy accept;`, rules };
}

function quoted(text: string): string {
  return `"${text}"`;
}

function byText<T>(textOf: (item: T) => string): (a: T, b: T) => number {
  return (a, b) => compare(textOf(a), textOf(b));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
