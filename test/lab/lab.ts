import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { LabCgroup, labCgroups } from "./cgroup.ts";
import { Host, hostProcesses, type HostPayload, type HostProcess, type HostRole } from "./host.ts";
import { Lan, registryAddress } from "./lan.ts";
import { readProcess } from "./process.ts";
import { run, tryRun } from "./shell.ts";
import { formSwarm, waitForNodes } from "./swarm.ts";

export { hostProcesses, type Host, type HostProcess };

export interface LabOptions {
  /** First part of the names of everything the lab makes; default `shoal`. Labs with different names do not meet. */
  readonly name?: string;
  /** Default `shoal-lab` in the temp folder, with `-<name>` when a name is given. Removed by `down`. */
  readonly dir?: string;
  /** Default 3. */
  readonly managers?: number;
  /** Default 2. */
  readonly workers?: number;
  /** Default `shoald`. */
  readonly payload?: HostPayload;
  /** Default `formed`, where the payload can; `none` leaves every host alone. */
  readonly swarm?: "formed" | "none";
  /** Told what is being done, a line each. */
  readonly onStep?: (step: string) => void;
}

/** `cluster.json`: what a benchmark or a test needs to drive the lab, or any other swarm of the same form. */
export interface ClusterFile {
  readonly name: string;
  readonly image: string;
  readonly hosts: readonly {
    readonly name: string;
    readonly addr: string;
    readonly socket: string;
    readonly netns: string;
    readonly role: HostRole;
    /** Shell command that kills this host and its containers at once. */
    readonly kill: string;
  }[];
}

const maxHosts = 40;
const bootTimeoutMs = 30_000;

/** A lab that is up. */
export class Lab {
  readonly name: string;
  readonly dir: string;
  readonly hosts: readonly Host[];
  readonly lan: Lan;
  readonly #payload: HostPayload;

  private constructor(name: string, dir: string, payload: HostPayload, roles: readonly HostRole[]) {
    this.name = name;
    this.dir = dir;
    this.#payload = payload;
    this.lan = new Lan(name);
    this.hosts = roles.map(
      (role, at) => new Host(this.lan, { lab: name, index: at + 1, role, dir, payload }),
    );
  }

  /**
   * Brings up a lab, after clearing what an earlier one of that name left. When it fails, nothing is left but its directory with the logs.
   *
   * @throws {Error} that says which step failed and where its log is.
   */
  static async up(options: LabOptions = {}): Promise<Lab> {
    const { managers = 3, workers = 2, payload = "shoald", onStep = () => undefined } = options;
    const { name, dir } = labPlace(options);
    if (managers < 1 || workers < 0 || managers + workers > maxHosts) {
      throw new Error(
        `cannot bring up the lab: ${managers} managers and ${workers} workers asked for, 1 to ${maxHosts} hosts are accepted`,
      );
    }
    await checkMachine(payload);
    onStep("clearing what an earlier lab left");
    await clearLab({ name, dir });
    const roles = Array.from({ length: managers + workers }, (_, at): HostRole =>
      at < managers ? "manager" : "worker",
    );
    const lab = new Lab(name, dir, payload, roles);
    try {
      await lab.#begin(options);
    } catch (error) {
      if (process.env["SHOAL_KEEP_LAB"] !== undefined) throw error;
      await clearLab({ name, dir, files: "keep" }).catch((left: unknown) => {
        const text = `${String(error)}; and what was there could not be cleared: ${String(left)}`;
        throw new AggregateError([error, left], text, { cause: error });
      });
      throw error;
    }
    return lab;
  }

  /** Finds the lab that is up. */
  static async open(options: Pick<LabOptions, "name" | "dir"> = {}): Promise<Lab> {
    const place = labPlace(options);
    const dir = options.dir === undefined ? ((await runningDir(place.name)) ?? place.dir) : place.dir;
    if (!existsSync(join(dir, "cluster.json"))) {
      throw new Error(
        `cannot find a lab in ${dir}: no cluster.json there: bring one up with 'npm run lab -- up'`,
      );
    }
    const { name, payload } = JSON.parse(await readFile(join(dir, "lab.json"), "utf8")) as {
      name: string;
      payload: HostPayload;
    };
    const cluster = JSON.parse(await readFile(join(dir, "cluster.json"), "utf8")) as ClusterFile;
    return new Lab(
      name,
      dir,
      payload,
      cluster.hosts.map((host) => host.role),
    );
  }

  get managers(): readonly Host[] {
    return this.hosts.filter((host) => host.role === "manager");
  }

  get workers(): readonly Host[] {
    return this.hosts.filter((host) => host.role === "worker");
  }

  host(name: string): Host {
    const found = this.hosts.find((host) => host.name === name);
    if (found !== undefined) return found;
    throw new Error(
      `cannot find host ${name}: the lab has ${this.hosts.map((host) => host.name).join(", ")}`,
    );
  }

  /** Boots a killed host again with its disk, and waits for its socket. */
  async restart(host: Host): Promise<void> {
    await host.kill();
    await this.#boot(host);
  }

  /** Cuts the wire between a host and one other, or all others and the registry. */
  async cut(host: Host, other?: Host): Promise<void> {
    const others = this.#addressesBut(host, other);
    await this.lan.cut(host.addr, others);
    for (const address of others) await this.lan.cut(address, [host.addr]);
  }

  /** Drops what the host sends to one other, or to all; what it is sent still arrives. */
  async cutOneWay(host: Host, other?: Host): Promise<void> {
    await this.lan.cut(host.addr, this.#addressesBut(host, other));
  }

  /** Heals the cuts of a host, or all. */
  async heal(host?: Host): Promise<void> {
    await this.lan.heal(host?.addr);
  }

  /** Removes everything the lab has made. */
  async down(): Promise<void> {
    await clearLab(this);
  }

  async #begin({ onStep = () => undefined, swarm = "formed" }: LabOptions): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    await writeFile(join(this.dir, "lab.json"), JSON.stringify({ name: this.name, payload: this.#payload }));
    onStep("network and registry");
    await this.lan.create();
    await this.lan.startRegistry(this.dir);
    onStep(`booting ${this.hosts.length} hosts, pushing images`);
    await Promise.all([this.#pushImages(), ...this.hosts.map((host) => this.#boot(host))]);
    if (this.#payload !== "containerd" && swarm === "formed") {
      onStep("forming the swarm");
      await formSwarm(this.hosts);
      await waitForNodes(this.hosts, bootTimeoutMs);
    }
    await writeFile(join(this.dir, "cluster.json"), JSON.stringify(this.clusterFile(), undefined, 1));
  }

  async #boot(host: Host): Promise<void> {
    await host.boot();
    await host.waitForSocket(bootTimeoutMs, () => canConnect(host.socket));
  }

  async #pushImages(): Promise<void> {
    const push = fileURLToPath(new URL("push.js", import.meta.url));
    await this.lan.run([process.execPath, push, registryAddress]);
  }

  #addressesBut(host: Host, other: Host | undefined): string[] {
    if (other !== undefined) return [other.addr];
    const others = this.hosts.filter(({ name }) => name !== host.name).map(({ addr }) => addr);
    return [...others, registryAddress.replace(/:.*/, "")];
  }

  /** What is written to `cluster.json`. */
  clusterFile(): ClusterFile {
    const main = fileURLToPath(new URL("main.js", import.meta.url));
    return {
      name: this.#payload === "dockerd" ? "docker-swarm" : "shoal",
      image: `${registryAddress}/bb:1`,
      hosts: this.hosts.map(({ name, addr, socket, netns, role }) => ({
        name,
        addr,
        socket,
        netns,
        role,
        kill: `${process.execPath} ${main} kill ${name} --dir ${this.dir}`,
      })),
    };
  }
}

interface ClearOptions {
  readonly name: string;
  readonly dir: string;
  /** `keep` leaves the directory, so that the logs can be read; default `remove`. */
  readonly files?: "keep" | "remove";
}

/** Removes every process, namespace, cgroup, mount and file of a lab, whatever state it is in. */
export async function clearLab({ name, dir, files = "remove" }: ClearOptions): Promise<void> {
  const isOurs = (entry: string): boolean =>
    entry === `${name}-lan` || new RegExp(`^${name}\\d+$`).test(entry);
  const oldDir = await runningDir(name);
  const groups = (await labCgroups()).filter(isOurs).map((entry) => new LabCgroup(entry));
  await Promise.all(groups.map((group) => group.killAll()));
  const namespaces = (await readdir("/run/netns").catch(() => [])).filter(isOurs);
  for (const netns of namespaces) await run(["ip", "netns", "del", netns]);
  for (const group of groups) await group.remove();
  for (const place of new Set([dir, ...(oldDir === undefined ? [] : [oldDir])])) {
    const mounts = (await readFile("/proc/self/mounts", "utf8"))
      .split("\n")
      .map((line) => line.split(" ")[1] ?? "");
    for (const mount of mounts.filter((path) => path.startsWith(`${place}/`)).toReversed()) {
      await tryRun(["umount", "-l", mount]);
    }
    if (files === "remove") await removeLabDir(place);
  }
}

export function labPlace({ name = "shoal", dir }: Pick<LabOptions, "name" | "dir">): {
  name: string;
  dir: string;
} {
  if (!/^[a-z][a-z-]{0,9}$/.test(name)) {
    throw new Error(`cannot name a lab ${name}: 1 to 10 small letters or dashes are accepted`);
  }
  const usual = join(tmpdir(), name === "shoal" ? "shoal-lab" : `shoal-lab-${name}`);
  return { name, dir: resolve(dir ?? usual) };
}

/** Only a directory that a lab has made is removed, so that a mistyped `--dir` costs nobody's files. */
async function removeLabDir(dir: string): Promise<void> {
  if (!existsSync(dir)) return;
  const entries = await readdir(dir);
  if (entries.length > 0 && !entries.includes("lab.json")) {
    throw new Error(
      `cannot clear ${dir}: it has files in it but no lab.json, so no lab made it; give an empty directory`,
    );
  }
  await rm(dir, { recursive: true, force: true });
}

/** The directory of the lab of that name that is up, as its registry's command line tells it. */
async function runningDir(name: string): Promise<string | undefined> {
  for (const pid of await new LabCgroup(`${name}-lan`).pids()) {
    const config = (await readProcess(pid))?.argv.at(-1);
    if (config?.endsWith("/registry.yml") === true) return dirname(config);
  }
  return undefined;
}

const neededCommands: Readonly<Record<string, string>> = {
  ip: "iproute2",
  nft: "nftables",
  unshare: "util-linux",
  containerd: "containerd",
  crun: "crun",
  "nats-server": "nats-server",
  "docker-registry": "docker-registry",
  busybox: "busybox-static",
};

async function checkMachine(payload: HostPayload): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error("cannot bring up the lab: not root; namespaces need root");
  const directories = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin", "/sbin"];
  const needed = payload === "dockerd" ? { ...neededCommands, dockerd: "docker.io" } : neededCommands;
  const missing = Object.entries(needed)
    .filter(([command]) => !directories.some((directory) => existsSync(join(directory, command))))
    .map(([, debianPackage]) => debianPackage);
  if (missing.length === 0) return;
  throw new Error(
    `cannot bring up the lab: programs missing: apt-get install --no-install-recommends ${missing.join(" ")}`,
  );
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ path });
    const finish = (up: boolean): void => {
      socket.destroy();
      done(up);
    };
    socket.once("connect", () => finish(true));
    socket.once("error", () => finish(false));
  });
}
