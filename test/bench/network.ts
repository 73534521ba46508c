/** The data plane between three hosts in namespaces of one machine: what each layer costs beside the one below it. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import type { NodeId, TaskId } from "../../model/ids.ts";
import type { OverlayEndpoint, OverlayService } from "../../worker/network/network.ts";
import { type Host, endpoint, overlay, serve, World } from "../integration/network-hosts.ts";
import { sleep, tryRun, waitFor } from "../lab/shell.ts";
import { type Aim, type Comparison, withUnit } from "./comparison.ts";
import { withUndo } from "./interrupt.ts";
import { closeCommits, measureCommits } from "./network-commits.ts";
import { closeDockerOverlay, isDockerInstalled, openDockerOverlay } from "./network-docker.ts";
import { median } from "./report.ts";

/** In this order; `names` to `idle` are of one host. */
export const networkParts = ["paths", "names", "attach", "changes", "join", "idle", "commits"] as const;
export type NetworkPart = (typeof networkParts)[number];

export interface NetworkBenchOptions {
  readonly parts: readonly NetworkPart[];
  /** Of each throughput. */
  readonly seconds: number;
  readonly rounds: number;
  readonly services: number;
  /** No round begins after three quarters of this; what comes after the rounds is short. */
  readonly minutes: number;
  readonly docker: "auto" | "never";
}

/** From where to where; what is measured of it. */
interface Path {
  readonly name: string;
  readonly from: string;
  readonly host: string;
  readonly echo: number;
  readonly iperf: number;
}

type Kind = "throughput" | "round trip" | "connection";

const peer = fileURLToPath(new URL("network-peer.js", import.meta.url));
const ingress = { ...overlay("ingress", 0), subnet: "10.10.0.0/16", gateway: "10.10.0.1", ingress: true };
const red = { ...overlay("red", 0), vni: 4200, subnet: "10.20.0.0/16", gateway: "10.20.0.1" };
const echoPort = 7_000;
const iperfPort = 5_201;
const publishedEcho = 17_000;
const publishedIperf = 15_201;
const exchanges = 5_000;
const connectionCount = 1_000;
const nameSeconds = 3;
const nameCount = 10_000;
const changes = 60;
const commitRounds = 12;
const attaches = 20;
const idleMs = 20_000;
const backends = 10;
/** Beside what is asked for: each measurement ends by itself sooner, unless nothing comes back. */
const measureTimeoutMs = 12_000;
/** For what is under way when the time is over. */
const overtimeMs = 60_000;
const reachTimeoutMs = 15_000;
/** For what follows the rounds. */
const shareOfRounds = 0.6;

const web = { serviceId: "web", serviceName: "web", aliases: [], localFirst: false, within: [] };
const virtualIp = "10.20.0.2";
const base: readonly OverlayService[] = [
  { ...web, networkId: red.id, address: virtualIp, ports: [] },
  {
    ...web,
    networkId: ingress.id,
    address: "10.10.0.2",
    ports: [
      { protocol: "tcp", targetPort: echoPort, publishedPort: publishedEcho },
      { protocol: "tcp", targetPort: iperfPort, publishedPort: publishedIperf },
    ],
  },
];

const units: Readonly<Record<Kind, string>> = { throughput: "Gbit/s", "round trip": "µs", connection: "µs" };
const docker = "Docker's overlay";
const balancedPaths = ["virtual IP", "mesh, task on that host", "mesh, task elsewhere"];

/**
 * Needs root; the caller sees that nothing else uses the test networks.
 *
 * @throws {Error} without `iperf3`, or when the hosts do not reach each other.
 */
export async function benchNetwork(
  options: NetworkBenchOptions,
  say: (line: string) => void,
): Promise<readonly Comparison[]> {
  if (spawnSync("iperf3", ["--version"]).status !== 0) {
    throw new Error("the network benchmark needs iperf3: apt-get install --no-install-recommends iperf3");
  }
  const bench = new NetworkBench(options, say);
  return withUndo(
    async () => {
      const overMs = options.minutes * 60_000 + overtimeMs;
      await Promise.race([bench.run(), delay(overMs, undefined, { ref: false })]);
      return bench.rows;
    },
    () => bench.close(),
  );
}

class NetworkBench {
  readonly rows: Comparison[] = [];
  readonly #options: NetworkBenchOptions;
  readonly #say: (line: string) => void;
  readonly #endMs: number;
  readonly #servers: { stop(): void }[] = [];
  #opened: World | undefined;
  #endpoints: readonly OverlayEndpoint[] = [];

  constructor(options: NetworkBenchOptions, say: (line: string) => void) {
    this.#options = options;
    this.#say = say;
    this.#endMs = performance.now() + options.minutes * 60_000;
  }

  async run(): Promise<void> {
    this.#opened = await World.open("bench");
    const [one, two] = [this.#world.host(1), this.#world.host(2)];
    const server = await this.#start(two, "server", "10", [ingress, red]);
    const client = await this.#start(one, "client", "11", [red]);
    for (const netns of [server, two.netns]) this.#serveIn(netns);
    const { parts } = this.#options;
    if (parts.includes("paths")) await this.#paths(client, [one, two]);
    if (parts.includes("names")) await this.#names(one, client);
    if (parts.includes("attach")) await this.#attach(one);
    if (parts.includes("changes")) await this.#changes(one);
    if (parts.includes("join")) await this.#join();
    if (parts.includes("idle")) await this.#idle(one);
    await this.close(); // So that it is not under way beside the cluster.
    if (parts.includes("commits")) await this.#commits();
  }

  async #paths(client: string, [one, two]: readonly [Host, Host]): Promise<void> {
    const [echo, iperf] = [echoPort, iperfPort];
    const mesh = { from: this.#world.outside, echo: publishedEcho, iperf: publishedIperf };
    const paths: readonly Path[] = [
      { name: "link", from: one.netns, host: two.address, echo, iperf },
      { name: "overlay", from: client, host: "10.20.0.10", echo, iperf },
      { name: "virtual IP", from: client, host: virtualIp, echo, iperf },
      { ...mesh, name: "mesh, task on that host", host: two.address },
      { ...mesh, name: "mesh, task elsewhere", host: one.address },
      ...(await this.#dockerPaths()),
    ];
    for (const path of paths) {
      await waitFor(`an answer over ${path.name}`, { timeoutMs: reachTimeoutMs, everyMs: 200 }, async () => {
        return (await this.#measure(path, "round-trip", 1)) > 0;
      });
    }
    await this.#rounds(paths);
  }

  /** All that was made, also what an interrupted run made. */
  async close(): Promise<void> {
    for (const server of this.#servers.splice(0)) server.stop();
    await this.#opened?.[Symbol.asyncDispose]();
    this.#opened = undefined;
    if (isDockerInstalled()) await closeDockerOverlay();
    await closeCommits();
  }

  get #world(): World {
    if (this.#opened === undefined) throw new Error("the hosts of the benchmark are gone");
    return this.#opened;
  }

  async #dockerPaths(): Promise<readonly Path[]> {
    const isWanted = this.#options.docker === "auto" && isDockerInstalled();
    if (!isWanted) this.#say("bench: without Docker's overlay: install docker.io for that");
    if (!isWanted) return [];
    try {
      const { client, server, address } = await openDockerOverlay();
      this.#serveIn(server);
      const path = { name: docker, from: client, host: address, echo: echoPort, iperf: iperfPort };
      await waitFor("an answer over it", { timeoutMs: reachTimeoutMs, everyMs: 200 }, async () => {
        return (await this.#measure(path, "round-trip", 1)) > 0;
      });
      return [path];
    } catch (error) {
      this.#say(`bench: without Docker's overlay, which does not work here: ${String(error)}`);
      return [];
    }
  }

  #serveIn(netns: string): void {
    this.#servers.push(serve(netns, [process.execPath, peer, "serve", "0.0.0.0", String(echoPort)]));
    this.#servers.push(serve(netns, ["iperf3", "-s", "-p", String(iperfPort)]));
  }

  async #rounds(paths: readonly Path[]): Promise<void> {
    const { rounds, services, seconds, minutes } = this.#options;
    const lastMs = this.#endMs - minutes * 60_000 * (1 - shareOfRounds);
    const seen = new Map<string, number[]>();
    const add = (name: string, value: number): void => {
      seen.set(name, [...(seen.get(name) ?? []), value]);
      this.#say(`  ${name}: ${withUnit(value, units[name.split(", ")[0] as Kind])}`);
    };
    const latencies = async (suffix: string): Promise<void> => {
      for (const path of paths) {
        if (suffix !== "" && !balancedPaths.includes(path.name)) continue;
        add(`round trip, ${path.name}${suffix}`, await this.#measure(path, "round-trip", exchanges));
        add(`connection, ${path.name}${suffix}`, await this.#measure(path, "connections", connectionCount));
      }
    };
    for (let round = 0; round < rounds && (round === 0 || performance.now() < lastMs); round += 1) {
      this.#say(`bench: paths, round ${round + 1} of ${rounds}`);
      await this.#apply(base);
      for (const path of paths) add(`throughput, ${path.name}`, await throughput(path, seconds));
      await latencies("");
      await this.#apply(manyServices(services));
      await latencies(` among ${services} services`);
    }
    await this.#apply(base);
    const figures = new Map([...seen].map(([name, values]) => [name, median(values)]));
    for (const row of pathRows(figures, services)) this.#note(row);
  }

  /** One service of many gets another backend: from the call to rules in the kernel, on one host. */
  async #changes(host: Host): Promise<void> {
    const { services } = this.#options;
    const many = manyServices(services);
    await this.#applyOn(host, many, []);
    const times: number[] = [];
    const cpuMs = processorMs(host);
    for (let index = 0; index < changes; index += 1) {
      const extra = task(
        index % services,
        `extra${index % 2}`,
        `10.20.${200 + (index % 2)}.${1 + (index % 250)}`,
      );
      const startMs = performance.now();
      await this.#applyOn(host, many, [extra]);
      times.push(performance.now() - startMs);
    }
    const what = `change of one service among ${services} with ${backends} tasks each, one host`;
    this.#note({ what: `${what}: p99`, unit: "ms", value: percentile(times, 0.99), aim: atMost(400) });
    this.#note({
      what: `${what}: processor time, tools included`,
      unit: "ms",
      value: (processorMs(host) - cpuMs) / changes,
    });
  }

  async #idle(host: Host): Promise<void> {
    await this.#applyOn(host, manyServices(this.#options.services), []);
    const cpuMs = processorMs(host);
    await sleep(idleMs);
    const value = ((processorMs(host) - cpuMs) / idleMs) * 100;
    this.#note({ what: `idle host among ${this.#options.services} services, of one core`, unit: "%", value });
  }

  /** A host that has nothing yet learns of a thousand tasks on a hundred hosts. */
  async #join(): Promise<void> {
    const third = this.#world.host(3);
    await third.apply([], []);
    const remote = Array.from({ length: 1_000 }, (_, index): OverlayEndpoint => {
      const host = index % 100;
      return {
        ...task(index % 100, `r${index}`, `10.20.${100 + (index >> 8)}.${index & 255}`),
        nodeId: `r${host}` as NodeId,
        nodeAddress: `10.233.7.${host + 1}`,
        nodeIndex: 100 + host,
      };
    });
    const startMs = performance.now();
    await third.apply([red], remote, {});
    const value = performance.now() - startMs;
    this.#note({
      what: "a joining host learns 1,000 tasks on 100 hosts",
      unit: "ms",
      value,
      aim: atMost(1_000),
    });
    await third.apply([], []);
  }

  async #names(host: Host, client: string): Promise<void> {
    const named = Array.from({ length: nameCount }, (_, index): OverlayService => ({
      ...web,
      networkId: red.id,
      serviceId: `n${index}`,
      serviceName: `s${index}`,
      address: `10.20.${50 + (index >> 8)}.${index & 255}`,
      ports: [],
    }));
    await this.#applyOn(host, [...base, ...named], []);
    const path = { name: "names", from: client, host: red.gateway, echo: 53, iperf: 0 };
    const cpuMs = processorMs(host);
    const value = await this.#measure(path, "names", nameSeconds);
    // With those before the measurement, so a little too much.
    const spentUs = ((processorMs(host) - cpuMs) * 1_000) / (value * (nameSeconds + 1));
    this.#note({ what: `answers to ${nameCount} names`, unit: "/s", value, aim: atLeast(20_000) });
    this.#note({ what: "processor time of an answer", unit: "µs", value: spentUs, aim: atMost(50) });
    await this.#applyOn(host, base, []);
  }

  /** Processor time of this host's network, its tools included, for tasks with and without an overlay. */
  async #attach(host: Host): Promise<void> {
    const cost = async (name: string, on: boolean): Promise<number> => {
      const addresses = Array.from({ length: attaches }, (_, index) => `10.20.40.${index + 1}`);
      const made = addresses.map((address, index) =>
        endpoint(red, host, { task: `${name}${index}`, address, service: name }),
      );
      await this.#applyOn(host, base, on ? made : []);
      const cpuMs = processorMs(host);
      for (const [index, address] of addresses.entries()) {
        await host.attach({
          taskId: `${name}${index}` as TaskId,
          host: !on,
          networks: on ? [{ networkId: red.id, address: `${address}/16`, aliases: [] }] : [],
        });
      }
      const usedMs = processorMs(host) - cpuMs;
      for (const index of addresses.keys()) await host.detach(`${name}${index}` as TaskId);
      return usedMs / attaches;
    };
    const without = await cost("plain", false);
    const value = (await cost("attached", true)) - without;
    this.#note({
      what: "attaching a task to an overlay, processor time",
      unit: "ms",
      value,
      aim: atMost(30),
    });
  }

  async #commits(): Promise<void> {
    this.#say("bench: a cluster in the lab, a service that is scaled up and down");
    const what = "new or ended task, from its commit to the rules of all three hosts";
    try {
      const times = await measureCommits(commitRounds, this.#endMs);
      this.#note({ what: `${what}: median of ${times.length}`, unit: "ms", value: median(times) });
      this.#note({ what: `${what}: p99`, unit: "ms", value: percentile(times, 0.99), aim: atMost(400) });
    } catch (error) {
      this.#say(`bench: ${String(error)}`);
      this.#note({ what, unit: "ms", value: Number.NaN });
    }
  }

  async #start(host: Host, name: string, last: string, on: readonly (typeof red)[]): Promise<string> {
    const places = on.map((network) => ({ network, address: network.subnet.replace("0.0/16", `0.${last}`) }));
    this.#endpoints = [
      ...this.#endpoints,
      ...places.map(({ network, address }) => ({
        ...endpoint(network, host, { task: name, address, service: name }),
        ...(name === "server" && { serviceId: "web", serviceName: "web" }),
      })),
    ];
    await this.#apply(base);
    const attached = await host.attach({
      taskId: name as TaskId,
      networks: places.map(({ network, address }) => ({
        networkId: network.id,
        address: `${address}/16`,
        aliases: [],
      })),
    });
    return attached.kind === "namespace" ? attached.path : "";
  }

  async #apply(services: readonly OverlayService[]): Promise<void> {
    await Promise.all(this.#world.hosts.map((host) => this.#applyOn(host, services, [])));
  }

  async #applyOn(
    host: Host,
    services: readonly OverlayService[],
    more: readonly OverlayEndpoint[],
  ): Promise<void> {
    const others = this.#world.hosts.filter((each) => each !== host);
    const hosts = others.map(({ nodeId, address, index }) => ({ nodeId, address, index }));
    const count = services === base ? 0 : this.#options.services;
    const crowd = services.length > count + base.length ? [] : crowdOf(count);
    await host.apply([ingress, red], [...this.#endpoints, ...crowd, ...more], { services, hosts });
  }

  /** What the other process prints; NaN when it fails. */
  async #measure({ from, host, echo }: Path, mode: string, count: number): Promise<number> {
    const argv = [`--net=${from}`, process.execPath, peer, mode, host, String(echo), String(count)];
    const { code, stdout } = await tryRun(["nsenter", ...argv], { timeoutMs: measureTimeoutMs });
    return code === 0 ? Number(stdout) : Number.NaN;
  }

  #note(row: Comparison): void {
    this.rows.push(row);
    this.#say(`  ${row.what}: ${withUnit(row.value, row.unit)}`);
  }
}

const atMost = (limit: number): Aim => ({ of: "value", bound: "at most", limit });
const atLeast = (limit: number): Aim => ({ of: "value", bound: "at least", limit });
const shareAtMost = (limit: number): Aim => ({ of: "share", bound: "at most", limit });
const shareAtLeast = (limit: number): Aim => ({ of: "share", bound: "at least", limit });

/** @param figures - Medians by "<kind>, <path>" and "<kind>, <path> among <services> services". */
export function pathRows(figures: ReadonlyMap<string, number>, services: number): readonly Comparison[] {
  const of = (kind: Kind, path: string): number | undefined => figures.get(`${kind}, ${path}`);
  const row = (kind: Kind, path: string, beside?: string, aim?: Aim): Comparison[] => {
    const [value, other] = [of(kind, path), beside === undefined ? undefined : of(kind, beside)];
    if (value === undefined || (beside !== undefined && other === undefined)) return [];
    return [
      {
        what: `${kind}, ${path}`,
        unit: units[kind],
        value,
        ...(beside !== undefined && other !== undefined && { beside: { what: beside, value: other } }),
        ...(aim !== undefined && { aim }),
      },
    ];
  };
  const among = (path: string): string => `${path} among ${services} services`;
  const kinds: readonly Kind[] = ["round trip", "connection"];
  return [
    ...row("throughput", "link"),
    ...row("throughput", "overlay", "link", shareAtLeast(0.6)),
    ...row("throughput", "overlay", docker, shareAtLeast(0.85)),
    ...balancedPaths.flatMap((path) => row("throughput", path, "overlay", shareAtLeast(0.8))),
    ...row("round trip", "link"),
    ...row("round trip", "overlay", "link"),
    {
      what: "round trip, overlay, more than the link's",
      unit: units["round trip"],
      value: (of("round trip", "overlay") ?? Number.NaN) - (of("round trip", "link") ?? Number.NaN),
      aim: atMost(20),
    },
    ...row("round trip", "overlay", docker),
    ...balancedPaths.flatMap((path) => row("round trip", path, "overlay", shareAtMost(1.2))),
    ...row("connection", "overlay", "link"),
    ...row("connection", "overlay", docker),
    ...balancedPaths.flatMap((path) => row("connection", path, "overlay")),
    ...kinds.flatMap((kind) =>
      balancedPaths.flatMap((path) => row(kind, among(path), path, shareAtMost(1.1))),
    ),
  ];
}

function percentile(values: readonly number[], part: number): number {
  if (values.some((value) => Number.isNaN(value))) return Number.NaN;
  return values.toSorted((a, b) => a - b)[Math.ceil(values.length * part) - 1] ?? Number.NaN;
}

function task(service: number, name: string, address: string): OverlayEndpoint {
  return {
    networkId: red.id,
    taskId: name as TaskId,
    address,
    nodeId: "node3" as NodeId,
    nodeAddress: "10.233.0.3",
    nodeIndex: 3,
    serviceId: `m${service}`,
    serviceName: `m${service}`,
    taskName: `m${service}.${name}`,
    aliases: [],
    serving: true,
  };
}

/** Ten tasks for each of many services; addresses may repeat between services, which costs the rules the same. */
function crowdOf(services: number): OverlayEndpoint[] {
  return Array.from({ length: services }, (_, service) =>
    Array.from({ length: backends }, (_unused, index) =>
      task(
        service,
        `c${service}-${index}`,
        `10.20.${100 + (service >> 4)}.${(((service & 15) * backends + index) % 250) + 1}`,
      ),
    ),
  ).flat();
}

function manyServices(count: number): readonly OverlayService[] {
  const more = Array.from({ length: count }, (_, index): OverlayService => ({
    ...web,
    networkId: red.id,
    serviceId: `m${index}`,
    serviceName: `m${index}`,
    address: `10.20.${10 + (index >> 8)}.${index & 255}`,
    ports: [],
  }));
  return [...base, ...more];
}

/** Gbit/s that arrive. */
async function throughput({ from, host, iperf }: Path, seconds: number): Promise<number> {
  const argv = [`--net=${from}`, "iperf3", "-J", "-c", host, "-p", String(iperf), "-t", String(seconds)];
  const { code, stdout } = await tryRun(["nsenter", ...argv], {
    timeoutMs: seconds * 1_000 + measureTimeoutMs,
  });
  if (code !== 0) return Number.NaN;
  const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } };
  return end.sum_received.bits_per_second / 1e9;
}

/** Milliseconds of processor time of the host's process, of what it has started, and of all tools that those ran. */
function processorMs({ pid }: Host): number {
  const ticksPerSecond = 100;
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  const ticks = [String(pid), ...children].flatMap((each) => {
    const fields = readFileSync(`/proc/${each}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    return fields.slice(11, 15).map(Number);
  });
  return (ticks.reduce((sum, each) => sum + each, 0) / ticksPerSecond) * 1_000;
}
