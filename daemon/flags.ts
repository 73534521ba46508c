import { Command, InvalidArgumentError, Option } from "commander";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { errorText } from "../model/errors.ts";
import { parseGenericResources } from "../model/generic-resource.ts";
import type { HostSettings, ProxySettings } from "../proto/host.ts";

const defaultStateDir = "/var/lib/shoal";
const defaultRunDir = "/run/shoal";
/** Docker's, so that what was set up for it goes on working. */
const defaultCertificates = "/etc/docker/certs.d";
/** Docker's, whose members are those that use containers on this host. */
const defaultGroup = "docker";
/** Beside Docker's 172.17.0.0/16 and its followers, and outside the overlay pool 10.0.0.0/8. */
const defaultBridgeSubnet = "172.29.0.0/16";

/** What the command line of shoald says, with every default filled in. */
export interface DaemonSettings {
  readonly host: HostSettings;
  /** True: shoald runs containerd itself; false: somebody else does. */
  readonly ownContainerd: boolean;
}

interface Flags {
  stateDir: string;
  runDir: string;
  socket?: string;
  group?: number;
  hostname: string;
  containerd?: string;
  runtime: string;
  cgroupParent: string;
  insecureRegistry: string[];
  registryMirror: string[];
  registryCerts?: string[];
  httpProxy?: string;
  httpsProxy?: string;
  /** `true` without `--no-proxy`: the parser takes that for the opposite of a flag. */
  proxy: string | true;
  label: Record<string, string>;
  nodeGenericResource: string[];
  bridgeSubnet: string;
  natsServer: string;
  logLevel: HostSettings["logLevel"];
}

/** Parses the arguments after the script's name; prints help or the problem and exits by itself. */
export function parseFlags(argv: readonly string[], version: string): DaemonSettings {
  const command = new Command("shoald")
    .description("Shoal's host daemon: keeps this node's worker, manager and containerd running")
    .version(version, "-v, --version")
    .option("--state-dir <dir>", "what must survive a reboot", defaultStateDir)
    .option("--run-dir <dir>", "sockets and other short-lived files", defaultRunDir)
    .option("--socket <path>", "Docker-compatible socket (default: <run-dir>/shoal.sock)")
    .option(
      "-G, --group <group>",
      `group, by name or id, that may use the socket (default: ${defaultGroup}, where there is one)`,
      parseGroup,
    )
    .option("--hostname <name>", "name of this node in the cluster", hostname())
    .option("--containerd <socket>", "use this containerd instead of running an own one")
    .option("--runtime <name>", "container runtime: auto, crun, runc or a path", "auto")
    .option("--cgroup-parent <path>", "cgroup under which all containers live", parseCgroup, "/shoal")
    .option(
      "--insecure-registry <host:port>",
      "registry, or CIDR of registries, to use without verified TLS or over plain HTTP (repeatable)",
      collect,
      [],
    )
    .option("--registry-mirror <url>", "registry to ask before Docker Hub (repeatable)", collectMirror, [])
    .option(
      "--registry-certs <dir>",
      `directory with one of certificates for each registry (repeatable; default: ${defaultCertificates})`,
      (value: string, previous: string[] | undefined) => [...(previous ?? []), resolve(value)],
    )
    .option("--http-proxy <url>", "proxy to registries without TLS (default: $HTTP_PROXY)")
    .option("--https-proxy <url>", "proxy to registries with TLS (default: $HTTPS_PROXY)")
    .option("--no-proxy <list>", "hosts, domains and CIDRs reached without a proxy (default: $NO_PROXY)")
    .option("--label <key=value>", "engine label of this node (repeatable)", collectLabel, {})
    .option(
      "--node-generic-resource <kind=value>",
      "what this node offers beyond CPU and memory: gpu=2, or by name gpu=UUID1,gpu=UUID2 (repeatable)",
      collectGeneric,
      [],
    )
    .option("--bridge-subnet <cidr>", "addresses of the host's own bridge", parseCidr, defaultBridgeSubnet)
    .option("--nats-server <path>", "nats-server binary", "nats-server")
    .addOption(
      new Option("--log-level <level>", "least important line to write")
        .choices(["debug", "info", "warn", "error"])
        .default("info"),
    )
    .allowExcessArguments(false)
    .parse([...argv], { from: "user" });
  const flags = command.opts<Flags>();
  const stateDir = resolve(flags.stateDir);
  const runDir = resolve(flags.runDir);
  const socketGroup = flags.group ?? findGroup(defaultGroup);
  return {
    ownContainerd: flags.containerd === undefined,
    host: {
      stateDir,
      runDir,
      socket: resolve(flags.socket ?? join(runDir, "shoal.sock")),
      ...(socketGroup !== undefined && { socketGroup }),
      managerSocket: join(runDir, "manager.sock"),
      hostname: flags.hostname,
      containerd: flags.containerd ?? join(runDir, "containerd", "containerd.sock"),
      ...(flags.containerd === undefined && { containerdRoot: join(stateDir, "containerd", "root") }),
      runtime: flags.runtime === "auto" ? chooseRuntime() : flags.runtime,
      runtimeRoot: join(runDir, "runtime"),
      cgroupParent: flags.cgroupParent,
      insecureRegistries: flags.insecureRegistry,
      registryMirrors: flags.registryMirror,
      registryCertificates: flags.registryCerts ?? [defaultCertificates],
      proxies: readProxies(flags, process.env),
      engineLabels: flags.label,
      genericResources: parseGenericResources(flags.nodeGenericResource),
      bridgeSubnet: flags.bridgeSubnet,
      natsServer: flags.natsServer,
      logLevel: flags.logLevel,
    },
  };
}

/** From wherever the host has its groups. @returns undefined when it has none of that name. */
function findGroup(name: string): number | undefined {
  const { status, stdout } = spawnSync("getent", ["group", name], { encoding: "utf8" });
  return status === 0 ? Number(stdout.split(":")[2]) : undefined;
}

function parseGroup(value: string): number {
  const id = /^\d+$/.test(value) ? Number(value) : findGroup(value);
  if (id === undefined) throw new InvalidArgumentError(`there is no group '${value}' on this host`);
  return id;
}

/** As Docker's daemon reads them: what is written in capitals comes first. */
export function readProxies(
  flags: Partial<Pick<Flags, "httpProxy" | "httpsProxy" | "proxy">>,
  environment: Readonly<Record<string, string | undefined>>,
): ProxySettings {
  const either = (name: string): string => environment[name] || environment[name.toLowerCase()] || "";
  return {
    httpProxy: flags.httpProxy ?? either("HTTP_PROXY"),
    httpsProxy: flags.httpsProxy ?? either("HTTPS_PROXY"),
    noProxy: typeof flags.proxy === "string" ? flags.proxy : either("NO_PROXY"),
  };
}

/** crun starts containers in half the time of runc, but refuses hosts with both cgroup versions mounted. */
function chooseRuntime(): string {
  const hybrid = existsSync("/sys/fs/cgroup/unified/cgroup.procs");
  return !hybrid && findBinary("crun") !== undefined ? "crun" : "runc";
}

/** Full path of a program, searched for where a shell would and in the system directories. */
export function findBinary(name: string): string | undefined {
  if (name.includes("/")) return existsSync(name) ? name : undefined;
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

function collect(value: string, previous: string[]): string[] {
  return [...previous, value];
}

function collectMirror(value: string, previous: string[]): string[] {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  const isPlain =
    url !== undefined && /^https?:$/.test(url.protocol) && url.pathname === "/" && url.search === "";
  if (!isPlain || url.username !== "" || url.hash !== "")
    throw new InvalidArgumentError(`expected an address such as https://mirror:5000, got '${value}'`);
  return [...previous, url.origin];
}

function collectLabel(value: string, previous: Record<string, string>): Record<string, string> {
  const split = value.indexOf("=");
  if (split < 1) throw new InvalidArgumentError(`expected key=value, got '${value}'`);
  return { ...previous, [value.slice(0, split)]: value.slice(split + 1) };
}

/** Each is checked with those before it: what contradicts is refused where it stands. */
function collectGeneric(value: string, previous: string[]): string[] {
  const all = [...previous, value];
  try {
    parseGenericResources(all);
  } catch (reason) {
    throw new InvalidArgumentError(errorText(reason));
  }
  return all;
}

function parseCgroup(value: string): string {
  if (!/^(\/[\w.-]+)+$/.test(value) || value.split("/").includes("..")) {
    throw new InvalidArgumentError(`expected a path from the root such as /shoal, got '${value}'`);
  }
  return value;
}

function parseCidr(value: string): string {
  const match = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\/(\d+)$/.exec(value);
  const numbers = match?.slice(1).map(Number) ?? [];
  const valid = numbers.length === 5 && numbers.slice(0, 4).every((part) => part <= 255);
  const bits = numbers[4] ?? 0;
  if (!valid || bits < 8 || bits > 28) {
    throw new InvalidArgumentError(
      `expected an IPv4 subnet such as ${defaultBridgeSubnet} (/8 to /28), got '${value}'`,
    );
  }
  return value;
}
