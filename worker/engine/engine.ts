/**
 * What a task needs from any container engine. The agent and the front door code against this file
 * alone; `containerd.ts` implements it over containerd, `test/sim/engine.ts` in memory.
 *
 * Everything here survives a restart of the worker: containers run on, and an `Engine` opened later
 * over the same directories knows each of them, with the exit code of those that ended meanwhile.
 * Failures are `ClusterError`s; `not-found` means the container or image is unknown,
 * `unavailable` that containerd does not answer.
 */
import type { HostLimits } from "./host-limits.ts";
import type { Labels } from "../../model/meta.ts";
import type {
  ContainerSpec,
  FileTarget,
  HealthCheck,
  Platform,
  RegistryAuth,
  ResourceRequirements,
} from "../../model/service.ts";
import type { LogReader } from "../logs/reader.ts";
import type { Volumes } from "../mounts/volume.ts";
import type { ImageStore } from "./image-store.ts";
import type { PlannedMount } from "../mounts/plan.ts";
import type { OciSpec } from "./oci.ts";

export interface Engine {
  /**
   * Makes the image present: content verified against its digests, layers unpacked. Equal pulls in
   * flight are one. A reference with a digest that is present costs no network; an unchanged tag one request.
   *
   * @throws {ClusterError} `not-found` (no such repository or tag), `unauthenticated`, `permission-denied`,
   *   `unavailable` (registry out of reach), `data-loss` (digest mismatch), `failed-precondition` (no image for this platform).
   */
  pull(reference: string, options: PullOptions, signal: AbortSignal): Promise<Image>;
  /** By reference, `name@digest`, image id or its unique prefix of at least 4 digits; local only. */
  image(reference: string): Promise<Image | undefined>;
  images(): Promise<readonly Image[]>;
  /** Names, removal, sizes and archives of images; what clients do beyond what a task needs. */
  readonly imageStore: ImageStore;
  readonly volumes: Volumes;
  /** What the registry says a reference is, for `GET /distribution/{name}/json`; pulls nothing. */
  resolve(reference: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Distribution>;

  /**
   * Everything but the process: directories, volumes, secret files, snapshot, specification.
   * The same id again is `conflict`. On failure nothing of it is left behind.
   *
   * @throws {ClusterError} `not-found` "No such image: X"; `invalid-argument` for a mount, user or option that cannot be.
   */
  create(request: ContainerCreate, signal: AbortSignal): Promise<void>;
  /** Again after each end. A refusal of the runtime is `failed-precondition` with its text, and the container is then stopped (127 or 126 as `docker run` has them). */
  start(id: string, signal: AbortSignal): Promise<Started>;
  /** Sends `signal` (default: the container's stop signal), after `graceMs` SIGKILL; settles when it has ended. Not running: no-op. */
  stop(id: string, options: StopOptions, abort: AbortSignal): Promise<ExitStatus | undefined>;
  /** `conflict` if it is not running. `signal` as "SIGTERM", "TERM" or "15". */
  kill(id: string, signal: string): Promise<void>;
  /** Settles when the container has ended; at once if it has. `not-found` when it is removed first. */
  wait(id: string, abort: AbortSignal): Promise<ExitStatus>;
  /** Kills it if need be and removes all that `create` made, anonymous volumes included. Unknown id: no-op. */
  remove(id: string): Promise<void>;
  /**
   * Does what nobody waits for, once this host has not started or stopped anything for a moment; half a minute later at
   * the latest. Aborting gives it up until it begins.
   */
  whenIdle<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result>;
  /** Runs a command in a running container. Output is both streams, cut at the limit. Over time: killed, `deadline-exceeded`. */
  exec(id: string, request: ExecRequest, abort: AbortSignal): Promise<ExecResult>;

  /** Every container of ours, oldest first; from memory, no call to containerd. */
  list(): Promise<readonly ContainerRecord[]>;
  inspect(id: string): Promise<ContainerRecord | undefined>;
  /** `not-found` for an unknown container. Works for ended containers until they are removed. */
  logs(id: string): LogReader;
  /** From now on; a consumer more than 1,000 events behind loses the oldest and gets `lagged`. */
  events(abort: AbortSignal): AsyncIterable<EngineEvent>;
  info(): Promise<EngineInfo>;
  /** Ends everything of ours but the containers. */
  close(): Promise<void>;
}

export interface PullOptions {
  readonly auth?: RegistryAuth;
  /** Other than the host's own. */
  readonly platform?: Platform & { readonly variant?: string };
  readonly onProgress?: (progress: PullProgress) => void;
}

/** Enough to print what `docker pull` prints. `layer` is 12 digits of the layer's digest. */
export type PullProgress =
  | { readonly kind: "resolved"; readonly reference: string; readonly digest: string }
  | { readonly kind: "waiting" | "exists" | "downloaded" | "extracting" | "complete"; readonly layer: string }
  | {
      readonly kind: "downloading";
      readonly layer: string;
      readonly currentBytes: number;
      readonly totalBytes: number;
    }
  | { readonly kind: "done"; readonly changed: boolean };

export interface Image {
  /** Digest of the configuration: "sha256:…". */
  readonly id: string;
  /** Full form: "docker.io/library/nginx:1.27" or "docker.io/library/nginx@sha256:…". */
  readonly reference: string;
  /** Digest of the index or manifest the reference stands for: what a service is pinned to. */
  readonly digest: string;
  readonly config: ImageConfig;
  /** Compressed content: manifest, configuration and layers. */
  readonly sizeBytes: number;
  /** Name of the snapshot with all layers. */
  readonly chainId: string;
  readonly createdAtMs: number;
  readonly architecture: string;
  readonly os: string;
  /** Such as "v7"; of those architectures that have them. */
  readonly variant?: string;
}

export interface ImageConfig {
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly user: string;
  readonly workingDir: string;
  readonly labels: Labels;
  readonly stopSignal?: string;
  readonly healthcheck?: HealthCheck;
  /** Such as "80/tcp". */
  readonly exposedPorts: readonly string[];
  /** Paths of anonymous volumes. */
  readonly volumes: readonly string[];
}

export interface Distribution {
  readonly descriptor: { readonly mediaType: string; readonly digest: string; readonly size: number };
  readonly platforms: readonly {
    readonly architecture: string;
    readonly os: string;
    readonly variant?: string;
  }[];
}

export type ContainerNetwork =
  | { readonly kind: "host" }
  /** A namespace with nothing but loopback. */
  | { readonly kind: "none" }
  /** `path` such as "/run/netns/x"; made before `start`, owned by the caller. */
  | { readonly kind: "namespace"; readonly path: string };

/** A secret or config of the task as a file; the data stays in memory-backed directories. */
export interface PayloadFile {
  /** Where and with which owner and mode; a relative name is below /run/secrets (secrets) or / (configs). */
  readonly target: FileTarget;
  readonly data: Uint8Array;
}

export interface ContainerCreate {
  /** 64 hexadecimal digits (`newContainerId` in runtime/random.ts). */
  readonly id: string;
  readonly name: string;
  /** Reference as for `image`; `spec.image` is not read. */
  readonly image: string;
  /** Templates already expanded (`expandSpec` in template.ts). */
  readonly spec: ContainerSpec;
  readonly resources: ResourceRequirements;
  /** What `docker inspect` shows: the spec's, and those of the task over them. The image's are added. */
  readonly labels: Labels;
  readonly network: ContainerNetwork;
  /** Lines of /etc/hosts beside localhost and `spec.hosts`, such as the container's own address. */
  readonly hosts?: readonly { readonly address: string; readonly names: readonly string[] }[];
  /** Used unless `spec.dns` names servers; absent: the host's resolv.conf. */
  readonly resolver?: {
    readonly nameservers: readonly string[];
    readonly search: readonly string[];
    readonly options: readonly string[];
  };
  /** Files of the caller that are mounted instead of those made from the values above. */
  readonly files?: { readonly hosts?: string; readonly resolvConf?: string; readonly hostname?: string };
  readonly secrets: readonly PayloadFile[];
  readonly configs: readonly PayloadFile[];
  /** Driver "json-file" (default; "local" is the same) with max-size, max-file; or "none". */
  readonly log?: { readonly name: string; readonly options: Labels };
  /** In place of the spec's mounts and the image's volumes. */
  readonly mounts?: readonly PlannedMount[];
  /** The last word on the specification: what no service can ask for. Pure. */
  readonly adjust?: (spec: OciSpec) => OciSpec;
  /** With the driver "none", output is kept all the same, for those who attach. */
  readonly keepsUnread?: boolean;
}

export interface Started {
  readonly pid: number;
  readonly startedAtMs: number;
}

export interface StopOptions {
  readonly signal?: string;
  readonly graceMs: number;
  /** What is left of it, but for the container itself, is cleared away at once (default), or with `whenIdle`. */
  readonly clearUp?: "at-once" | "when-idle";
}

export interface ExitStatus {
  readonly exitCode: number;
  readonly atMs: number;
  readonly oomKilled: boolean;
  /** Text when it never ran or was lost, such as the runtime's refusal; empty otherwise. */
  readonly error: string;
}

export interface ExecRequest {
  readonly args: readonly string[];
  /** Added to the container's own. */
  readonly env?: readonly string[];
  readonly user?: string;
  readonly workingDir?: string;
  readonly timeoutMs: number;
  readonly outputLimitBytes: number;
}

export interface ExecResult {
  readonly exitCode: number;
  readonly output: string;
}

export type ContainerState =
  | { readonly state: "created" }
  | {
      readonly state: "running";
      readonly pid: number;
      readonly startedAtMs: number;
      readonly oomKilled: boolean;
      readonly paused?: true;
      /** When it last went on after a pause, as far as this process has seen. */
      readonly resumedAtMs?: number;
    }
  /** `startedAtMs` is absent when it never ran. */
  | { readonly state: "stopped"; readonly startedAtMs?: number; readonly exit: ExitStatus };

/** A mount in effect, as `docker inspect` lists them. */
export interface MountRecord {
  readonly type: "bind" | "volume" | "tmpfs" | "image";
  /** Of the volume; of the image as it was asked for. */
  readonly name?: string;
  /** Images only. */
  readonly imageId?: string;
  /** Of what is seen of an image or a volume, when it is not all of it. */
  readonly subpath?: string;
  /** Path on the host; empty for tmpfs. */
  readonly source: string;
  /** How a bind or tmpfs is mounted; absent in records of older versions. */
  readonly options?: readonly string[];
  /** A bind's source that is missing at a start is made. */
  readonly createSource?: boolean;
  readonly target: string;
  readonly readOnly: boolean;
  /** Made for this container alone and removed with it. */
  readonly anonymous: boolean;
}

export interface ContainerRecord {
  readonly id: string;
  readonly name: string;
  /** As given to `create`. */
  readonly image: string;
  readonly imageId: string;
  readonly labels: Labels;
  readonly createdAtMs: number;
  readonly status: ContainerState;
  /** In effect, image and spec joined. */
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly workingDir: string;
  readonly hostname: string;
  readonly tty: boolean;
  /** Its standard input can be written to. */
  readonly openStdin?: true;
  readonly stopSignal: string;
  /** In effect; absent when there is none. Probing is the agent's. */
  readonly healthcheck?: HealthCheck;
  readonly network: ContainerNetwork;
  readonly mounts: readonly MountRecord[];
  readonly resources: ResourceRequirements;
  readonly logDriver: string;
  /** Below the root of every hierarchy; absent: by its id below the one of all containers. */
  readonly cgroupPath?: string;
}

/** A container's event carries what the Engine API prints of it. */
export type EngineEvent =
  | {
      readonly kind: "container";
      readonly action: "create" | "start" | "kill" | "oom" | "die" | "stop" | "destroy";
      readonly atMs: number;
      readonly id: string;
      readonly name: string;
      readonly image: string;
      readonly labels: Labels;
      /** `die` only. */
      readonly exit?: ExitStatus;
      /** `die` only: how long it ran. */
      readonly ranMs?: number;
      /** `kill` only. */
      readonly signal?: string;
    }
  | {
      readonly kind: "image";
      readonly action: "pull" | "push" | "tag" | "untag" | "delete" | "load" | "save" | "import";
      readonly atMs: number;
      readonly id: string;
      readonly reference: string;
    }
  /** containerd went or came back; all states were compared again before `connected`. */
  | { readonly kind: "engine"; readonly action: "connected" | "disconnected"; readonly atMs: number }
  /** Events were dropped: look at `list` again. */
  | { readonly kind: "lagged"; readonly atMs: number };

export interface EngineInfo {
  readonly connected: boolean;
  /** containerd's; empty until it has been reached once. */
  readonly version: string;
  readonly revision: string;
  /** "crun" or "runc". */
  readonly runtime: string;
  /** Such as "1.8.1"; empty when it does not say. */
  readonly runtimeVersion: string;
  /** What whoever runs this host should know of it, in sentences. */
  readonly warnings: readonly string[];
  readonly storageDriver: string;
  readonly cgroupVersion: 1 | 2;
  readonly kernelVersion: string;
  readonly operatingSystem: string;
  /** As `uname -m` prints it. */
  readonly architecture: string;
  readonly cpuCount: number;
  readonly memoryBytes: number;
  /** Directory of containers and volumes. */
  readonly rootDir: string;
  /** Highest capability of the kernel. */
  readonly lastCapability: number;
  readonly swapLimit: boolean;
  /** The kernel can weigh containers' use of block devices. */
  readonly blockWeight: boolean;
  /** Numbered from 0. */
  readonly memoryNodes: number;
  readonly limits: HostLimits;
}
