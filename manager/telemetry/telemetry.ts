import { join } from "node:path";
import { hostOf } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { NetworkPeer } from "../../proto/gen/shoal/telemetry.ts";
import type { HostSettings, NodeIdentity } from "../../proto/host.ts";
import type { CheckedNode, LogLine, LogOptions } from "../../proto/telemetry.ts";
import { FabricLink } from "../../runtime/fabric.ts";
import { LoopGroup, type LoopDeps } from "../../runtime/loop.ts";
import { TlsKeeper } from "../../runtime/tls.ts";
import type { Store } from "../store/store.ts";
import { superviseFabric } from "./fabric.ts";
import { type LogSelector, readLogs } from "./logs.ts";
import { checkNetworks } from "./network.ts";

/** What the manager has of telemetry. Nothing in the control plane waits for it. */
export interface Telemetry {
  logs(selector: LogSelector, options: LogOptions, signal: AbortSignal): AsyncIterable<LogLine>;
  /** @throws {ClusterError} `unavailable` without a link to the fabric. */
  checkNetworks(
    nodeIds: readonly NodeId[],
    peersOf: (nodeId: NodeId) => readonly NetworkPeer[],
  ): Promise<CheckedNode[]>;
  /** The certificate was renewed. */
  replace(identity: NodeIdentity): void;
  stop(): Promise<void>;
}

export interface TelemetryContext extends LoopDeps {
  readonly settings: HostSettings;
  readonly store: Store;
  identity(): NodeIdentity;
  /** "ip:port" of the leader's cluster port, this manager's own while it leads. */
  leaderAddress(): string | undefined;
}

/** Settles at once and never fails: a fabric that does not start is its own affair. */
export type OpenTelemetry = (context: TelemetryContext) => Telemetry;

/** Runs this manager's nats-server, and its link to the leader's. */
export function openTelemetry(context: TelemetryContext): Telemetry {
  const { clock, random, log, store, settings } = context;
  const identity = context.identity();
  const tls = new TlsKeeper(identity);
  const loops = new LoopGroup({ clock, random, log });
  const link = new FabricLink(
    { clock, random, log },
    { nodeId: identity.nodeId, tls, host: () => hostOfLeader(context) },
  );
  const options = {
    binary: settings.natsServer,
    clusterId: identity.clusterId,
    folder: join(settings.runDir, "nats"),
  };
  loops.start("nats-server", (signal) =>
    superviseFabric({ clock, random, log, store, tls }, options, signal),
  );
  loops.start("telemetry fabric", (signal) => link.run(signal));
  return {
    logs: (selector, wanted, signal) =>
      readLogs({ clock, random, log, store, link }, selector, wanted, signal),
    checkNetworks: (nodeIds, peersOf) => checkNetworks(link, nodeIds, peersOf),
    replace: (renewed) => tls.replace(renewed),
    stop: () => loops.stop("the manager ends"),
  };
}

const missing = new ClusterError(
  "unavailable",
  "service logs and network checks need the telemetry fabric, which does not run on this manager",
);

/** For a manager that has none, such as one that is still starting. */
export const noTelemetry: Telemetry = {
  logs: () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(missing) }) }),
  checkNetworks: () => Promise.reject(missing),
  replace: () => {},
  stop: () => Promise.resolve(),
};

function hostOfLeader(context: TelemetryContext): string | undefined {
  const address = context.leaderAddress();
  return address === undefined ? undefined : hostOf(address);
}
