import type { Agent } from "node:http";
import type { LocalNodeState, NodeIdentity, SwarmOperation, SwarmOutcome } from "../../proto/host.ts";
import type { HostSettings } from "../../proto/host.ts";
import type { AssignedNetwork } from "../../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { LocalNetworks } from "../bridges/networks.ts";
import type { Builder } from "../builder/builder.ts";
import type { LocalContainers } from "../containers/containers.ts";
import type { Engine } from "../engine/engine.ts";
import type { HealthState } from "../health/state.ts";
import type { HostNetwork } from "../network/network.ts";

export interface ManagerPeer {
  readonly nodeId: string;
  readonly address: string;
}

/** What this node is at the moment; from shoald and the open session. */
export interface NodeView {
  readonly state: LocalNodeState;
  readonly error: string;
  readonly identity?: NodeIdentity;
  readonly managers: readonly ManagerPeer[];
  /** Networks of the cluster that this node is on; absent means none. */
  readonly networks?: readonly AssignedNetwork[];
}

export interface FrontDoorDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly settings: HostSettings;
  readonly engine: Engine;
  /** Absent where a host runs tasks only. */
  readonly containers?: LocalContainers;
  /** Absent where a host builds no images. */
  readonly builder?: Builder;
  readonly network: HostNetwork;
  readonly networks: LocalNetworks;
  /** Keeps connections to the manager beside us open: a new one for each request costs more than the request. */
  readonly toManager: Agent;
  node(): NodeView;
  /** Undefined for a container without a health check. */
  healthOf(containerId: string): HealthState | undefined;
  /** Asks shoald; settles with what came of it. */
  swarm(operation: SwarmOperation): Promise<SwarmOutcome>;
  /** Addresses of this host by interface, loopback left out. */
  interfaces(): readonly HostInterface[];
}

export interface HostInterface {
  readonly name: string;
  readonly addresses: readonly string[];
}
