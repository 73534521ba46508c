import type { ClusterId } from "./ids.ts";
import type { Labels, Meta } from "./meta.ts";

/** Owner: the user (`docker swarm update`). */
export interface ClusterSpec {
  readonly labels: Labels;
  readonly taskHistoryLimit: number;
  readonly heartbeatPeriodMs: number;
  readonly certificateValidityMs: number;
  readonly snapshotIntervalEntries: number;
  readonly slowFollowerEntries: number;
  readonly autoLockManagers: boolean;
  readonly logDriver?: { readonly name: string; readonly options: Labels };
}

/** There is exactly one, named `default`; it is created with the cluster. */
export interface Cluster {
  readonly id: ClusterId;
  readonly meta: Meta;
  readonly spec: ClusterSpec;
  /** The cluster's own certificate authority. `keyPem` never leaves the managers. */
  readonly ca: { readonly certificatePem: string; readonly keyPem: string };
  readonly joinTokens: { readonly worker: string; readonly manager: string };
  /** Nodes that were removed; their certificates are refused. Node id → unix milliseconds of removal. */
  readonly removedNodes: Readonly<Record<string, number>>;
  /** CIDR blocks that overlay subnets are cut from, in order. */
  readonly addressPools: readonly string[];
  readonly subnetBits: number;
  readonly dataPathPort: number;
}
