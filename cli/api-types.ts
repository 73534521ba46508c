/** The parts of the Engine API's JSON that the command line reads and writes; the full shapes are the API's. */

export interface Versioned {
  ID: string;
  Version: { Index: number };
  CreatedAt: string;
  UpdatedAt: string;
}

/** A service asks by count, a node may also offer by name. */
export interface ApiGenericResource {
  DiscreteResourceSpec?: { Kind: string; Value: number };
  NamedResourceSpec?: { Kind: string; Value: string };
}

export interface ApiPort {
  Name?: string;
  Protocol: string;
  TargetPort: number;
  PublishedPort?: number;
  PublishMode: string;
}

export interface ApiMount {
  Type: string;
  Source?: string;
  Target: string;
  ReadOnly?: boolean;
  Consistency?: string;
  BindOptions?: Record<string, unknown>;
  VolumeOptions?: Record<string, unknown>;
  TmpfsOptions?: Record<string, unknown>;
}

export interface ApiContainerSpec {
  Image: string;
  Labels?: Record<string, string>;
  Command?: string[];
  Args?: string[];
  Hostname?: string;
  Env?: string[];
  Dir?: string;
  User?: string;
  Groups?: string[];
  Init?: boolean;
  StopSignal?: string;
  TTY?: boolean;
  OpenStdin?: boolean;
  ReadOnly?: boolean;
  Mounts?: ApiMount[];
  StopGracePeriod?: number;
  Healthcheck?: Record<string, unknown>;
  Hosts?: string[];
  DNSConfig?: { Nameservers?: string[]; Search?: string[]; Options?: string[] };
  Secrets?: ApiPayloadReference[];
  Configs?: ApiPayloadReference[];
  Sysctls?: Record<string, string>;
  CapabilityAdd?: string[];
  CapabilityDrop?: string[];
  Ulimits?: { Name: string; Soft: number; Hard: number }[];
  OomScoreAdj?: number;
  Isolation?: string;
  Privileges?: Record<string, unknown> | null;
}

export interface ApiUpdateConfig {
  Parallelism: number;
  Delay?: number;
  FailureAction?: string;
  Monitor?: number;
  MaxFailureRatio?: number;
  Order?: string;
}

export interface ApiServiceSpec {
  Name: string;
  Labels: Record<string, string>;
  TaskTemplate: {
    ContainerSpec: ApiContainerSpec;
    Resources?: {
      Limits?: { NanoCPUs?: number; MemoryBytes?: number; Pids?: number };
      Reservations?: { NanoCPUs?: number; MemoryBytes?: number; GenericResources?: ApiGenericResource[] };
    };
    RestartPolicy?: { Condition?: string; Delay?: number; MaxAttempts?: number; Window?: number };
    Placement?: {
      Constraints?: string[];
      Preferences?: { Spread: { SpreadDescriptor: string } }[];
      MaxReplicas?: number;
      Platforms?: { Architecture?: string; OS?: string }[];
    };
    Networks?: { Target: string; Aliases?: string[] }[];
    LogDriver?: { Name: string; Options?: Record<string, string> };
    ForceUpdate?: number;
    Runtime?: string;
  };
  Mode: {
    Replicated?: { Replicas?: number };
    Global?: object;
    ReplicatedJob?: { MaxConcurrent?: number; TotalCompletions?: number };
    GlobalJob?: object;
  };
  UpdateConfig?: ApiUpdateConfig;
  RollbackConfig?: ApiUpdateConfig;
  EndpointSpec?: { Mode?: string; Ports?: ApiPort[] };
}

export interface ApiService extends Versioned {
  Spec: ApiServiceSpec;
  PreviousSpec?: ApiServiceSpec;
  Endpoint?: { Ports?: ApiPort[] };
  UpdateStatus?: { State?: string; Message?: string; StartedAt?: string; CompletedAt?: string };
  ServiceStatus?: { RunningTasks: number; DesiredTasks: number; CompletedTasks: number };
  JobStatus?: { JobIteration: { Index?: number }; LastExecution: string };
}

export interface ApiTask extends Versioned {
  Spec: { ContainerSpec?: ApiContainerSpec };
  ServiceID: string;
  Slot?: number;
  NodeID?: string;
  DesiredState: string;
  JobIteration?: { Index?: number };
  Status: {
    Timestamp: string;
    State: string;
    Message?: string;
    Err?: string;
    PortStatus?: { Ports?: ApiPort[] };
  };
}

export interface ApiNode extends Versioned {
  Spec: { Name?: string; Labels: Record<string, string>; Role: string; Availability: string };
  Description: { Hostname: string; Engine: { EngineVersion?: string } };
  Status: { State: string; Addr?: string };
  ManagerStatus?: { Leader?: boolean; Reachability: string; Addr: string };
}

export interface Named extends Versioned {
  Spec: { Name: string };
}

/** A secret (first two) or config (next two) as a service uses it. */
export interface ApiPayloadReference {
  SecretID?: string;
  SecretName?: string;
  ConfigID?: string;
  ConfigName?: string;
  File: { Name: string; UID: string; GID: string; Mode: number };
}

export interface ApiPayload extends Named {
  CreatedAt: string;
  UpdatedAt: string;
  /** `Data` is base64, and comes back for configs alone. */
  Spec: { Name: string; Labels?: Record<string, string> | null; Driver?: { Name: string }; Data?: string };
}

export interface ApiNetwork {
  Id: string;
  Name: string;
  Driver: string;
  Scope: string;
  Labels?: Record<string, string> | null;
}

export interface ApiInfo {
  Name: string;
  Swarm: {
    NodeID: string;
    LocalNodeState: string;
    ControlAvailable: boolean;
    RemoteManagers?: { NodeID: string; Addr: string }[] | null;
  };
}

export interface ApiSwarm extends Versioned {
  JoinTokens: { Worker: string; Manager: string };
  Spec: ApiSwarmSpec;
}

export interface ApiSwarmSpec {
  Labels?: Record<string, string>;
  Orchestration?: Record<string, unknown>;
  Dispatcher?: Record<string, unknown>;
  CAConfig?: Record<string, unknown>;
  Raft?: Record<string, unknown>;
}
