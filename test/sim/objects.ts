import type { GenericOffer } from "../../model/generic-resource.ts";
import type { ClusterId, NetworkId, NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Cluster } from "../../model/cluster.ts";
import type { Network, NetworkSpec } from "../../model/network.ts";
import type { Node, NodeSpec, NodeState } from "../../model/node.ts";
import type { Service, ServiceSpec, TaskSpec } from "../../model/service.ts";

/** Objects with every field that a test does not care about filled in; ids are readable words. */
export type Unstored<T> = Omit<T, "meta">;

export function id<Id extends string>(word: string): Id {
  return word.padEnd(25, "0") as Id;
}

export function clusterObject(change: Partial<Cluster["spec"]> = {}): Unstored<Cluster> {
  return {
    id: id<ClusterId>("cluster"),
    spec: {
      labels: {},
      taskHistoryLimit: 5,
      heartbeatPeriodMs: 1000,
      certificateValidityMs: 7_776_000_000,
      snapshotIntervalEntries: 10_000,
      slowFollowerEntries: 500,
      autoLockManagers: false,
      ...change,
    },
    ca: { certificatePem: "", keyPem: "" },
    joinTokens: { worker: "w", manager: "m" },
    removedNodes: {},
    addressPools: ["10.0.0.0/8"],
    subnetBits: 24,
    dataPathPort: 4789,
  };
}

export function taskSpec(change: Partial<TaskSpec> & { readonly image?: string } = {}): TaskSpec {
  const { image = "web:1", ...rest } = change;
  return {
    container: {
      image,
      labels: {},
      command: [],
      args: [],
      env: [],
      groups: [],
      tty: false,
      openStdin: false,
      readOnly: false,
      mounts: [],
      hosts: [],
      secrets: [],
      configs: [],
      sysctls: {},
      capabilityAdd: [],
      capabilityDrop: [],
      ulimits: [],
    },
    resources: {},
    restart: {},
    placement: { constraints: [], spread: [], maxReplicas: 0, platforms: [] },
    networks: [],
    forceUpdate: 0,
    ...rest,
  };
}

export function serviceSpec(
  change: Partial<ServiceSpec> & { readonly replicas?: number; readonly image?: string } = {},
): ServiceSpec {
  const { replicas = 1, image, ...rest } = change;
  return {
    name: "web",
    labels: {},
    task: taskSpec(image === undefined ? {} : { image }),
    mode: { kind: "replicated", replicas },
    endpoint: { mode: "vip", ports: [] },
    ...rest,
  };
}

export function serviceObject(word: string, spec: ServiceSpec): Unstored<Service> {
  return { id: id<ServiceId>(word), spec: { ...spec, name: word }, specVersion: 0 };
}

export function nodeObject(
  word: string,
  change: {
    readonly state?: NodeState;
    readonly sinceMs?: number;
    readonly spec?: Partial<NodeSpec>;
    readonly nanoCpus?: number;
    readonly memoryBytes?: number;
    readonly architecture?: string;
    readonly generic?: GenericOffer;
    readonly subnets?: readonly string[];
  } = {},
): Unstored<Node> {
  return {
    id: id<NodeId>(word),
    spec: { labels: {}, role: "worker", availability: "active", ...change.spec },
    description: {
      hostname: word,
      platform: { architecture: change.architecture ?? "x86_64", os: "linux" },
      resources: {
        nanoCpus: change.nanoCpus ?? 4e9,
        memoryBytes: change.memoryBytes ?? 8 * 2 ** 30,
        generic: {},
        ...change.generic,
      },
      engineVersion: "28.0",
      engineLabels: {},
      plugins: [],
      ...(change.subnets !== undefined && { subnets: change.subnets }),
    },
    status: {
      state: change.state ?? "ready",
      message: "",
      address: "10.9.0.1",
      ...(change.sinceMs !== undefined && { sinceMs: change.sinceMs }),
    },
    role: "worker",
    index: 1,
    certificate: "",
  };
}

export function networkObject(word: string, change: Partial<NetworkSpec> = {}): Unstored<Network> {
  return {
    id: id<NetworkId>(word),
    spec: {
      name: word,
      labels: {},
      driver: "overlay",
      driverOptions: {},
      ipv6: false,
      internal: false,
      attachable: false,
      ingress: false,
      ipam: [],
      ...change,
    },
  };
}

export function taskId(word: string): TaskId {
  return id<TaskId>(word);
}
