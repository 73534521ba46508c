import type { ConfigId, NetworkId, SecretId, ServiceId } from "./ids.ts";
import type { Labels, Meta } from "./meta.ts";

/** Names and labels a user gave. */
export interface Annotations {
  readonly name: string;
  readonly labels: Labels;
}

export interface HealthCheck {
  /** Docker's form: ["NONE"], ["CMD", …], ["CMD-SHELL", text]; empty inherits the image's. */
  readonly test: readonly string[];
  /** 0 means the default (`model/defaults.ts`) or the image's value. */
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly startPeriodMs: number;
  readonly startIntervalMs: number;
  readonly retries: number;
}

export type Mount = MountBase &
  (
    | { readonly type: "bind"; readonly source: string; readonly bind?: BindOptions }
    | { readonly type: "volume"; readonly source: string; readonly volume?: VolumeOptions }
    | { readonly type: "tmpfs"; readonly tmpfs?: TmpfsOptions }
  );

interface MountBase {
  readonly target: string;
  readonly readOnly: boolean;
  /** Kept for inspect; without effect on Linux. */
  readonly consistency?: string;
}

export interface BindOptions {
  readonly propagation?: "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave";
  readonly nonRecursive?: boolean;
  readonly createMountpoint?: boolean;
  readonly readOnlyNonRecursive?: boolean;
  readonly readOnlyForceRecursive?: boolean;
}

export interface VolumeOptions {
  readonly noCopy?: boolean;
  readonly labels?: Labels;
  readonly subpath?: string;
  readonly driverName?: string;
  readonly driverOptions?: Labels;
}

export interface TmpfsOptions {
  readonly sizeBytes?: number;
  readonly mode?: number;
  /** Further mount options, such as ["noexec"] or ["uid", "1000"]. */
  readonly options?: readonly (readonly string[])[];
}

export interface FileTarget {
  readonly name: string;
  readonly uid: string;
  readonly gid: string;
  readonly mode: number;
}

export interface SecretReference {
  readonly secretId: SecretId;
  readonly secretName: string;
  readonly file: FileTarget;
}

export interface ConfigReference {
  readonly configId: ConfigId;
  readonly configName: string;
  /** Absent for runtime targets, which are not mounted. */
  readonly file?: FileTarget;
}

export interface Ulimit {
  readonly name: string;
  readonly soft: number;
  readonly hard: number;
}

/** What a container of the task is; field names follow the Engine API, times are milliseconds. */
export interface ContainerSpec {
  /** Reference as given, possibly pinned: `name:tag@sha256:…`. */
  readonly image: string;
  readonly labels: Labels;
  /** Replaces the image's entrypoint. */
  readonly command: readonly string[];
  /** Replaces the image's command. */
  readonly args: readonly string[];
  readonly hostname?: string;
  /** "K=V" lines; a bare "K" unsets. */
  readonly env: readonly string[];
  readonly workingDir?: string;
  /** "uid", "name", "uid:gid" or "name:group". */
  readonly user?: string;
  readonly groups: readonly string[];
  readonly init?: boolean;
  readonly stopSignal?: string;
  readonly tty: boolean;
  readonly openStdin: boolean;
  readonly readOnly: boolean;
  readonly mounts: readonly Mount[];
  readonly stopGracePeriodMs?: number;
  readonly healthcheck?: HealthCheck;
  /** "IP name alias…" lines. */
  readonly hosts: readonly string[];
  readonly dns?: {
    readonly nameservers: readonly string[];
    readonly search: readonly string[];
    readonly options: readonly string[];
  };
  readonly secrets: readonly SecretReference[];
  readonly configs: readonly ConfigReference[];
  readonly sysctls: Labels;
  readonly capabilityAdd: readonly string[];
  readonly capabilityDrop: readonly string[];
  readonly ulimits: readonly Ulimit[];
  readonly oomScoreAdj?: number;
  readonly noNewPrivileges?: boolean;
  readonly seccomp?: { readonly mode: "default" | "unconfined" | "custom"; readonly profile?: string };
  readonly appArmor?: "default" | "disabled";
}

export interface ResourceRequirements {
  readonly limits?: { readonly nanoCpus?: number; readonly memoryBytes?: number; readonly pids?: number };
  readonly reservations?: {
    readonly nanoCpus?: number;
    readonly memoryBytes?: number;
    readonly generic?: Readonly<Record<string, number>>;
  };
}

export type RestartCondition = "none" | "on-failure" | "any";

export interface RestartPolicy {
  readonly condition?: RestartCondition;
  readonly delayMs?: number;
  /** 0 or absent: no limit. */
  readonly maxAttempts?: number;
  /** 0 or absent: attempts are counted for ever. */
  readonly windowMs?: number;
}

export interface Platform {
  readonly architecture: string;
  readonly os: string;
}

export interface Placement {
  /** Expressions such as "node.labels.zone==a"; see `constraint.ts`. */
  readonly constraints: readonly string[];
  /** Spread descriptors, such as "node.labels.zone", outermost first. */
  readonly spread: readonly string[];
  /** 0: no limit. */
  readonly maxReplicas: number;
  readonly platforms: readonly Platform[];
}

export interface NetworkReference {
  readonly networkId: NetworkId;
  readonly aliases: readonly string[];
  readonly driverOptions?: Labels;
}

/** All that, when changed, makes a running task outdated. */
export interface TaskSpec {
  readonly container: ContainerSpec;
  readonly resources: ResourceRequirements;
  readonly restart: RestartPolicy;
  readonly placement: Placement;
  readonly networks: readonly NetworkReference[];
  readonly logDriver?: { readonly name: string; readonly options: Labels };
  /** Raised by `--force` to replace every task. */
  readonly forceUpdate: number;
}

export type ServiceMode =
  | { readonly kind: "replicated"; readonly replicas: number }
  | { readonly kind: "global" }
  | { readonly kind: "replicated-job"; readonly maxConcurrent: number; readonly totalCompletions: number }
  | { readonly kind: "global-job" };

/** Runs to its end, once per iteration. */
export function isJob({ kind }: ServiceMode): boolean {
  return kind === "replicated-job" || kind === "global-job";
}

/** What is wanted of a service's tasks once they may start. */
export function goalOf(mode: ServiceMode): "running" | "complete" {
  return isJob(mode) ? "complete" : "running";
}

export type FailureAction = "pause" | "continue" | "rollback";
export type UpdateOrder = "stop-first" | "start-first";

export interface UpdatePolicy {
  /** 0: all at once. */
  readonly parallelism: number;
  readonly delayMs: number;
  readonly failureAction: FailureAction;
  /** Absent: the default; 0 stays 0. */
  readonly monitorMs?: number;
  /** 0..1 */
  readonly maxFailureRatio: number;
  readonly order: UpdateOrder;
}

export type PortProtocol = "tcp" | "udp" | "sctp";

export interface PortSpec {
  readonly name?: string;
  readonly protocol: PortProtocol;
  readonly targetPort: number;
  /** 0: chosen by the system. */
  readonly publishedPort: number;
  readonly publishMode: "ingress" | "host";
}

export interface EndpointSpec {
  readonly mode: "vip" | "dnsrr";
  readonly ports: readonly PortSpec[];
}

/** A service's own address on one network: whoever calls it reaches one of the serving tasks. */
export interface VirtualIp {
  readonly networkId: NetworkId;
  /** CIDR form, such as "10.0.1.2/24". */
  readonly address: string;
  /** As `address`, of IPv6; absent on networks without it. */
  readonly ipv6?: string;
}

/** Where a service is reached. */
export interface ServiceEndpoint {
  /** As asked for, published numbers filled in where the system chose. */
  readonly ports: readonly PortSpec[];
  /** One on each of its overlays, and one on the ingress network if it publishes ports there; none with dnsrr. */
  readonly virtualIps: readonly VirtualIp[];
}

/** Owner: the user. The system never edits it, but for the defaults applied when it arrives. */
export interface ServiceSpec extends Annotations {
  readonly task: TaskSpec;
  readonly mode: ServiceMode;
  readonly update?: UpdatePolicy;
  readonly rollback?: UpdatePolicy;
  readonly endpoint: EndpointSpec;
  /** True when the user sent an endpoint mode or ports; only decides what inspect prints. */
  readonly endpointGiven?: boolean;
}

export type UpdateState =
  | "updating"
  | "paused"
  | "completed"
  | "rollback_started"
  | "rollback_paused"
  | "rollback_completed";

export interface UpdateStatus {
  readonly state: UpdateState;
  /** Of the service when the update began: tasks made by it are at least as new. */
  readonly startedVersion?: number;
  readonly startedAtMs?: number;
  readonly completedAtMs?: number;
  readonly message: string;
}

export interface ServiceRevision {
  readonly spec: ServiceSpec;
  readonly specVersion: number;
}

/** Credentials a client sent for pulling the image (Engine API X-Registry-Auth, decoded JSON); never shown. */
export interface RegistryAuth {
  readonly username?: string;
  readonly password?: string;
  readonly serverAddress?: string;
  readonly identityToken?: string;
  readonly registryToken?: string;
}

export interface Service {
  readonly id: ServiceId;
  readonly meta: Meta;
  readonly spec: ServiceSpec;
  /** Grows with every replaced spec; 0 for a fresh service. Only comparable to other spec versions. */
  readonly specVersion: number;
  readonly previous?: ServiceRevision;
  /** Owner: the updater; cleared when a user's update arrives. */
  readonly updateStatus?: UpdateStatus;
  readonly registryAuth?: RegistryAuth;
  readonly previousRegistryAuth?: RegistryAuth;
  /** Owner: the allocator. Absent until allocated, and for services that need no address or port of the cluster's. */
  readonly endpoint?: ServiceEndpoint;
  /** Jobs only. The iteration grows with every replaced spec and starts the job anew. */
  readonly job?: { readonly iteration: number; readonly lastExecutionMs: number };
}

/**
 * The part of a spec that tasks run, stored once per spec version and dropped with its last task.
 * Its key is `revisionKey(serviceId, specVersion)`.
 */
export interface Revision {
  readonly id: string;
  readonly meta: Meta;
  readonly serviceId: ServiceId;
  readonly specVersion: number;
  readonly serviceName: string;
  readonly serviceLabels: Labels;
  readonly task: TaskSpec;
  readonly endpoint: EndpointSpec;
  readonly registryAuth?: RegistryAuth;
}

export function revisionKey(serviceId: ServiceId, specVersion: number): string {
  return `${serviceId}.${specVersion}`;
}
