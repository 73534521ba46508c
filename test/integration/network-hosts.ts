/** Three hosts as network namespaces joined by a bridge, each with a `network-child.ts` inside. */
import { spawn, spawnSync } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { ClusterError } from "../../model/errors.ts";
import type { ErrorCode } from "../../model/errors.ts";
import type { NetworkId, NodeId, TaskId } from "../../model/ids.ts";
import type { NodeTunnel } from "../../model/node.ts";
import type { Finding } from "../../worker/network/examine.ts";
import type {
  Attached,
  AttachedRecord,
  AttachRequest,
  BridgeNetwork,
  HostOffer,
  OverlayEndpoint,
  OverlayHost,
  OverlayNetwork,
  WantedNetworks,
} from "../../worker/network/network.ts";
import { tunnelDevices } from "../../worker/network/tunnel-plan.ts";
import type { ChildCall, ChildReply } from "./network-child.ts";

/** Where a world of that name has its files, and how its namespaces' names begin: several may be there at once. */
const directoryOf = (world: string): string => `/tmp/shoal-network-test-${world}`;
const prefixOf = (world: string): string => `shoal${world}`;
export const hostCount = 3;
const childFile = fileURLToPath(new URL("network-child.js", import.meta.url));
/** Begins the command line of `network-probe.ts`. */
export const probe = [process.execPath, fileURLToPath(new URL("network-probe.js", import.meta.url))] as const;
const startTimeoutMs = 20_000;

export interface CommandOutcome {
  readonly code: number;
  readonly output: string;
}

export class Host {
  readonly index: number;
  address: string;
  /** On the same link as `address`, where VXLAN does not go. */
  readonly ipv6: string;
  readonly nodeId: NodeId;
  readonly netns: string;
  readonly runDir: string;
  readonly warnings: string[] = [];
  #child: ChildProcess | undefined;
  #nextId = 1;
  readonly #waiting = new Map<number, (reply: ChildReply) => void>();

  readonly #resolvConf: string;

  constructor(world: string, index: number) {
    this.index = index;
    this.address = `10.233.0.${index}`;
    this.ipv6 = `fd00:233::${index}`;
    this.nodeId = `node${index}` as NodeId;
    this.netns = `/run/netns/${prefixOf(world)}${index}`;
    this.runDir = join(directoryOf(world), `host${index}`);
    this.#resolvConf = join(directoryOf(world), "resolv.conf");
  }

  async start(): Promise<void> {
    const child = spawn(
      "nsenter",
      [`--net=${this.netns}`, process.execPath, childFile, this.runDir, this.#resolvConf],
      { stdio: ["ignore", "inherit", "inherit", "ipc"] },
    );
    this.#child = child;
    const ready = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`host ${this.index} does not start`)), startTimeoutMs);
      this.#waiting.set(0, () => {
        clearTimeout(timer);
        resolve();
      });
      child.once("exit", (code) => {
        clearTimeout(timer);
        reject(new Error(`host ${this.index} ended with ${code}`));
      });
    });
    child.on("message", (reply: ChildReply) => {
      if (reply.warning !== undefined) this.warnings.push(reply.warning);
      const resolve = this.#waiting.get(reply.id);
      this.#waiting.delete(reply.id);
      resolve?.(reply);
    });
    await ready;
  }

  /** Of the process that runs this host's network. */
  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error(`host ${this.index} is not running`);
    return this.#child.pid;
  }

  /** As `kill -9`: nothing is put in order. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => void child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  async apply(
    networks: readonly OverlayNetwork[],
    endpoints: readonly OverlayEndpoint[],
    { services = [], hosts = [] }: Partial<Pick<WantedNetworks, "services" | "hosts">> = {},
  ): Promise<void> {
    const { keys } = await this.tunnel();
    const tunnelKeys = keys.map(({ publicKey }) => publicKey); // The managers tell what they were told.
    const self = { nodeId: this.nodeId, nodeIndex: this.index, address: this.address, tunnelKeys };
    await this.#call({ method: "apply", argument: { self, networks, endpoints, services, hosts } });
  }

  async applyBridges(bridges: readonly BridgeNetwork[]): Promise<void> {
    await this.#call({ method: "applyBridges", argument: bridges });
  }

  async attach(request: Partial<AttachRequest> & { readonly taskId: TaskId }): Promise<Attached> {
    const whole: AttachRequest = {
      containerId: `c-${request.taskId}`,
      networks: [],
      host: false,
      none: false,
      ports: [],
      hostname: `host-of-${request.taskId}`,
      extraHosts: [],
      ...request,
    };
    return (await this.#call({ method: "attach", argument: whole })) as Attached;
  }

  async detach(taskId: TaskId): Promise<void> {
    await this.#call({ method: "detach", argument: taskId });
  }

  async list(): Promise<readonly AttachedRecord[]> {
    return (await this.#call({ method: "list" })) as readonly AttachedRecord[];
  }

  async examine(others: readonly Host[]): Promise<readonly Finding[]> {
    const argument = others.map(({ nodeId, index, address }) => ({
      nodeId,
      hostname: `host${index}`,
      address,
    }));
    return (await this.#call({ method: "examine", argument })) as readonly Finding[];
  }

  async tunnel(): Promise<NodeTunnel> {
    return (await this.offer()).tunnel;
  }

  async offer(): Promise<HostOffer> {
    return (await this.#call({ method: "offer" })) as HostOffer;
  }

  async replaceTunnelKey(): Promise<void> {
    await this.#call({ method: "replaceTunnelKey" });
  }

  /** How others know it. */
  async asOther(): Promise<OverlayHost> {
    const { nodeId, index, address } = this;
    return { nodeId, index, address, tunnelKeys: (await this.tunnel()).keys };
  }

  /** In the host's namespace. */
  run(...argv: readonly string[]): CommandOutcome {
    return inNamespace(this.netns, argv);
  }

  async #call(call: ChildCall): Promise<unknown> {
    const id = this.#nextId;
    this.#nextId += 1;
    const reply = await new Promise<ChildReply>((resolve, reject) => {
      if (this.#child === undefined) return reject(new Error(`host ${this.index} is not running`));
      this.#waiting.set(id, resolve);
      this.#child.send({ ...call, id });
    });
    if (reply.error !== undefined) throw new ClusterError(reply.error.code as ErrorCode, reply.error.message);
    return reply.result;
  }
}

/** Runs a command in a namespace to its end. */
export function inNamespace(path: string, argv: readonly string[]): CommandOutcome {
  const { status, stdout, stderr } = spawnSync("nsenter", [`--net=${path}`, ...argv], {
    encoding: "utf8",
    timeout: 20_000,
  });
  return { code: status ?? 128, output: stdout + stderr };
}

/** A server that lives until `stop`. */
export function serve(path: string, argv: readonly string[]): { stop(): void } {
  const child = spawn("nsenter", [`--net=${path}`, ...argv], { stdio: "ignore" });
  return { stop: () => void child.kill("SIGKILL") };
}

export class World implements AsyncDisposable {
  readonly hosts: readonly Host[];
  readonly outside: string;
  readonly outsideAddress = "10.233.0.254";
  readonly outsideIpv6 = "fd00:233::fe";
  readonly #name: string;

  private constructor(name: string, hosts: readonly Host[]) {
    this.#name = name;
    this.outside = `/run/netns/${prefixOf(name)}u`;
    this.hosts = hosts;
  }

  /** @param name - Unlike that of any other world that may be there at the same time. */
  static async open(name: string): Promise<World> {
    clear(name);
    const [directory, prefix] = [directoryOf(name), prefixOf(name)];
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, "resolv.conf"), "nameserver 10.233.0.254\nsearch example.test\n");
    command("ip", "netns", "add", `${prefix}u`);
    const lines = [
      "link set lo up",
      "link add br0 type bridge",
      "address add 10.233.0.254/24 dev br0",
      "address add fd00:233::fe/64 dev br0 nodad",
      "link set br0 up",
    ];
    const hosts = Array.from({ length: hostCount }, (_, index) => new Host(name, index + 1));
    for (const { index } of hosts) {
      command("ip", "netns", "add", `${prefix}${index}`);
      lines.push(
        `link add p${index} type veth peer name eth0 netns ${prefix}${index}`,
        `link set p${index} master br0 up`,
      );
    }
    batch(`/run/netns/${prefix}u`, lines);
    for (const { index, address, ipv6, netns } of hosts) {
      batch(netns, [
        "link set lo up",
        `address add ${address}/24 dev eth0`,
        `address add ${ipv6}/64 dev eth0 nodad`,
        "link set eth0 up",
        "route add default via 10.233.0.254",
      ]);
      inNamespace(netns, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter"]);
      mkdirSync(join(directory, `host${index}`), { recursive: true });
    }
    const world = new World(name, hosts);
    try {
      await Promise.all(hosts.map((host) => host.start()));
    } catch (reason) {
      await world[Symbol.asyncDispose]();
      throw reason;
    }
    return world;
  }

  host(index: number): Host {
    const host = this.hosts[index - 1];
    if (host === undefined) throw new Error(`there is no host ${index}`);
    return host;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.kill()));
    clear(this.#name);
  }
}

/** Mounts, namespaces and files, also those of a run that crashed. */
function clear(world: string): void {
  const [directory, prefix] = [directoryOf(world), prefixOf(world)];
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((path) => path.startsWith(`${directory}/`));
  for (const path of mounts.toReversed()) command("umount", "--lazy", path);
  for (const name of ["u", "1", "2", "3"]) {
    // A process behind a tunnel ends with its device, and would keep the namespace.
    for (const device of tunnelDevices) spawnSync("ip", ["-n", `${prefix}${name}`, "link", "delete", device]);
    spawnSync("ip", ["netns", "delete", `${prefix}${name}`]);
  }
  rmSync(directory, { recursive: true, force: true });
}

export function overlay(name: string, index: number): OverlayNetwork {
  return {
    id: `net-${name}` as NetworkId,
    name,
    subnet: `10.10.${index}.0/24`,
    gateway: `10.10.${index}.1`,
    vni: 4096 + index,
    internal: false,
    mtu: 0,
    ingress: false,
  };
}

/** With IPv6 beside IPv4. */
export function dual(name: string, index: number): OverlayNetwork {
  return {
    ...overlay(name, index),
    further: [{ subnet: `fd00:10:${index}::/64`, gateway: `fd00:10:${index}::1` }],
  };
}

export function endpoint(
  network: OverlayNetwork,
  host: Host,
  {
    task,
    address,
    service,
    ipv6,
  }: {
    readonly task: string;
    readonly address: string;
    readonly service: string;
    readonly ipv6?: string;
  },
): OverlayEndpoint {
  return {
    networkId: network.id,
    taskId: task as TaskId,
    address,
    ...(ipv6 !== undefined && { ipv6 }),
    nodeId: host.nodeId,
    nodeAddress: host.address,
    nodeIndex: host.index,
    serviceId: `id-${service}`,
    serviceName: service,
    taskName: `${service}.1.${task}`,
    aliases: [service.replace(/^.*_/, "")],
    serving: true,
  };
}

function batch(path: string, lines: readonly string[]): void {
  const result = spawnSync("nsenter", [`--net=${path}`, "ip", "-batch", "-"], {
    input: lines.map((line) => `${line}\n`).join(""),
    encoding: "utf8",
  });
  if (result.status !== 0) throw new Error(`ip in ${path}: ${result.stderr}`);
}

function command(program: string, ...args: readonly string[]): void {
  const result = spawnSync(program, args, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${program} ${args.join(" ")}: ${result.stderr}`);
}
