import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { ForwardRequest, ForwardResponse } from "../../proto/gen/shoal/control.ts";
import type { NetworkPeer } from "../../proto/gen/shoal/telemetry.ts";
import type { CheckedNode, LogLine, LogOptions } from "../../proto/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Cancellation } from "../../runtime/life.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { TableName } from "../store/tables.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import type { Watch } from "../store/watch.ts";

/** The part of the store that the API touches. */
export interface ApiStore {
  view<R>(read: (view: StoreView) => R): R;
  update<R>(write: (tx: Transaction) => R, life?: Cancellation): Promise<R>;
  watch(tables: readonly TableName[], signal?: AbortSignal): Watch;
}

export interface ApiDeps {
  readonly store: ApiStore;
  readonly clock: Clock;
  readonly random: Random;
  /** Unforeseen failures of requests end here; their text is not shown to clients. */
  readonly log: Pick<Log, "error">;
  readonly nodeId: NodeId;
  readonly cluster: {
    isLeader(): boolean;
    leaderAddress(): string | undefined;
    leaderId(): NodeId | undefined;
    /** Settles when the store here holds everything that was committed before the call. @throws `no-leader` */
    readBarrier(signal: AbortSignal): Promise<void>;
    reachable(nodeId: NodeId): boolean;
    /** A new data key for the log and the snapshots of this manager. @returns its number. */
    rotateDataKey(signal: AbortSignal): Promise<number>;
  };
  /** @throws {ClusterError} `no-leader` only when no leader has seen the request: it is tried again then. */
  forward(request: ForwardRequest, signal: AbortSignal): Promise<ForwardResponse>;
  logs(
    selector: { readonly serviceIds: readonly ServiceId[]; readonly taskIds: readonly TaskId[] },
    options: LogOptions,
    signal: AbortSignal,
  ): AsyncIterable<LogLine>;
  /** Asks nodes what they find of the networks they share. @throws {ClusterError} `unavailable` without telemetry. */
  checkNetworks(
    nodeIds: readonly NodeId[],
    peersOf: (nodeId: NodeId) => readonly NetworkPeer[],
  ): Promise<readonly CheckedNode[]>;
  readonly joinTokens: {
    /** Writes a new token of that kind into the transaction's cluster object. */
    rotate(kind: "worker" | "manager", tx: Transaction): void;
  };
}
