import type { ApiContainerSpec, ApiPort, ApiService, ApiUpdateConfig } from "./api-types.ts";
import { ago } from "./print.ts";

/**
 * A service as `service inspect --pretty` shows it.
 *
 * @param networks - Names of the networks it is attached to, in the order of its spec.
 */
export function prettyService(service: ApiService, networks: readonly string[], nowMs: number): string {
  const { Spec } = service;
  const { ContainerSpec, Placement, Resources } = Spec.TaskTemplate;
  const constraints = Placement?.Constraints ?? [];
  return [
    "",
    `ID:\t\t${service.ID}`,
    `Name:\t\t${Spec.Name}`,
    ...block("Labels:", pairs(Spec.Labels)),
    ...modeLines(service),
    ...updateStatusLines(service, nowMs),
    "Placement:",
    ...(constraints.length > 0 ? [` Constraints:\t[${constraints.join(" ")}]`] : []),
    ...(Placement?.MaxReplicas ? [` Max Replicas Per Node:\t${Placement.MaxReplicas}`] : []),
    ...updateConfigLines("UpdateConfig:", " Update order:      ", Spec.UpdateConfig),
    ...updateConfigLines("RollbackConfig:", " Rollback order:    ", Spec.RollbackConfig),
    ...containerLines(ContainerSpec),
    "Resources:",
    ...amounts(" Reservations:", Resources?.Reservations),
    ...amounts(" Limits:", Resources?.Limits),
    ...(networks.length > 0 ? [`Networks: ${networks.join(" ")} `] : []),
    `Endpoint Mode:\t${Spec.EndpointSpec?.Mode ?? "vip"}`,
    ...block("Ports:", (service.Endpoint?.Ports ?? []).map(portLine)),
    "",
    "",
  ].join("\n");
}

function modeLines({ Spec: { Mode } }: ApiService): string[] {
  if (Mode.Replicated !== undefined) {
    return ["Service Mode:\tReplicated", ` Replicas:\t${Mode.Replicated.Replicas ?? 1}`];
  }
  if (Mode.ReplicatedJob !== undefined) {
    const { MaxConcurrent = 1, TotalCompletions = 1 } = Mode.ReplicatedJob;
    return [
      "Service Mode:\tReplicatedJob",
      ` Max Concurrent:\t${MaxConcurrent}`,
      ` Total Completions:\t${TotalCompletions}`,
    ];
  }
  return [`Service Mode:\t${Mode.GlobalJob === undefined ? "Global" : "GlobalJob"}`];
}

function updateStatusLines({ UpdateStatus }: ApiService, nowMs: number): string[] {
  if (UpdateStatus?.State === undefined || UpdateStatus.State === "") return [];
  const { State, StartedAt, CompletedAt, Message } = UpdateStatus;
  return [
    "UpdateStatus:",
    ` State:\t\t${State}`,
    ...(StartedAt === undefined ? [] : [` Started:\t${ago(StartedAt, nowMs).toLowerCase()}`]),
    ...(CompletedAt === undefined ? [] : [` Completed:\t${ago(CompletedAt, nowMs).toLowerCase()}`]),
    ` Message:\t${Message ?? ""}`,
  ];
}

function updateConfigLines(title: string, orderLabel: string, config: ApiUpdateConfig | undefined): string[] {
  if (config === undefined) return [];
  return [
    title,
    ` Parallelism:\t${config.Parallelism}`,
    ...(config.Delay ? [` Delay:\t\t${printNanoseconds(config.Delay)}`] : []),
    ` On failure:\t${config.FailureAction ?? "pause"}`,
    ...(config.Monitor ? [` Monitoring Period: ${printNanoseconds(config.Monitor)}`] : []),
    ` Max failure ratio: ${config.MaxFailureRatio ?? 0}`,
    `${orderLabel}${config.Order ?? "stop-first"}`,
  ];
}

function containerLines(spec: ApiContainerSpec): string[] {
  const line = (label: string, value: string | undefined) => (value ? [` ${label}:\t\t${value}`] : []);
  const list = (label: string, values: readonly string[] = []) =>
    line(label, values.map((value) => `${value} `).join(""));
  const mounts = (spec.Mounts ?? []).flatMap((mount) => [
    ` Target:\t${mount.Target}`,
    `  Source:\t${mount.Source ?? ""}`,
    `  ReadOnly:\t${mount.ReadOnly ?? false}`,
    `  Type:\t\t${mount.Type}`,
  ]);
  return [
    "ContainerSpec:",
    ` Image:\t\t${spec.Image}`,
    ...list("Command", spec.Command),
    ...list("Args", spec.Args),
    ...list("Env", spec.Env),
    ...line("Dir", spec.Dir),
    ...line("User", spec.User),
    ...line("Init", spec.Init === undefined ? undefined : String(spec.Init)),
    ...block("Mounts:", mounts),
  ];
}

function amounts(title: string, wanted: { NanoCPUs?: number; MemoryBytes?: number } | undefined): string[] {
  const lines = [
    ...(wanted?.NanoCPUs ? [`  CPU:\t\t${wanted.NanoCPUs / 1e9}`] : []),
    ...(wanted?.MemoryBytes ? [`  Memory:\t${printBytes(wanted.MemoryBytes)}`] : []),
  ];
  return block(title, lines);
}

function portLine({ PublishedPort = 0, Protocol, TargetPort, PublishMode }: ApiPort): string {
  return [
    ` PublishedPort = ${PublishedPort}`,
    `  Protocol = ${Protocol}`,
    `  TargetPort = ${TargetPort}`,
    `  PublishMode = ${PublishMode} `,
  ].join("\n");
}

/** A title and its lines; nothing when there are none. */
function block(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [title, ...lines];
}

function pairs(labels: Readonly<Record<string, string>>): string[] {
  return Object.keys(labels)
    .toSorted()
    .map((key) => ` ${key}=${labels[key] ?? ""}`);
}

/** 90,000,000,000 as "1m30s", 500,000,000 as "500ms"; below a microsecond in ns. */
function printNanoseconds(nanoseconds: number): string {
  const seconds = nanoseconds / 1e9;
  if (nanoseconds < 1e3) return `${nanoseconds}ns`;
  if (nanoseconds < 1e6) return `${nanoseconds / 1e3}µs`;
  if (seconds < 1) return `${nanoseconds / 1e6}ms`;
  const hours = Math.floor(seconds / 3_600);
  const minutes = Math.floor((seconds % 3_600) / 60);
  const rest = Number((seconds % 60).toFixed(9));
  return `${hours > 0 ? `${hours}h` : ""}${hours > 0 || minutes > 0 ? `${minutes}m` : ""}${rest}s`;
}

function printBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (bytes / 1024 ** power >= 1024 && power < units.length - 1) power += 1;
  return `${Number((bytes / 1024 ** power).toPrecision(4))}${units[power]}`;
}
