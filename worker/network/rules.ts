/** The host's firewall and address translation for tasks, as one nftables table for each family of addresses. */
import { isIpv6 } from "../../model/address.ts";
import type { Subnet } from "../../model/network.ts";
import type { PortProtocol } from "../../model/service.ts";
import { hostMac, shortHash } from "./addresses.ts";
import { dnsPort } from "./dns-message.ts";
import type { HostPort } from "./network.ts";
import { markMask, markOf } from "./objects.ts";
import { rulesetText, rulesTables } from "./ruleset.ts";
import type { Container, Family, HookChain, Ruleset } from "./ruleset.ts";

export interface RulesNetwork {
  readonly bridge: string;
  /** Absent for the host's own bridge. */
  readonly vxlan?: string;
  /** Canonical CIDR. */
  readonly subnet: string;
  /** Other subnets of the network, of either family; absent where there are none. */
  readonly further?: readonly Pick<Subnet, "subnet">[];
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
  /** Of the data path, which is of IPv4; its link address follows from it in both families. */
  readonly address: string;
  readonly index: number;
  /** Others by which clients may ask it for published ports; absent: none. */
  readonly ipv6Addresses?: readonly string[];
}

export interface RulesPort extends HostPort {
  /** Of the task, no prefix length. */
  readonly address: string;
}

/** How a table of one family says things. */
interface Words {
  /** Before the name of a field of the header. */
  readonly family: Family;
  /** Of sets and maps. */
  readonly address: string;
  readonly refuse: string;
  readonly loopback: string;
  /** What has no address yet. */
  readonly unspecified: string;
  /** What of the host's own addresses a port is not translated at. */
  readonly except: string;
}

const words: Readonly<Record<Family, Words>> = {
  ip: {
    family: "ip",
    address: "ipv4_addr",
    refuse: "reject with icmp type admin-prohibited",
    loopback: "127.0.0.0/8",
    unspecified: "0.0.0.0",
    except: "",
  },
  ip6: {
    family: "ip6",
    address: "ipv6_addr",
    refuse: "reject with icmpv6 type admin-prohibited",
    loopback: "::1",
    unspecified: "::",
    // No answer could be sent from the one, or find its way to the other: a relay has them.
    except: "ip6 daddr != { ::1, fe80::/10 } ",
  },
};

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
  /** Where tasks ask for names, of the table's family; absent: nowhere. */
  readonly gateways?: readonly string[];
}

/**
 * The whole table of one family: addresses in the state are of that, and of the subnets of networks those that are. Connections that were translated before go on as they were when it changes.
 *
 * - tasks of one network reach each other, tasks of different networks only by published ports;
 * - tasks reach the outside under the host's address, unless their network is internal;
 * - nobody outside reaches a task but by a published port, which works from other hosts, from this
 *   host under any of its addresses (localhost too), and from the task itself;
 * - a virtual IP leads to one of its service's serving tasks, from the network it is on;
 * - a port of the mesh leads to a serving task on whichever host, which sees the client's own address:
 *   the task's host marks the connection with the host it came by, and answers go back there.
 */
export function rulesetOf(state: RulesState, family: Family = "ip"): Ruleset {
  const { ports, services, mesh, hosts } = state;
  const say = words[family];
  const blocksOf = (network: RulesNetwork): string[] => familyBlocks(network, family);
  const networks = state.networks.filter((network) => blocksOf(network).length > 0);
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
  const meshed = held.filter((port) => port.backends.length > 0 && isOpenIn(port, family));
  const ingress = sorted.find((network) => network.ingress);
  const protocols = protocolsOf(ports);
  const asked = isAsked(ports) ? (state.gateways ?? []) : [];
  return {
    containers: new Map<string, Container>([
      ["task_devices", set("ifname", devices.map(quoted))],
      ["task_links", set("ifname . ifname", links)],
      ["internal_devices", set("ifname", internal.map(quoted))],
      ["outward_subnets", set(`${say.address}; flags interval`, outward)],
      [
        "published_targets",
        set(
          `${say.address} . ${say.address}`,
          targets.map((address) => `${address} . ${address}`),
        ),
      ],
      ...protocols.flatMap((protocol) => portMaps(protocol, ports, say)),
      ...(asked.length === 0 ? [] : [["gateways", set(say.address, asked.toSorted(compare))] as const]),
      ["other_hosts", set(say.address, ofFamily(hosts.flatMap(addressesOf), family).toSorted(compare))],
      [
        "virtual_ips",
        map(
          `ifname . ${say.address} : verdict`,
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
      ...meshed.map((each) => [each.chain, [meshRule(each, family)]] as const),
    ]),
    hooks: new Map<string, HookChain>([
      [
        "guard",
        hook("filter", "prerouting", "raw", [
          `iifname @task_devices ${family} daddr ${say.loopback} drop`,
          ...sorted.map(
            (network) =>
              `iifname "${network.bridge}" ${family} saddr != { ${[...blocksOf(network), say.unspecified].join(", ")} } drop`,
          ),
        ]),
      ],
      [
        "forward",
        hook("filter", "forward", "filter", [
          "ct state established,related accept",
          "iifname . oifname @task_links accept",
          `iifname @internal_devices ${say.refuse}`,
          "ct status dnat accept",
          `iifname @task_devices oifname @task_devices ${say.refuse}`,
          "oifname @task_devices drop",
        ]),
      ],
      // What was translated never comes here: nobody serves it, or not on that address.
      [
        "idle",
        hook("filter", "input", "filter", [
          `${say.except}ct state new meta l4proto . th dport @mesh_held fib daddr type local meta l4proto tcp reject with tcp reset`,
          `${say.except}ct state new meta l4proto . th dport @mesh_held fib daddr type local reject`,
        ]),
      ],
      ...(ingress === undefined ? [] : originHooks(ingress, hosts, family)),
      [
        "published",
        hook("nat", "prerouting", "dstnat", [
          `iifname . ${family} daddr vmap @virtual_ips`,
          `${say.except}fib daddr type local meta l4proto . th dport vmap @mesh`,
          `iifname @task_devices ${family} daddr @other_hosts meta l4proto . th dport vmap @mesh`,
          ...(asked.length === 0
            ? []
            : [`${family} daddr @gateways meta l4proto { tcp, udp } th dport ${dnsPort} accept`]),
          ...protocols.flatMap((protocol) => translations(protocol, say)),
        ]),
      ],
      [
        "published_here",
        hook("nat", "output", "-100", [
          `${say.except}fib daddr type local meta l4proto . th dport vmap @mesh`,
          `${family} daddr @other_hosts meta l4proto . th dport vmap @mesh`,
          ...protocols.flatMap((protocol) => translations(protocol, say)),
        ]),
      ],
      [
        "outgoing",
        hook("nat", "postrouting", "srcnat", [
          ...(family === "ip" ? localSource(ingress, state.ownAddress) : []),
          `ct status dnat oifname @task_devices ${family} saddr . ${family} daddr @published_targets masquerade`,
          `${family} saddr @outward_subnets oifname != @task_devices masquerade`,
        ]),
      ],
    ]),
  };
}

/** Whether a network has addresses of the ruleset's family; without one, no table is needed. */
export function hasNetworks({ containers }: Ruleset): boolean {
  return (containers.get("task_devices")?.elements.length ?? 0) > 0;
}

export function rulesText(state: RulesState, family: Family = "ip"): string {
  return rulesetText(rulesetOf(state, family), rulesTables[family]);
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

/** One that is for some of the hosts' addresses may be for those of one family alone. */
function isOpenIn({ within }: RulesMeshPort, family: Family): boolean {
  return within.length === 0 || ofFamily(within, family).length > 0;
}

/** On an address it is not for, the packet goes on as if the port were not published. */
function meshRule({ protocol, targetPort, backends, within }: RulesMeshPort, family: Family): string {
  const to = backends.map((address) => `${address} . ${targetPort}`);
  const only = within.length === 0 ? "" : `${family} daddr { ${ofFamily(within, family).join(", ")} } `;
  return `${only}meta l4proto ${protocol} dnat ${family} to ${oneOf(to)}`;
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
function originHooks(
  network: RulesNetwork,
  hosts: readonly RulesHost[],
  family: Family,
): [string, HookChain][] {
  const { bridge, vxlan } = network;
  if (hosts.length === 0 || vxlan === undefined) return [];
  const sorted = hosts.toSorted((a, b) => a.index - b.index);
  const zones = sorted.map(({ address, index }) => `${hostMac(address)} : ${index}`);
  const marks = sorted.map(({ address, index }) => `${hostMac(address)} : ${markOf(index)}`);
  const foreign = `iifname "${vxlan}" ${family} saddr != ${oneOrSet(familyBlocks(network, family))}`;
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

/** What this host itself asks of localhost must carry an address that whoever is asked can answer to. */
function localSource(ingress: RulesNetwork | undefined, ownAddress: string): string[] {
  const own =
    ingress?.vxlan === undefined || ownAddress === ""
      ? []
      : [`ct status dnat oifname "${ingress.vxlan}" ip saddr 127.0.0.0/8 snat to ${ownAddress}`];
  return [...own, "ct status dnat oifname @task_devices ip saddr 127.0.0.0/8 masquerade"];
}

function familyBlocks({ subnet, further = [] }: RulesNetwork, family: Family): string[] {
  return ofFamily([subnet, ...further.map((each) => each.subnet)], family);
}

/** @param all - Addresses or blocks. */
function ofFamily(all: readonly string[], family: Family): string[] {
  return all.filter((each) => isIpv6(each) === (family === "ip6"));
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
function portMaps(
  protocol: PortProtocol,
  ports: readonly RulesPort[],
  { address: type }: Words,
): [string, Container][] {
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
    [`ports_${protocol}`, map(`inet_service : ${type} . inet_service`, anywhere)],
    [`ports_${protocol}_at`, map(`${type} . inet_service : ${type} . inet_service`, at)],
  ];
}

function translations(protocol: PortProtocol, { family, except }: Words): string[] {
  const local = `${except}fib daddr type local dnat ${family} to`;
  return [
    `${local} ${family} daddr . ${protocol} dport map @ports_${protocol}_at`,
    `${local} ${protocol} dport map @ports_${protocol}`,
  ];
}

/** A port that is open at all addresses would take the questions of tasks for names. */
function isAsked(ports: readonly RulesPort[]): boolean {
  return ports.some(
    ({ publishedPort, hostAddress }) => publishedPort === dnsPort && hostAddress === undefined,
  );
}

function addressesOf({ address, ipv6Addresses = [] }: RulesHost): readonly string[] {
  return [address, ...ipv6Addresses];
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
