/** The cluster object: Engine API JSON to model and back. */
import type { Cluster, ClusterSpec } from "../../model/cluster.ts";
import { clusterLabelProblems } from "../../model/cluster-labels.ts";
import {
  defaultCertificateValidityMs,
  defaultClusterSpec,
  maximumHeartbeatPeriodMs,
  minimumCertificateValidityMs,
  minimumHeartbeatPeriodMs,
} from "../../model/defaults.ts";
import { ClusterError } from "../../model/errors.ts";
import type { JsonObject } from "./json-reader.ts";
import { type Json, printMeta, printNs } from "./json-writer.ts";
import { parseNamedOptions, present } from "./parse.ts";

/** Consensus runs on its own timing; these are what clients expect to read. */
const electionTick = 10;
const heartbeatTick = 1;

/**
 * Reads the `Spec` of `swarm init` and `swarm update`; what is absent has its default.
 *
 * @throws {ClusterError} with the API's texts.
 */
export function parseClusterSpec(json: JsonObject): ClusterSpec {
  const name = json.text("Name");
  if (name !== "" && name !== "default") throw invalid('swarm spec must be named "default"');
  const raft = json.object("Raft");
  if ((raft.optionalInteger("KeepOldSnapshots") ?? 0) !== 0) {
    throw later("keeping old snapshots (Raft.KeepOldSnapshots)");
  }
  const ca = json.object("CAConfig");
  if (ca.list("ExternalCAs").length > 0)
    throw later("external certificate authorities (CAConfig.ExternalCAs)");
  if (ca.integer("ForceRotate") !== 0 || ca.text("SigningCACert") !== "" || ca.text("SigningCAKey") !== "") {
    throw later("rotation of the root certificate");
  }
  const certificateValidityMs = ca.optionalMs("NodeCertExpiry") || defaultCertificateValidityMs;
  if (certificateValidityMs < minimumCertificateValidityMs) {
    throw invalid("minimum certificate expiry time is: 1h0m0s");
  }
  const heartbeatPeriodMs =
    json.object("Dispatcher").optionalMs("HeartbeatPeriod") || defaultClusterSpec.heartbeatPeriodMs;
  if (heartbeatPeriodMs < 0) throw invalid("heartbeat time period cannot be a negative duration");
  if (heartbeatPeriodMs < minimumHeartbeatPeriodMs || heartbeatPeriodMs > maximumHeartbeatPeriodMs) {
    throw invalid("heartbeat time period must be between 100ms and 24h0m0s");
  }
  if (json.object("EncryptionConfig").flag("AutoLockManagers"))
    throw later("auto-lock (EncryptionConfig.AutoLockManagers)");
  const labels = json.labels("Labels");
  const [problem] = clusterLabelProblems(labels);
  if (problem !== undefined) throw invalid(problem);
  return {
    labels,
    taskHistoryLimit:
      json.object("Orchestration").optionalInteger("TaskHistoryRetentionLimit") ??
      defaultClusterSpec.taskHistoryLimit,
    heartbeatPeriodMs,
    certificateValidityMs,
    snapshotIntervalEntries:
      raft.optionalCount("SnapshotInterval") || defaultClusterSpec.snapshotIntervalEntries,
    slowFollowerEntries:
      raft.optionalCount("LogEntriesForSlowFollowers") ?? defaultClusterSpec.slowFollowerEntries,
    autoLockManagers: false,
    ...present({
      logDriver: parseNamedOptions(json.object("TaskDefaults").object("LogDriver")),
    }),
  };
}

/** As `GET /swarm`, and `/info` without `JoinTokens`. No key ever appears here. */
export function printCluster(cluster: Cluster, tlsInfo: Json | undefined): Json {
  return {
    ...printMeta(cluster),
    Spec: printClusterSpec(cluster.spec),
    TLSInfo: tlsInfo ?? { TrustRoot: cluster.ca.certificatePem },
    RootRotationInProgress: false,
    DefaultAddrPool: cluster.addressPools,
    SubnetSize: cluster.subnetBits,
    DataPathPort: cluster.dataPathPort,
  };
}

export function printClusterSpec(spec: ClusterSpec): Json {
  return {
    Name: "default",
    Labels: spec.labels,
    Orchestration: { TaskHistoryRetentionLimit: spec.taskHistoryLimit },
    Raft: {
      SnapshotInterval: spec.snapshotIntervalEntries,
      KeepOldSnapshots: 0,
      LogEntriesForSlowFollowers: spec.slowFollowerEntries,
      ElectionTick: electionTick,
      HeartbeatTick: heartbeatTick,
    },
    Dispatcher: { HeartbeatPeriod: printNs(spec.heartbeatPeriodMs) },
    CAConfig: { NodeCertExpiry: printNs(spec.certificateValidityMs) },
    TaskDefaults:
      spec.logDriver === undefined
        ? {}
        : { LogDriver: { Name: spec.logDriver.name, Options: spec.logDriver.options } },
    EncryptionConfig: { AutoLockManagers: spec.autoLockManagers },
  };
}

function invalid(message: string): ClusterError {
  return new ClusterError("invalid-argument", message);
}

function later(what: string): ClusterError {
  return new ClusterError("unimplemented", `${what} is not available yet`);
}
