import { ClusterError } from "../model/errors.ts";
import type { HostSettings, NodeIdentity } from "../proto/host.ts";
import type { LoopDeps } from "../runtime/loop.ts";
import type { ApiDeps } from "./api/deps.ts";
import type { Store } from "./store/store.ts";

/** What the manager has of telemetry. Nothing in the control plane waits for it. */
export interface Telemetry {
  readonly logs: ApiDeps["logs"];
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

/** Must settle soon and whatever happens: a fabric that does not start is its own affair. */
export type OpenTelemetry = (context: TelemetryContext) => Promise<Telemetry>;

const missing = new ClusterError(
  "unavailable",
  "service logs need the telemetry fabric, which does not run on this manager",
);

export const noTelemetry: Telemetry = {
  logs: () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(missing) }) }),
  replace: () => {},
  stop: () => Promise.resolve(),
};
