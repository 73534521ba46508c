import type { Labels } from "../../model/meta.ts";
import { apiTime, apiVersion } from "../../runtime/http.ts";
import type { LocalRecord } from "../containers/store.ts";
import type { HostConfig } from "../containers/config.ts";
import { lastOutcome, type Outcome } from "../containers/entry.ts";
import { cleanPath } from "../mounts/plan.ts";
import { printConfig, printHostConfig } from "./container-config-print.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import type { HealthState } from "../health/state.ts";
import type { HostPort, NetworkFiles } from "../network/network.ts";
import {
  type EndpointView,
  printEndpoints,
  printOwnBridge,
  printPortList,
  printPorts,
  sandboxId,
} from "./endpoint-print.ts";

/** What is known of a container besides the engine's record. */
export interface ContainerView {
  readonly record: ContainerRecord;
  /** Of a local container; tasks have none. */
  readonly local?: LocalRecord;
  readonly isRestarting: boolean;
  readonly execIds: readonly string[];
  readonly health: HealthState | undefined;
  readonly ports: readonly HostPort[];
  /** Ports that it says it serves, while it runs. */
  readonly exposed: readonly string[];
  readonly endpoints: readonly EndpointView[];
  /** Files of its own in /etc, while it runs. */
  readonly files?: NetworkFiles;
  /** Path of its network namespace while it runs with one of its own. */
  readonly sandbox: string | undefined;
}

/** "running", "exited", …: the API's word for the container's state. */
export function stateWord({
  record: { status },
  isRestarting,
}: Pick<ContainerView, "record" | "isRestarting">):
  | "created"
  | "running"
  | "paused"
  | "restarting"
  | "exited" {
  if (isRestarting) return "restarting";
  switch (status.state) {
    case "created":
      return "created";
    case "running":
      return status.paused === true ? "paused" : "running";
    case "stopped":
      return status.startedAtMs === undefined ? "created" : "exited";
  }
}

/** One item of `GET /containers/json`. */
export function printListed(view: ContainerView, nowMs: number): object {
  const { record } = view;
  return {
    Id: record.id,
    Names: [`/${record.name}`],
    Image: record.image,
    ImageID: record.imageId,
    Command: record.args.map(quoted).join(" "),
    Created: Math.floor(record.createdAtMs / 1_000),
    Ports: printPortList(view.ports, view.exposed),
    Labels: record.labels,
    State: stateWord(view),
    Status: printStatus(view, nowMs),
    HostConfig: { NetworkMode: networkMode(view) },
    NetworkSettings: { Networks: printEndpoints(record.id, view.endpoints, apiVersion) },
    Mounts: printMounts(view),
  };
}

/** As a shell would want it, roughly: that is how Docker shows commands. */
function quoted(arg: string, index: number): string {
  return index > 0 && arg.includes(" ") ? `'${arg}'` : arg;
}

/** `GET /containers/{id}/json` */
export function printInspected(view: ContainerView, version: string): object {
  const { record } = view;
  const { nanoCpus = 0, memoryBytes = 0, pids = 0 } = record.resources.limits ?? {};
  const [path = "", ...args] = record.args;
  const { local } = view;
  const environment = {
    Hostname: record.hostname,
    User: record.user,
    Tty: record.tty,
    Env: record.env,
    Cmd: record.args,
    Entrypoint: null,
    Image: record.image,
    WorkingDir: record.workingDir,
    Labels: record.labels satisfies Labels,
    StopSignal: record.stopSignal,
  };
  return {
    Id: record.id,
    Created: apiTime(record.createdAtMs),
    Path: path,
    Args: args,
    State: printState(view),
    Image: record.imageId,
    ResolvConfPath: view.files?.resolvConf ?? "",
    HostnamePath: view.files?.hostname ?? "",
    HostsPath: view.files?.hosts ?? "",
    LogPath: "",
    Name: `/${record.name}`,
    RestartCount: local?.restartCount ?? 0,
    Driver: "overlayfs",
    Platform: "linux",
    MountLabel: "",
    ProcessLabel: "",
    AppArmorProfile: "",
    ExecIDs: view.execIds.length === 0 ? null : view.execIds,
    HostConfig:
      local === undefined
        ? {
            NetworkMode: networkMode(view),
            RestartPolicy: { Name: "no", MaximumRetryCount: 0 },
            LogConfig: { Type: record.logDriver, Config: {} },
            NanoCpus: nanoCpus,
            Memory: memoryBytes,
            PidsLimit: pids,
          }
        : printHostConfig(local.hostConfig),
    GraphDriver: { Name: "overlayfs", Data: null },
    Mounts: printMounts(view),
    Config: local === undefined ? environment : printConfig(local.config, record.hostname),
    NetworkSettings: {
      Bridge: "",
      SandboxID: view.sandbox === undefined ? "" : sandboxId(record.id),
      SandboxKey: view.sandbox ?? "",
      Ports: printPorts(view.ports, view.exposed),
      HairpinMode: false,
      LinkLocalIPv6Address: "",
      LinkLocalIPv6PrefixLen: 0,
      SecondaryIPAddresses: null,
      SecondaryIPv6Addresses: null,
      ...printOwnBridge(record.id, view.endpoints),
      Networks: printEndpoints(record.id, view.endpoints, version),
    },
  };
}

function printState(view: ContainerView): object {
  const { record, health, isRestarting } = view;
  const { status } = record;
  const exit = status.state === "stopped" ? status.exit : undefined;
  const last = outcomeIn(view);
  const startedAtMs = status.state === "created" ? undefined : status.startedAtMs;
  return {
    Status: stateWord(view),
    Running: status.state === "running" || isRestarting,
    Paused: status.state === "running" && status.paused === true,
    Restarting: isRestarting,
    OOMKilled: status.state === "running" ? status.oomKilled : (exit?.oomKilled ?? false),
    Dead: false,
    Pid: status.state === "running" ? status.pid : 0,
    ExitCode: last.exitCode,
    Error: last.error,
    StartedAt: apiTime(startedAtMs),
    FinishedAt: apiTime(exit?.atMs),
    ...(health !== undefined && {
      Health: {
        Status: health.status,
        FailingStreak: health.failingStreak,
        Log: health.log.map(({ startedAtMs: startMs, endedAtMs, exitCode, output }) => ({
          Start: apiTime(startMs),
          End: apiTime(endedAtMs),
          ExitCode: exitCode,
          Output: output,
        })),
      },
    }),
  };
}

/** Of the last run, or of the start that failed; nothing while it runs. */
export function outcomeIn({ record: { status }, local }: Pick<ContainerView, "record" | "local">): Outcome {
  if (status.state === "running") return { exitCode: 0, error: "" };
  return lastOutcome(status.state === "stopped" ? status.exit : undefined, local);
}

/** Such as "Up 3 minutes (healthy)" and "Exited (0) 5 seconds ago". */
export function printStatus(
  {
    record,
    local,
    health,
    isRestarting,
  }: Pick<ContainerView, "record" | "local" | "health" | "isRestarting">,
  nowMs: number,
): string {
  const { status } = record;
  if (isRestarting && status.state === "stopped") {
    return `Restarting (${status.exit.exitCode}) ${printDuration(nowMs - status.exit.atMs)} ago`;
  }
  switch (status.state) {
    case "created":
      return "Created";
    case "running": {
      const up = `Up ${printDuration(nowMs - status.startedAtMs)}`;
      if (status.paused === true) return `${up} (Paused)`;
      if (health === undefined) return up;
      return `${up} (${health.status === "starting" ? "health: starting" : health.status})`;
    }
    case "stopped":
      if (status.startedAtMs === undefined) return "Created";
      return `Exited (${lastOutcome(status.exit, local).exitCode}) ${printDuration(nowMs - status.exit.atMs)} ago`;
  }
}

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** As Docker words durations: whole units, rounded down, hours up to two days. */
export function printDuration(ms: number): string {
  const hours = Math.round(ms / hour);
  if (ms < second) return "Less than a second";
  if (ms < 2 * second) return "1 second";
  if (ms < minute) return `${Math.floor(ms / second)} seconds`;
  if (ms < 2 * minute) return "About a minute";
  if (ms < hour) return `${Math.floor(ms / minute)} minutes`;
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 14) return `${Math.floor(ms / day)} days`;
  if (hours < 24 * 60) return `${Math.floor(ms / day / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(ms / day / 30)} months`;
  return `${Math.floor(ms / day / 365)} years`;
}

/** Those of `--tmpfs` are settings of the host configuration alone, as with Docker. */
function printMounts({ record, local }: ContainerView): object[] {
  const host = local?.hostConfig;
  const plain = new Set(Object.keys(host?.Tmpfs ?? {}).map(cleanPath));
  return record.mounts
    .filter(({ type, target }) => type !== "tmpfs" || !plain.has(target))
    .map((mount) => {
      const { mode, propagation } = askedOf(mount, host);
      return {
        Type: mount.type,
        ...(mount.name !== undefined && { Name: mount.name }),
        Source: mount.source,
        Destination: mount.target,
        ...(mount.type === "volume" && { Driver: "local" }),
        Mode: mode,
        RW: !mount.readOnly,
        Propagation: mount.type === "bind" ? propagation || "rprivate" : "",
      };
    });
}

/** How its line of `Binds` ends, or what `Mounts` says of it; a volume that has a name is shown as "z" where nothing is said. */
function askedOf(
  { type, target }: ContainerRecord["mounts"][number],
  host: HostConfig | undefined,
): { readonly mode: string; readonly propagation: string } {
  for (const line of host?.Binds ?? []) {
    const [, destination = "", mode = ""] = line.split(":");
    if (cleanPath(destination) !== target) continue;
    const propagation = mode.split(",").find((word) => /^r?(private|shared|slave)$/.test(word)) ?? "";
    return { mode: mode === "" && type === "volume" ? "z" : mode, propagation };
  }
  const asked = host?.Mounts.find(({ Target }) => cleanPath(Target) === target);
  return { mode: asked !== undefined && type === "volume" ? "z" : "", propagation: asked?.Propagation ?? "" };
}

function networkMode({ local, record: { network } }: ContainerView): string {
  if (local !== undefined) return local.hostConfig.NetworkMode;
  return network.kind === "namespace" ? "default" : network.kind;
}
