import type { NodeId } from "./ids.ts";
import type { Labels, Meta } from "./meta.ts";
import type { NodeResources } from "./resources.ts";
import type { Platform } from "./service.ts";

export type NodeRole = "manager" | "worker";
/** Organisational unit in a node's certificate; also a DNS name it carries. */
export const roleUnits = { manager: "swarm-manager", worker: "swarm-worker" } as const satisfies Record<
  NodeRole,
  string
>;

export type Availability = "active" | "pause" | "drain";

/** Owner: the user. */
export interface NodeSpec {
  readonly name?: string;
  readonly labels: Labels;
  readonly role: NodeRole;
  readonly availability: Availability;
}

/** The public half of a node's key for tunnels (WireGuard), and which of its two places it has. */
export interface TunnelKey {
  /** 32 bytes in base64. */
  readonly publicKey: string;
  /** Decides port and address; a key and the one that takes its place have different ones. */
  readonly slot: 0 | 1;
}

/** What a node needs to be on encrypted networks. */
export interface NodeTunnel {
  /** One, or two while a key is replaced: the one to send to first. None: the node can be on no encrypted network. */
  readonly keys: readonly TunnelKey[];
  /** Why there is none. */
  readonly problem?: string;
}

export const ipv6AddressLimit = 16;
export const ownSubnetLimit = 256;
export const hostProblemLimit = 512;

/** Owner: the node's agent, sent when its session opens and when it changes. */
export interface NodeDescription {
  readonly hostname: string;
  /** Architecture as `uname -m` prints it. */
  readonly platform: Platform;
  readonly resources: NodeResources;
  readonly engineVersion: string;
  readonly engineLabels: Labels;
  readonly plugins: readonly { readonly type: string; readonly name: string }[];
  /** Absent on nodes that know no tunnels. */
  readonly tunnel?: NodeTunnel;
  /** By which clients may ask for published ports, at most `ipv6AddressLimit`; absent on nodes that do not say. */
  readonly ipv6Addresses?: readonly string[];
  /**
   * Blocks of either family that the host has of its own, by its addresses and routes: no network of the cluster may cover
   * them. Canonical CIDR, none inside another, at most `ownSubnetLimit`; absent on nodes that do not say.
   */
  readonly subnets?: readonly string[];
  /** What the node's owner has to mend on the host, at most `hostProblemLimit` characters; absent: nothing. */
  readonly problem?: string;
}

/**
 * - `unknown`: the leader has just taken over and has not heard the node yet;
 * - `unreachable`: its connection closed; nothing moves until the grace is over;
 * - `down`: the grace is over; its tasks are replaced.
 * `disconnected` in the Engine API is our `unreachable`.
 */
export type NodeState = "unknown" | "ready" | "unreachable" | "down";

/** Owner: the dispatcher. */
export interface NodeStatus {
  readonly state: NodeState;
  readonly message: string;
  /** Address the managers see, no port. */
  readonly address: string;
  /** Since when it is in this state, unix milliseconds; absent on nodes that never changed it. */
  readonly sinceMs?: number;
}

/** Present while the node is a member of the consensus group. Owner: membership. */
export interface ManagerMember {
  /** "ip:2377" */
  readonly address: string;
  /** "ip:2378", where the consensus peers listen. */
  readonly raftAddress: string;
}

export interface Node {
  readonly id: NodeId;
  readonly meta: Meta;
  readonly spec: NodeSpec;
  readonly description?: NodeDescription;
  readonly status: NodeStatus;
  /** Role in effect, as in its certificate; follows `spec.role`. Owner: membership. */
  readonly role: NodeRole;
  readonly member?: ManagerMember;
  /** Small number unique among living nodes, part of link addresses on overlays. Owner: the CA at issue. */
  readonly index: number;
  /** PEM of its current certificate; empty until issued. */
  readonly certificate: string;
  /** Address of its data path (VXLAN), no port; defaults to `status.address`. */
  readonly dataPathAddress?: string;
}

/** Where the node's VXLAN listens, no port; empty while nobody knows. */
export function dataPathOf(node: Pick<Node, "dataPathAddress" | "status">): string {
  return node.dataPathAddress ?? node.status.address;
}
