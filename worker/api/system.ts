import { createHash } from "node:crypto";
import type { GenericOffer } from "../../model/generic-resource.ts";
import { noProxies } from "../../proto/host.ts";
import { apiTime, apiVersion, minApiVersion, productVersion } from "../../runtime/http.ts";
import { limitWarnings } from "../engine/host-limits.ts";
import { maskCredentials } from "../engine/proxies.ts";
import type { FrontDoorDeps, NodeView } from "./deps.ts";
import { askManager, isManager } from "./forward.ts";

const noSwarm = {
  NodeID: "",
  NodeAddr: "",
  LocalNodeState: "inactive",
  ControlAvailable: false,
  Error: "",
  RemoteManagers: null,
};

const noOffer: GenericOffer = { generic: {}, named: {} };

/** Go's names of the architectures that `uname -m` prints. */
const goArchitectures: Readonly<Record<string, string>> = { x86_64: "amd64", aarch64: "arm64" };

/** Header `Swarm` of `/_ping`: state, and the role of a member. */
export function swarmHeader({ state, identity }: NodeView): string {
  return state === "active" && identity !== undefined ? `active/${identity.role}` : state;
}

/** `GET /version` */
export async function version(deps: FrontDoorDeps): Promise<object> {
  const info = await deps.engine.info();
  const common = {
    Version: productVersion,
    ApiVersion: apiVersion,
    MinAPIVersion: minApiVersion,
    GitCommit: "",
    GoVersion: "",
    Os: "linux",
    Arch: goArchitecture(info.architecture),
    KernelVersion: info.kernelVersion,
    BuildTime: "",
  };
  const { Version: _version, ...details } = common;
  return {
    Platform: { Name: "Shoal" },
    Components: [
      { Name: "Engine", Version: productVersion, Details: { ...details, Experimental: "false" } },
      { Name: "containerd", Version: info.version, Details: { GitCommit: info.revision } },
      { Name: info.runtime, Version: info.runtimeVersion, Details: {} },
    ],
    ...common,
  };
}

/** `GET /info`, every field that clients read; `Swarm` is always there. */
export async function info(deps: FrontDoorDeps): Promise<object> {
  const { engine, settings, clock } = deps;
  const { proxies = noProxies } = settings;
  const [facts, containers, images, swarm] = await Promise.all([
    engine.info(),
    engine.list(),
    engine.images(),
    swarmInfo(deps),
  ]);
  const { limits } = facts;
  const running = containers.filter(({ status }) => status.state === "running").length;
  const paused = containers.filter(
    ({ status }) => status.state === "running" && status.paused === true,
  ).length;
  const warnings = [
    ...(facts.connected
      ? []
      : ["WARNING: containerd does not answer; containers run on, nothing can be started"]),
    ...facts.warnings,
    ...limitWarnings(limits, facts.cgroupVersion),
  ];
  return {
    ID: createHash("sha256").update(`${settings.hostname}\n${settings.stateDir}`).digest("hex").slice(0, 32),
    Containers: containers.length,
    ContainersRunning: running - paused,
    ContainersPaused: paused,
    ContainersStopped: containers.length - running,
    Images: new Set(images.map(({ id }) => id)).size,
    Driver: facts.storageDriver,
    DriverStatus: [["Engine", `containerd ${facts.version}`]],
    Plugins: {
      Volume: ["local"],
      Network: ["bridge", "host", "null", "overlay"],
      Authorization: null,
      Log: ["json-file", "local", "none"],
    },
    MemoryLimit: limits.memory,
    SwapLimit: limits.swap,
    CpuCfsPeriod: limits.cpuPeriod,
    CpuCfsQuota: limits.cpuQuota,
    CPUShares: limits.cpuShares,
    CPUSet: limits.cpuset,
    PidsLimit: limits.pids,
    IPv4Forwarding: true,
    Debug: settings.logLevel === "debug",
    NFd: 0,
    OomKillDisable: limits.oomKillDisable,
    NGoroutines: 0,
    SystemTime: apiTime(clock.now()),
    LoggingDriver: "json-file",
    CgroupDriver: "cgroupfs",
    CgroupVersion: String(facts.cgroupVersion),
    NEventsListener: 0,
    KernelVersion: facts.kernelVersion,
    OperatingSystem: facts.operatingSystem,
    OSVersion: "",
    OSType: "linux",
    Architecture: facts.architecture,
    IndexServerAddress: "https://index.docker.io/v1/",
    RegistryConfig: registryConfig(settings),
    NCPU: facts.cpuCount,
    MemTotal: facts.memoryBytes,
    GenericResources: genericResources(settings.genericResources),
    DockerRootDir: facts.rootDir,
    HttpProxy: maskCredentials(proxies.httpProxy),
    HttpsProxy: maskCredentials(proxies.httpsProxy),
    NoProxy: proxies.noProxy,
    Name: settings.hostname,
    Labels: Object.entries(settings.engineLabels).map(([key, value]) => `${key}=${value}`),
    ExperimentalBuild: false,
    ServerVersion: productVersion,
    Runtimes: { [facts.runtime]: { path: settings.runtime } },
    DefaultRuntime: facts.runtime,
    Swarm: swarm,
    LiveRestoreEnabled: true,
    Isolation: "",
    InitBinary: "",
    ContainerdCommit: { ID: facts.revision },
    RuncCommit: { ID: "" },
    InitCommit: { ID: "" },
    SecurityOptions: [
      "name=seccomp,profile=builtin",
      ...(facts.cgroupVersion === 2 ? ["name=cgroupns"] : []),
    ],
    Warnings: warnings.length > 0 ? warnings : null,
  };
}

/** A manager speaks for itself; without it, and on workers, there is what shoald and the session know. */
async function swarmInfo(deps: FrontDoorDeps): Promise<object> {
  const { state, error, identity, managers } = deps.node();
  const local = { ...noSwarm, LocalNodeState: state, Error: error };
  if (identity === undefined) return local;
  const member = {
    ...local,
    NodeID: identity.nodeId,
    NodeAddr: identity.dataPathAddress,
    RemoteManagers: managers.map(({ nodeId, address }) => ({ NodeID: nodeId, Addr: address })),
  };
  if (!isManager(deps)) return member;
  try {
    return (await askManager(deps, "/shoal/v1/swarm-info")) as object;
  } catch (reason) {
    return { ...member, Error: error === "" ? (reason as Error).message : error };
  }
}

/** As the node's description lists them; clients expect null for none. */
function genericResources({ generic, named }: GenericOffer = noOffer): object[] | null {
  const listed = Object.entries(generic).flatMap(([kind, count]): object[] => {
    const names = named[kind];
    if (names === undefined) return [{ DiscreteResourceSpec: { Kind: kind, Value: count } }];
    return names.map((name) => ({ NamedResourceSpec: { Kind: kind, Value: name } }));
  });
  return listed.length === 0 ? null : listed;
}

function registryConfig({ insecureRegistries, registryMirrors = [] }: FrontDoorDeps["settings"]): object {
  const mirrors = registryMirrors.map((mirror) => `${mirror}/`);
  const hub = { Name: "docker.io", Mirrors: mirrors, Secure: true, Official: true };
  const blocks = insecureRegistries.filter((name) => name.includes("/"));
  const insecure = insecureRegistries
    .filter((name) => !name.includes("/"))
    .map((name) => [name, { Name: name, Mirrors: [], Secure: false, Official: false }]);
  return {
    InsecureRegistryCIDRs: ["::1/128", "127.0.0.0/8", ...blocks],
    IndexConfigs: { "docker.io": hub, ...Object.fromEntries(insecure) },
    Mirrors: mirrors,
  };
}

function goArchitecture(machine: string): string {
  return goArchitectures[machine] ?? machine;
}
