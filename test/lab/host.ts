import { existsSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { LabCgroup, signal } from "./cgroup.ts";
import { hostAddress, hostIpv6, registryAddress, type Lan } from "./lan.ts";
import { readProcess, spawnInside, type ProcessInfo } from "./process.ts";
import { run, tryRun, waitFor } from "./shell.ts";
import { bundledFile } from "../../runtime/programs.ts";

export type HostRole = "manager" | "worker";
export type HostProcess = (typeof hostProcesses)[number];
export const hostProcesses = ["shoald", "worker", "manager", "containerd"] as const;

/** What a host runs: the product; only a containerd, for tests of the engine; or Docker's daemon, to compare with. */
export type HostPayload = "shoald" | "containerd" | "dockerd";

export interface HostOptions {
  /** The lab's name; the first part of the names of namespaces and cgroups. */
  readonly lab: string;
  /** From 1. */
  readonly index: number;
  readonly role: HostRole;
  /** The lab's directory; the host's disk is `<dir>/host<index>`. */
  readonly dir: string;
  readonly payload: HostPayload;
}

/**
 * The first process of a host: makes it a machine of its own, then keeps the payload running as systemd would. Its own
 * PID namespace means that its end is the end of everything on the host, at once, as with a power cut; its own `/run` is
 * empty after every boot. The cgroup v2 tree beside v1 is unmounted, because crun refuses to run under such a hybrid; it
 * makes files where the tree was all the same, and the tmpfs there lets them go with the host.
 */
const initScript = `
hostname "$1"; shift
if grep -q ' /sys/fs/cgroup/unified ' /proc/self/mounts; then
  umount /sys/fs/cgroup/unified
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup/unified
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/shoal
while :; do
  "$@" &
  wait $!
  echo "lab: $1 ended with code $?; starting it again"
  sleep 0.2
done
`;

const runDir = "/run/shoal";

const socketNames: Readonly<Record<HostPayload, string>> = {
  shoald: "shoal.sock",
  containerd: "containerd.sock",
  dockerd: "docker.sock",
};

/** One host of the lab: boot it, kill it, look into it. */
export class Host {
  readonly name: string;
  readonly addr: string;
  readonly ipv6: string;
  readonly netns: string;
  readonly role: HostRole;
  readonly dir: string;
  /** The Docker-compatible socket. */
  readonly socket: string;
  readonly index: number;
  readonly #payload: HostPayload;
  readonly #cgroup: LabCgroup;
  readonly #lan: Lan;

  constructor(lan: Lan, { lab, index, role, dir, payload }: HostOptions) {
    this.name = `host${index}`;
    this.addr = hostAddress(index);
    this.ipv6 = hostIpv6(index);
    this.netns = `${lab}${index}`;
    this.role = role;
    this.dir = `${dir}/${this.name}`;
    this.socket = `${this.dir}/${socketNames[payload]}`;
    this.index = index;
    this.#payload = payload;
    this.#cgroup = new LabCgroup(this.netns);
    this.#lan = lan;
  }

  /** Boots the host with whatever its disk holds. Its socket answers some time later. */
  async boot(): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    await run(["ip", "netns", "add", this.netns]);
    await this.#lan.plug(this.netns, this.index);
    await run(["ip", "-n", this.netns, "-batch", "-"], {
      input: [
        "link set lo up",
        `addr add ${this.addr}/24 dev eth0`,
        `addr add ${this.ipv6}/64 dev eth0 nodad`,
        "link set eth0 up",
        "route add default via 10.230.0.254",
      ].join("\n"),
    });
    await this.#cgroup.create();
    const namespaces = [
      "--fork",
      "--pid",
      "--mount",
      "--uts",
      "--ipc",
      "--mount-proc",
      "--propagation",
      "slave",
    ];
    spawnInside({ procsFile: this.#cgroup.procsFile, netns: this.netns, logFile: `${this.dir}/shoald.log` }, [
      "unshare",
      ...namespaces,
      "sh",
      "-c",
      initScript,
      "init",
      this.name,
      ...(await this.#command()),
    ]);
  }

  /**
   * Cuts the power: the wire goes first, so that the others hear nothing of the end; then all processes, containers
   * included, die at once. The disk stays.
   */
  async kill(): Promise<void> {
    await this.#lan.unplug(this.index);
    await this.#cgroup.killAll();
    await tryRun(["ip", "netns", "del", this.netns]);
    await this.#cgroup.remove();
    await rm(this.socket, { force: true });
  }

  pause(): Promise<void> {
    return this.#cgroup.freeze();
  }

  resume(): Promise<void> {
    return this.#cgroup.thaw();
  }

  async state(): Promise<"up" | "paused" | "dead"> {
    if ((await this.#cgroup.pids()).length === 0) return "dead";
    return (await this.#cgroup.isFrozen()) ? "paused" : "up";
  }

  /** From now on `processorMs` counts. */
  countProcessorTime(): Promise<void> {
    return this.#cgroup.countProcessorTime();
  }

  /** User and system time of everything that runs or ran on the host, containers included. */
  processorMs(): Promise<number> {
    return this.#cgroup.processorMs();
  }

  /** All processes of the host, those of its containers included. */
  async processes(): Promise<ProcessInfo[]> {
    const all = await Promise.all((await this.#cgroup.pids()).map(readProcess));
    return all.filter((info) => info !== undefined);
  }

  /** Those of the product's processes that run now. */
  async ownProcesses(): Promise<Partial<Record<HostProcess | "nats-server" | "dockerd", ProcessInfo>>> {
    const all = await this.processes();
    const init = all.find(isInit);
    const children = (parent: ProcessInfo | undefined): ProcessInfo[] =>
      parent === undefined ? [] : all.filter((info) => info.parentPid === parent.pid);
    const shoald = children(init).find((info) => /\bshoald\b/.test(info.argv.slice(0, 3).join(" ")));
    const ofShoald = (word: string): ProcessInfo | undefined =>
      children(shoald).find((info) => new RegExp(`\\b${word}\\b`).test(info.argv.slice(0, 3).join(" ")));
    const named = (name: string): ProcessInfo | undefined =>
      all.find((info) => info.executable === name && info.depth === 2);
    const found = {
      shoald,
      worker: ofShoald("worker"),
      manager: ofShoald("manager"),
      containerd: named("containerd"),
      "nats-server": named("nats-server"),
      dockerd: named("dockerd"),
    };
    return Object.fromEntries(Object.entries(found).filter(([, info]) => info !== undefined));
  }

  /** Sends a signal to one of the product's processes and returns the PID it had. */
  async signalProcess(name: HostProcess, signalName: NodeJS.Signals = "SIGKILL"): Promise<number> {
    const found = (await this.ownProcesses())[name];
    if (found === undefined)
      throw new Error(`cannot signal ${name} on ${this.name}: no such process runs there`);
    signal(found.pid, signalName);
    return found.pid;
  }

  /** Runs a command inside the host: its network, mounts, processes and name. */
  async exec(argv: readonly string[]): Promise<string> {
    const init = (await this.processes()).find(isInit);
    if (init === undefined)
      throw new Error(`cannot run ${argv[0] ?? ""} on ${this.name}: the host is not up`);
    const enter = ["nsenter", "-t", String(init.pid), "-n", "-m", "-p", "-u", "-i", "--", ...argv];
    return run(["sh", "-c", 'echo $$ >"$0" && exec "$@"', this.#cgroup.procsFile, ...enter]);
  }

  /** Waits until the payload's socket takes connections. */
  async waitForSocket(timeoutMs: number, look: () => Promise<boolean>): Promise<void> {
    await waitFor(`answer on ${this.socket}; see ${this.dir}/shoald.log`, { timeoutMs }, look);
  }

  #command(): Promise<string[]> | string[] {
    switch (this.#payload) {
      case "shoald":
        return this.#shoaldCommand();
      case "containerd":
        return this.#containerdCommand();
      case "dockerd":
        return this.#dockerdCommand();
    }
  }

  #shoaldCommand(): string[] {
    const main = fileURLToPath(bundledFile("shoald"));
    if (!existsSync(main))
      throw new Error(`cannot boot ${this.name}: ${main} is missing: run npm run build first`);
    const flags = {
      "state-dir": `${this.dir}/state`,
      "run-dir": runDir,
      socket: this.socket,
      hostname: this.name,
      runtime: "crun",
      "cgroup-parent": this.#cgroup.containersParent,
      "insecure-registry": registryAddress,
      label: `rack=${this.index % 2 === 1 ? "a" : "b"}`,
      "log-level": "info",
    };
    return [
      process.execPath,
      main,
      ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]),
    ];
  }

  async #containerdCommand(): Promise<string[]> {
    const config = `${this.dir}/containerd.toml`;
    await writeFile(config, 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n');
    const paths = [
      "--root",
      `${this.dir}/containerd`,
      "--state",
      `${runDir}/containerd`,
      "--address",
      this.socket,
    ];
    return ["containerd", "--config", config, "--log-level", "warn", ...paths];
  }

  #dockerdCommand(): string[] {
    const paths = [
      "--data-root",
      `${this.dir}/data`,
      "--exec-root",
      "/run/docker",
      "--pidfile",
      "/run/docker.pid",
    ];
    const network = ["--userland-proxy=false", "--insecure-registry", registryAddress];
    const others = [
      "--storage-driver",
      "overlay2",
      "--cgroup-parent",
      this.#cgroup.containersParent,
      "-l",
      "warn",
    ];
    return ["dockerd", "-H", `unix://${this.socket}`, ...paths, ...network, ...others];
  }
}

/** The host's first process: process 1 of the namespace right below this machine's. */
function isInit(info: ProcessInfo): boolean {
  return info.depth === 2 && info.innerPid === 1;
}
