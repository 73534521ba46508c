/**
 * Every default of the cluster, with its unit and the reason for the value. Values that a client can
 * see (`docker service inspect`) are those of the Engine API; the stored spec keeps "not given".
 */
import type { ClusterSpec } from "./cluster.ts";
import type { RestartCondition, UpdatePolicy } from "./service.ts";

/** A service whose task ended is restarted whatever the exit code: services are meant to run for ever. */
export const defaultRestartCondition: RestartCondition = "any";
/** Long enough that a task failing at once does not spin, short enough to be back soon. */
export const defaultRestartDelayMs = 5_000;
/** Tasks that end again and again wait longer each time, up to this. */
export const defaultRestartBackoffLimitMs = 300_000;
/** With a delay of 0, what ends a second time in a row waits this long at least, doubled with each time. */
export const shortestRestartBackoffMs = 1_000;
/** What ran for so long before it ended did not crash at its start: the back-off begins anew. */
export const restartBackoffResetMs = 60_000;
/** A new task of an update that does not run by then counts as failed, so that no update hangs for ever. */
export const defaultProgressDeadlineMs = 600_000;
/** How long a restart waits for the old task to be gone before it goes on without. */
export const restartStopTimeoutMs = 60_000;
/** Between the stop signal and the kill; most programs close their work well within it. */
export const defaultStopGracePeriodMs = 10_000;
/** A new task must outlive this before an update counts it as good. */
export const defaultUpdateMonitorMs = 5_000;

/** What an update (and a rollback) does when the service says nothing: carefully, one task at a time. */
export const defaultUpdatePolicy = {
  parallelism: 1,
  delayMs: 0,
  failureAction: "pause",
  monitorMs: defaultUpdateMonitorMs,
  maxFailureRatio: 0,
  order: "stop-first",
} as const satisfies UpdatePolicy;

/** Health checks, as images without own values get them. */
export const defaultHealthIntervalMs = 30_000;
export const defaultHealthTimeoutMs = 30_000;
export const defaultHealthStartPeriodMs = 0;
/** During the start period probes come faster, so that a quick start is noticed. */
export const defaultHealthStartIntervalMs = 5_000;
export const defaultHealthRetries = 3;

/** Dead tasks kept for each slot, for `docker service ps`; negative keeps all. */
export const defaultTaskHistoryLimit = 5;
/** Nodes are heard every second and given up after `heartbeatGrace` of these; less often where they are many. */
export const defaultHeartbeatPeriodMs = 1_000;
/** Heartbeats a second of all nodes together; the period is doubled until there are no more. */
export const heartbeatsPerSecondLimit = 1_000;
/** Faster ones would take nodes for lost that a busy host merely let wait. */
export const minimumHeartbeatPeriodMs = 100;
/** Longer than this nobody wants to wait for a lost node. */
export const maximumHeartbeatPeriodMs = 24 * 3_600_000;
/** Missed heartbeats until a node is down: survives a lost packet and a short pause. */
export const heartbeatGrace = 3;
/** 90 days. */
export const defaultCertificateValidityMs = 90 * 24 * 3_600_000;
/** Shorter certificates would be renewed all the time. */
export const minimumCertificateValidityMs = 3_600_000;
/** Entries between two snapshots: bounds replay after a restart. */
export const defaultSnapshotIntervalEntries = 10_000;
/** Entries kept behind a snapshot, so that a slow follower needs no snapshot. */
export const defaultSlowFollowerEntries = 500;

export const defaultAddressPools: readonly string[] = ["10.0.0.0/8"];
/** A /24 leaves 253 task addresses. */
export const defaultSubnetBits = 24;
/** UDP port of VXLAN (RFC 7348 §5). */
export const defaultDataPathPort = 4789;

/** Below these a container cannot start at all. */
export const minimumNanoCpus = 1_000_000;
export const minimumMemoryBytes = 4 * 1024 * 1024;
/** 0 inherits; anything shorter cannot be measured. */
export const minimumHealthTimeMs = 1;

export const defaultClusterSpec: ClusterSpec = {
  labels: {},
  taskHistoryLimit: defaultTaskHistoryLimit,
  heartbeatPeriodMs: defaultHeartbeatPeriodMs,
  certificateValidityMs: defaultCertificateValidityMs,
  snapshotIntervalEntries: defaultSnapshotIntervalEntries,
  slowFollowerEntries: defaultSlowFollowerEntries,
  autoLockManagers: false,
};
