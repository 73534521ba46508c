/**
 * What an agent asks of its host's network, and what it gets. Nothing here touches the kernel;
 * `open.ts` gives the real one and `test/sim/network.ts` one without a kernel.
 */
import { withoutPrefix } from "../../model/address.ts";
import type { NetworkId, NodeId, TaskId } from "../../model/ids.ts";
import type { Subnets } from "../../model/network.ts";
import type { NodeTunnel, TunnelKey } from "../../model/node.ts";
import type { PortSpec } from "../../model/service.ts";
import type { PublishedPort } from "../../model/task.ts";
import type { Finding, Peer } from "./examine.ts";

/** A cluster-wide network that this host takes part in; from `AssignedNetwork`. */
export interface OverlayNetwork extends Subnets {
  readonly id: NetworkId;
  readonly name: string;
  /** No prefix length; the same address on every host. */
  readonly gateway: string;
  /** 4096..16777215 */
  readonly vni: number;
  /** True: tasks reach each other and nothing outside. */
  readonly internal: boolean;
  /** 0: the underlay's MTU less the 50 bytes that VXLAN adds, and the 60 of a tunnel. */
  readonly mtu: number;
  /** Carries what arrives at published ports; its tasks have nothing to say to each other. */
  readonly ingress: boolean;
  /** Goes between hosts by tunnels only; absent: in clear. */
  readonly encrypted?: boolean;
}

/** A service that has a virtual IP on an overlay; from `AssignedService`. */
export interface OverlayService {
  readonly networkId: NetworkId;
  readonly serviceId: string;
  readonly serviceName: string;
  /** The virtual IP, no prefix length. */
  readonly address: string;
  /** As `address`, in the form that the kernel prints; absent on networks without IPv6. */
  readonly ipv6?: string;
  readonly aliases: readonly string[];
  /** On the ingress network: what every host publishes for it. */
  readonly ports: readonly PublishedPort[];
  /** A host with a serving task of its own gives clients of those ports to no other. */
  readonly localFirst: boolean;
  /** Canonical CIDR of the host addresses that the ports are published on; empty for all. */
  readonly within: readonly string[];
}

/** Another host of the cluster; from `AssignedHost`. */
export interface OverlayHost {
  readonly nodeId: NodeId;
  /** Where its VXLAN listens, no port. */
  readonly address: string;
  /** 1..65535, of no two hosts at a time. */
  readonly index: number;
  /** Of its tunnels, the one to send to first; absent or none: it has none. */
  readonly tunnelKeys?: readonly TunnelKey[];
  /** By which it may be asked for published ports; absent or none: by none of IPv6. */
  readonly ipv6Addresses?: readonly string[];
}

/** A task's place on an overlay, on whichever host; from `AssignedEndpoint`. */
export interface OverlayEndpoint {
  readonly networkId: NetworkId;
  readonly taskId: TaskId;
  /** No prefix length. */
  readonly address: string;
  /** As `address`, in the form that the kernel prints; absent on networks without IPv6. */
  readonly ipv6?: string;
  readonly nodeId: NodeId;
  /** Where that node's VXLAN listens, no port. */
  readonly nodeAddress: string;
  readonly nodeIndex: number;
  readonly serviceId: string;
  readonly serviceName: string;
  readonly taskName: string;
  readonly aliases: readonly string[];
  /** Healthy and wanted: service names and aliases are answered with it. */
  readonly serving: boolean;
}

/** This host, as the others see it. */
export interface NetworkSelf {
  readonly nodeId: NodeId;
  readonly nodeIndex?: number;
  /** The address of the data path, no port; empty while unknown. */
  readonly address: string;
  /** Public keys of this host's tunnels that managers tell the others, in their order; absent: none yet. */
  readonly tunnelKeys?: readonly string[];
}

export interface WantedNetworks {
  readonly self: NetworkSelf;
  readonly networks: readonly OverlayNetwork[];
  readonly endpoints: readonly OverlayEndpoint[];
  readonly services: readonly OverlayService[];
  /** All others, while there is an ingress network or an encrypted one. */
  readonly hosts: readonly OverlayHost[];
}

/** A bridge network of this host alone, such as a user makes with `docker network create`. */
export interface BridgeNetwork {
  /** Empty for the host's own bridge, where tasks without a network are. */
  readonly id: NetworkId | "";
  readonly name: string;
  /** At most 15 characters, such as "br-0123456789ab". */
  readonly device: string;
  /** Canonical CIDR. */
  readonly subnet: string;
  /** No prefix length. */
  readonly gateway: string;
  /** CIDR inside the subnet that addresses are picked from; absent: all of it. */
  readonly range?: string;
  /** Addresses that no task is given. */
  readonly reserved: readonly string[];
  /** True: tasks reach each other and nothing outside, and nothing of theirs is published. */
  readonly internal: boolean;
  /** False: tasks are seen outside under their own addresses. */
  readonly masquerade: boolean;
  /** False: its tasks reach each other by published ports only. */
  readonly mutual: boolean;
  /** Where published ports open that name no address of the host; empty: at all of them. */
  readonly hostAddress: string;
  readonly mtu: number;
  /** Its other family; absent: it has IPv4 alone. */
  readonly ipv6?: BridgeBlock;
}

/** What a bridge network gives addresses of one family from. */
export interface BridgeBlock {
  /** Canonical CIDR. */
  readonly subnet: string;
  /** No prefix length, in the form that the kernel prints. */
  readonly gateway: string;
  /** CIDR inside the subnet that addresses are picked from; absent: all of it. */
  readonly range?: string;
  /** Addresses that no task is given. */
  readonly reserved: readonly string[];
}

/** One network of a task. */
export interface AttachNetwork {
  readonly networkId: NetworkId;
  /**
   * CIDR for an overlay; of a bridge network the address asked for (no prefix length), or empty to have one picked. An
   * unknown network with an empty address stands for the host's own bridge.
   */
  readonly address: string;
  /** As `address`, of IPv6: of a bridge network with it, absent has one picked; absent on overlays without it. */
  readonly ipv6?: string;
  /** On a bridge network all names it has there, its own first; on overlays the cluster says which names there are. */
  readonly aliases: readonly string[];
  /** Of its device; absent: follows from the address. */
  readonly mac?: string;
  /** Of several, the network with the highest takes what is for nowhere else; absent means 0. */
  readonly priority?: number;
  /** Names for other containers of the network that this task alone knows. */
  readonly links?: readonly NetworkLink[];
  /** Of a network of the cluster; only kept, for `list`. */
  readonly networkName?: string;
}

export interface NetworkLink {
  readonly alias: string;
  readonly containerId: string;
}

/** A port to open on the host. */
export interface HostPortSpec extends PortSpec {
  /** One of the host's addresses, IPv4 or IPv6; absent or empty: all of IPv4, or what the bridge network says. */
  readonly hostAddress?: string;
  /** Without an address of the host: all of its IPv6 addresses as well, where it has some. */
  readonly ipv6?: true;
  /** Last of those to choose from, `publishedPort` being the first; absent: that one only. */
  readonly publishedEnd?: number;
}

/** A port that is open on the host. */
export interface HostPort extends PublishedPort {
  /** Absent: all of the host's IPv4 addresses. */
  readonly hostAddress?: string;
  /** All of its IPv6 addresses as well. */
  readonly ipv6?: true;
}

export interface AttachRequest {
  readonly taskId: TaskId;
  /** Kept for `list`; the network itself does not need it. */
  readonly containerId: string;
  /**
   * Overlays and the host's bridge, the first one carrying the default route. Empty (and neither
   * `host` nor `none`): the host's bridge alone. The same holds for entries with an empty address.
   */
  readonly networks: readonly AttachNetwork[];
  /** Shares the host's own namespace; `networks` and `ports` are ignored. */
  readonly host: boolean;
  /** A namespace with a loopback device and nothing else. */
  readonly none: boolean;
  /** Those with `publishMode: "host"` are opened; others are ignored. */
  readonly ports: readonly HostPortSpec[];
  /** The container's host name; also the first name of its own address in its hosts file. */
  readonly hostname: string;
  /** Absent or empty: none. */
  readonly domainname?: string;
  /** Names other tasks of its overlays know it by, beside those of the service. */
  readonly name?: string;
  readonly dns?: {
    readonly nameservers: readonly string[];
    readonly search: readonly string[];
    readonly options: readonly string[];
  };
  /** "IP name alias…" lines. */
  readonly extraHosts: readonly string[];
}

/** Files to be bind-mounted at /etc/hosts, /etc/resolv.conf and /etc/hostname. */
export interface NetworkFiles {
  readonly hosts: string;
  readonly resolvConf: string;
  readonly hostname: string;
}

export interface AttachedAddress {
  /** Empty for the host's own bridge. */
  readonly networkId: NetworkId | "";
  /** "ov4098" or "shoal0" */
  readonly bridge: string;
  /** Device inside the namespace, "eth0" first. */
  readonly device: string;
  /** CIDR */
  readonly address: string;
  /** No prefix length. */
  readonly gateway: string;
  /** Other subnets of the network, CIDR; absent where there are none. */
  readonly further?: readonly string[];
  /** Absent: it follows from the gateway. */
  readonly gatewayMac?: string;
  readonly mac: string;
  /** What is for nowhere else goes by this one; with none marked, by the first. */
  readonly outward?: true;
  /** On a network with IPv6. */
  readonly ipv6?: AttachedIpv6;
}

/** A place on a network in its other family: on the same device, and with the same gateway's MAC. */
export interface AttachedIpv6 {
  /** CIDR, in the form that the kernel prints. */
  readonly address: string;
  /** No prefix length. */
  readonly gateway: string;
  /** What is for nowhere else goes by this one; with none marked, no IPv6 does. */
  readonly outward?: true;
}

export type Attached = (
  | { readonly kind: "host" }
  | {
      readonly kind: "namespace";
      /** A bind mount that a runtime joins; stays until `detach`. */
      readonly path: string;
      /** In the order of the request; empty for `none`. */
      readonly addresses: readonly AttachedAddress[];
    }
) & {
  /** Ports open on the host, published numbers filled in. */
  readonly publishedPorts: readonly HostPort[];
  readonly files: NetworkFiles;
};

export interface AttachedRecord {
  readonly taskId: TaskId;
  readonly containerId: string;
  readonly attached: Attached;
  /** As they were asked for. */
  readonly networks: readonly AttachNetwork[];
}

/** Of a place on a network: its address of each family, no prefix length. */
export function addressesOf({ address, ipv6 }: Pick<AttachedAddress, "address" | "ipv6">): string[] {
  return [address, ...(ipv6 === undefined ? [] : [ipv6.address])].map(withoutPrefix);
}

/** Of an endpoint or a service: its address of each family. */
export function familiesOf({
  address,
  ipv6,
}: {
  readonly address: string;
  readonly ipv6?: string;
}): readonly string[] {
  return ipv6 === undefined ? [address] : [address, ipv6];
}

/** The one by which goes what is of IPv6 and for nowhere else. */
export function outwardIpv6(addresses: readonly AttachedAddress[]): AttachedAddress | undefined {
  return addresses.find(({ ipv6 }) => ipv6?.outward === true);
}

/** The one by which goes what is for nowhere else. */
export function outwardAddress(addresses: readonly AttachedAddress[]): AttachedAddress | undefined {
  return addresses.find(({ outward }) => outward === true) ?? addresses[0];
}

export interface HostOffer {
  /** To share encrypted networks with it, or why it can be on none. */
  readonly tunnel: NodeTunnel;
  /** By which it may be asked for published ports, as the kernel prints them; none until it takes part in a network. */
  readonly ipv6Addresses: readonly string[];
  /** What it has of its own; as `NodeDescription.subnets`. */
  readonly subnets: readonly string[];
}

/**
 * The network of one host. All calls may overlap; they are carried out together where possible.
 * Any call may be repeated after a failure or a restart.
 */
export interface HostNetwork {
  /**
   * Overlay state wanted on this host. Level-triggered: reconciles devices, routes, neighbours, the
   * forwarding database, firewall rules and names; settles once the kernel has all that it could be given. A network that
   * cannot be set up is tried again, and `attach` refuses to put tasks on it meanwhile.
   *
   * @throws {ClusterError} for what concerns all networks: `internal` with what the kernel refused; `unavailable` when a tool
   *   is missing.
   */
  apply(wanted: WantedNetworks, signal: AbortSignal): Promise<void>;
  /**
   * All bridge networks wanted on this host but its own. Level-triggered, as `apply`.
   *
   * @returns why one is not in place, by id.
   * @throws {ClusterError} `invalid-argument` for what no kernel could hold, `permission-denied` when one would go that has
   *   tasks, or come that takes a subnet of an overlay; then the last ones stay in force.
   */
  applyBridges(bridges: readonly BridgeNetwork[], signal: AbortSignal): Promise<ReadonlyMap<string, string>>;
  /**
   * Makes the task's namespace, or answers again what it made before.
   *
   * @throws {ClusterError} `failed-precondition` when a network was not in the last `apply` or `applyBridges`, or would take what
   *   the host has of its own; `unimplemented` for a port of SCTP where the kernel has none; `unavailable`, and later `internal`, when it could not be set up; `conflict` when a published port
   *   or an address is taken; otherwise as `apply`.
   */
  attach(request: AttachRequest, signal: AbortSignal): Promise<Attached>;
  /**
   * Joins and leaves networks while the task runs, until they are those of the request, and gives it the names of the request.
   * Addresses on networks that it stays on, published ports and the rest stay as they are.
   *
   * @throws {ClusterError} `failed-precondition` for a task that is not attached; otherwise as `attach`.
   */
  change(request: AttachRequest, signal: AbortSignal): Promise<Attached>;
  /**
   * Settles once no TCP connection leads to the task any more, but for those of tasks of its service that end as well.
   *
   * @throws {ClusterError} when the kernel cannot be asked; the signal's reason once it aborts.
   */
  drained(taskId: TaskId, signal: AbortSignal): Promise<void>;
  /** Removes all that `attach` made; of a task it does not know, it removes nothing. */
  detach(taskId: TaskId, signal: AbortSignal): Promise<void>;
  /** All attached tasks, those of a former process included. */
  list(): Promise<readonly AttachedRecord[]>;
  /**
   * Looks at the kernel and mends it, then tries whatever this host shares with others: bounded, and what could not be tried
   * until the signal aborts is left out.
   */
  examine(peers: readonly Peer[], signal: AbortSignal): Promise<readonly Finding[]>;
  /**
   * For how long clients of this host may still use addresses that names led to, of tasks that `apply` withdrew, in
   * milliseconds; 0 where nobody asked.
   */
  readonly namesHeldMs: number;
  /** What others must know of this host. */
  readonly offer: HostOffer;
  /** Calls back after each change of `offer`. @returns a function that ends the watching. */
  watch(listener: () => void): () => void;
  /** Begins to replace the key of this host's tunnels; those of others go on meanwhile. */
  replaceTunnelKey(): void;
  /** Stops answering names and holding ports; leaves devices, namespaces and rules in place. */
  close(): Promise<void>;
}
