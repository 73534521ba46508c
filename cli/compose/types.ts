import type { ApiServiceSpec } from "../api-types.ts";

/** A loaded compose file: valid by the schema, variables replaced, short forms still as written. */
export interface ComposeFile {
  services?: Record<string, ComposeService>;
  networks?: Record<string, ComposeNetwork | null>;
  volumes?: Record<string, ComposeVolume | null>;
  secrets?: Record<string, ComposePayload>;
  configs?: Record<string, ComposePayload>;
}

export type ListOrMap = readonly string[] | Readonly<Record<string, string | number | boolean | null>>;

export interface ComposeNetwork {
  name?: string;
  driver?: string;
  driver_opts?: Record<string, string | number>;
  ipam?: { driver?: string; config?: { subnet?: string }[] };
  external?: boolean | { name?: string } | null;
  internal?: boolean;
  attachable?: boolean;
  labels?: ListOrMap;
}

export interface ComposeVolume {
  name?: string;
  driver?: string;
  driver_opts?: Record<string, string | number>;
  external?: boolean | { name?: string };
  labels?: ListOrMap;
}

export interface ComposePayload {
  name?: string;
  file?: string;
  external?: boolean | { name?: string };
  labels?: ListOrMap;
  template_driver?: string;
}

export interface ComposeReference {
  source: string;
  target?: string;
  uid?: string;
  gid?: string;
  mode?: number;
}

export interface ComposePort {
  mode?: string;
  target: number;
  published?: number | string;
  protocol?: string;
}

export interface ComposeMount {
  type: string;
  source?: string;
  target?: string;
  read_only?: boolean;
  consistency?: string;
  bind?: { propagation?: string };
  volume?: { nocopy?: boolean; subpath?: string };
  tmpfs?: { size?: number | string };
}

export interface ComposeUpdate {
  parallelism?: number;
  delay?: string;
  failure_action?: string;
  monitor?: string;
  max_failure_ratio?: number;
  order?: string;
}

export interface ComposeDeploy {
  mode?: string;
  endpoint_mode?: string;
  replicas?: number;
  labels?: ListOrMap;
  update_config?: ComposeUpdate;
  rollback_config?: ComposeUpdate;
  resources?: {
    limits?: { cpus?: string | number; memory?: string; pids?: number };
    reservations?: {
      cpus?: string | number;
      memory?: string;
      generic_resources?: { discrete_resource_spec?: { kind: string; value: number } }[];
    };
  };
  restart_policy?: { condition?: string; delay?: string; max_attempts?: number; window?: string };
  placement?: { constraints?: string[]; preferences?: { spread: string }[]; max_replicas_per_node?: number };
}

export interface ComposeService {
  image?: string;
  entrypoint?: string | string[];
  command?: string | string[] | null;
  hostname?: string;
  environment?: ListOrMap;
  env_file?: string | string[];
  labels?: ListOrMap;
  working_dir?: string;
  user?: string;
  stop_signal?: string;
  stop_grace_period?: string;
  tty?: boolean;
  stdin_open?: boolean;
  read_only?: boolean;
  init?: boolean;
  isolation?: string;
  cap_add?: string[];
  cap_drop?: string[];
  sysctls?: ListOrMap;
  ulimits?: Record<string, number | { soft: number; hard: number }>;
  extra_hosts?: ListOrMap;
  dns?: string | string[];
  dns_search?: string | string[];
  healthcheck?: {
    disable?: boolean;
    test?: string | string[];
    interval?: string;
    timeout?: string;
    retries?: number;
    start_period?: string;
    start_interval?: string;
  };
  logging?: { driver?: string; options?: Record<string, string | number | null> };
  networks?: string[] | Record<string, { aliases?: string[] } | null>;
  ports?: (string | number | ComposePort)[];
  volumes?: (string | ComposeMount)[];
  tmpfs?: string | string[];
  secrets?: (string | ComposeReference)[];
  configs?: (string | ComposeReference)[];
  restart?: string;
  deploy?: ComposeDeploy | null;
  oom_score_adj?: number;
  [other: string]: unknown;
}

/** A service whose networks, secrets and configs are still names. */
export interface StackService {
  readonly name: string;
  readonly image: string;
  readonly spec: ApiServiceSpec;
  readonly secrets: readonly NamedReference[];
  readonly configs: readonly NamedReference[];
  readonly envFiles: readonly string[];
}

export interface NamedReference {
  /** Name of the object in the cluster. */
  readonly object: string;
  readonly file: { readonly Name: string; readonly UID: string; readonly GID: string; readonly Mode: number };
}
