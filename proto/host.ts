/**
 * What crosses between shoald and its two children. Settings travel once, as JSON in the
 * environment variable `SHOAL_HOST`; everything else over the IPC channel of `child_process.fork`.
 * A child whose channel closes ends itself: shoald is gone, and its successor starts new ones.
 */
import type { ErrorCode } from "../model/errors.ts";
import type { GenericOffer } from "../model/generic-resource.ts";
import type { ClusterId, NodeId } from "../model/ids.ts";
import type { Availability, NodeRole } from "../model/node.ts";

/** Everything of ours in containerd is in it. */
export const containerdNamespace = "shoal";

/** For files named by containers, each with the address of a shim that the container is to share. */
export function shimAddressDirectory({ runDir }: Pick<HostSettings, "runDir">): string {
  return `${runDir}/shims`;
}

/** Fixed for the life of shoald; from its flags. */
export interface HostSettings {
  /** What must survive a reboot, such as "/var/lib/shoal". */
  readonly stateDir: string;
  /** What need not, such as "/run/shoal". */
  readonly runDir: string;
  /** The Docker-compatible socket, served by the worker. */
  readonly socket: string;
  /** Id of the group that may use it; absent means that of shoald. */
  readonly socketGroup?: number;
  /** Where the manager serves swarm routes to the worker beside it. */
  readonly managerSocket: string;
  readonly hostname: string;
  /** containerd's socket. */
  readonly containerd: string;
  /** Where a containerd of ours keeps everything; absent for another's, whose files are not ours to look into. */
  readonly containerdRoot?: string;
  /** Runtime binary for containers: "crun" or "runc", or a path. */
  readonly runtime: string;
  /** Directory for the runtime's own state; never shared between two containerds. */
  readonly runtimeRoot: string;
  /** Parent cgroup of all containers, such as "/shoal". */
  readonly cgroupParent: string;
  /** Registries ("host:port", "host" or CIDR) whose TLS is not verified, and which may be spoken to over plain HTTP. */
  readonly insecureRegistries: readonly string[];
  /** Asked before Docker Hub, in this order, such as "https://mirror:5000"; absent means none. */
  readonly registryMirrors?: readonly string[];
  /** Directories with a directory of certificates for each registry; absent means none. */
  readonly registryCertificates?: readonly string[];
  /** On the way to registries; absent means none. */
  readonly proxies?: ProxySettings;
  readonly engineLabels: Readonly<Record<string, string>>;
  /** Generic resources that this node offers; absent means none. */
  readonly genericResources?: GenericOffer;
  /** CIDR that the host's own bridge takes its addresses from. */
  readonly bridgeSubnet: string;
  readonly natsServer: string;
  readonly logLevel: "debug" | "info" | "warn" | "error";
}

/** As `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say; empty means none. May hold a password. */
export interface ProxySettings {
  readonly httpProxy: string;
  readonly httpsProxy: string;
  readonly noProxy: string;
}

export const noProxies: ProxySettings = { httpProxy: "", httpsProxy: "", noProxy: "" };

/** Who this node is in its cluster. Kept by shoald in `<stateDir>/node.json` and `certificates/`. */
export interface NodeIdentity {
  readonly nodeId: NodeId;
  readonly clusterId: ClusterId;
  /** Role in the certificate. */
  readonly role: NodeRole;
  readonly certificatePem: string;
  /** PKCS#8; never leaves the host. */
  readonly keyPem: string;
  readonly rootPem: string;
  /** "ip:port" of managers last heard of. */
  readonly managers: readonly string[];
  /** "ip:port" that this node listens on for other nodes, and the one it tells them. */
  readonly listenAddress: string;
  readonly advertiseAddress: string;
  /** No port; the address VXLAN uses. */
  readonly dataPathAddress: string;
  /** Absent on nodes that joined before it was kept: as `fixed`. */
  readonly dataPathSource?: AddressSource;
}

/** How a node came by an address, and so what is to be done when the host has it no longer. */
export type AddressSource =
  /** The user gave the address itself. */
  | { readonly kind: "fixed" }
  /** The user named the interface. */
  | { readonly kind: "interface"; readonly name: string }
  /** The user said nothing. */
  | { readonly kind: "chosen" };

/** As `/info` calls it. */
export type LocalNodeState = "inactive" | "pending" | "active" | "error";

export type DaemonToWorker =
  | {
      readonly kind: "identity";
      readonly state: LocalNodeState;
      readonly error: string;
      readonly identity?: NodeIdentity;
    }
  | { readonly kind: "reply"; readonly id: number; readonly outcome: SwarmOutcome };

export type WorkerToDaemon =
  /** The front door answers. */
  | { readonly kind: "ready" }
  /** What the leader said last; repeated when it changes. */
  | { readonly kind: "cluster"; readonly facts: ClusterFacts }
  /** The host has another address than that of the node's data path, and it is to be followed. */
  | { readonly kind: "moved"; readonly nodeId: NodeId; readonly from: string; readonly to: string }
  | { readonly kind: "request"; readonly id: number; readonly operation: SwarmOperation };

export interface ClusterFacts {
  readonly managers: readonly string[];
  readonly desiredRole: NodeRole;
  readonly rootPem: string;
  /** A higher number than before asks for a new certificate now. */
  readonly certificateGeneration: number;
}

/** What a client asked of the front door and only shoald can do. Bodies are parsed by the worker. */
export type SwarmOperation =
  | { readonly kind: "init"; readonly request: SwarmInit }
  | { readonly kind: "join"; readonly request: SwarmJoin }
  | { readonly kind: "leave"; readonly force: boolean };

export interface SwarmInit {
  readonly listenAddress: string;
  readonly advertiseAddress: string;
  readonly dataPathAddress: string;
  readonly dataPathSource?: AddressSource;
  readonly dataPathPort: number;
  readonly addressPools: readonly string[];
  readonly subnetBits: number;
  readonly forceNewCluster: boolean;
  readonly availability: Availability;
  /** `Spec` of the request as it came; the manager reads it. */
  readonly spec: unknown;
}

export interface SwarmJoin {
  readonly listenAddress: string;
  readonly advertiseAddress: string;
  readonly dataPathAddress: string;
  readonly dataPathSource?: AddressSource;
  readonly remoteAddresses: readonly string[];
  readonly joinToken: string;
  readonly availability: Availability;
}

export type SwarmOutcome =
  | { readonly kind: "done"; readonly nodeId: string }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly message: string };

export type DaemonToManager =
  /** First message. `bootstrap` makes a new cluster and its certificates; the others have an identity. */
  | { readonly kind: "start"; readonly start: ManagerStart }
  /** The certificate was renewed. */
  | { readonly kind: "identity"; readonly identity: NodeIdentity }
  /** Leave the group of managers (unless `alone`), then answer `left` and end. */
  | { readonly kind: "leave" };

export type ManagerStart =
  | {
      readonly kind: "bootstrap";
      readonly request: SwarmInit;
      readonly listenAddress: string;
      readonly advertiseAddress: string;
      readonly dataPathAddress: string;
    }
  /** Certificate of a manager, no data yet: ask `identity.managers` to be added. */
  | { readonly kind: "join"; readonly identity: NodeIdentity }
  /** Data on disk. */
  | { readonly kind: "restart"; readonly identity: NodeIdentity }
  /** Data on disk, and from now on this manager is the only one; see `RaftGroupOptions.start`. */
  | { readonly kind: "force-new-cluster"; readonly identity: NodeIdentity };

export type ManagerToDaemon =
  | { readonly kind: "bootstrapped"; readonly identity: NodeIdentity }
  /** Serves requests. */
  | { readonly kind: "ready" }
  | { readonly kind: "left" }
  /** Cannot go on; the text says what to do. shoald shows it in `/info` and retries only if `retry`. */
  | {
      readonly kind: "failed";
      readonly code: ErrorCode;
      readonly message: string;
      readonly retry: boolean;
      /** The group took it out: what is on its disk is of no more use, and only joining anew makes it a manager again. */
      readonly removed?: boolean;
    };
