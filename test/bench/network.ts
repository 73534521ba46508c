/** The data plane between three hosts in namespaces of one machine: what each layer costs beside the one below it. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import type { NodeId, TaskId } from "../../model/ids.ts";
import type { OverlayEndpoint, OverlayService } from "../../worker/network/network.ts";
import { type Host, endpoint, overlay, serve, World } from "../integration/network-hosts.ts";
import { machine, median } from "./report.ts";

export interface NetworkBenchOptions {
  readonly seconds: number;
  readonly rounds: number;
  readonly services: number;
}

/** Name → figure with its unit; NaN for what failed. */
export type NetworkFigures = ReadonlyMap<string, { readonly value: number; readonly unit: string }>;

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
const attaches = 20;
/** Of idleness, for each second of throughput asked for. */
const idleMsPerSecond = 10_000;
const backends = 10;
const measureTimeoutMs = 60_000;

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

/** Needs root; the caller sees that nothing else uses the test networks. @throws {Error} without `iperf3`. */
export async function benchNetwork(
  options: NetworkBenchOptions,
  say: (line: string) => void,
): Promise<NetworkFigures> {
  if (spawnSync("iperf3", ["--version"]).status !== 0) {
    throw new Error("the network benchmark needs iperf3: apt-get install --no-install-recommends iperf3");
  }
  await using world = await World.open("bench");
  const bench = new NetworkBench(world, options, say);
  using _ = bench;
  await bench.run();
  return bench.figures;
}

class NetworkBench implements Disposable {
  readonly figures = new Map<string, { value: number; unit: string }>();
  readonly #world: World;
  readonly #options: NetworkBenchOptions;
  readonly #say: (line: string) => void;
  readonly #servers: { stop(): void }[] = [];
  #endpoints: readonly OverlayEndpoint[] = [];

  constructor(world: World, options: NetworkBenchOptions, say: (line: string) => void) {
    this.#world = world;
    this.#options = options;
    this.#say = say;
  }

  async run(): Promise<void> {
    const [one, two] = [this.#world.host(1), this.#world.host(2)];
    const server = await this.#start(two, "server", "10", [ingress, red]);
    const client = await this.#start(one, "client", "11", [red]);
    for (const path of [server, two.netns]) {
      this.#servers.push(serve(path, [process.execPath, peer, "serve", "0.0.0.0", String(echoPort)]));
      this.#servers.push(serve(path, ["iperf3", "-s", "-p", String(iperfPort)]));
    }
    const paths = [
      { name: "link", from: one.netns, host: two.address, echo: echoPort, iperf: iperfPort },
      { name: "overlay", from: client, host: "10.20.0.10", echo: echoPort, iperf: iperfPort },
      { name: "virtual IP", from: client, host: virtualIp, echo: echoPort, iperf: iperfPort },
      {
        name: "mesh, task on that host",
        from: this.#world.outside,
        host: two.address,
        echo: publishedEcho,
        iperf: publishedIperf,
      },
      {
        name: "mesh, task elsewhere",
        from: this.#world.outside,
        host: one.address,
        echo: publishedEcho,
        iperf: publishedIperf,
      },
    ];
    await this.#until(() =>
      paths.every(({ from, host, echo }) => this.#measure(from, "round-trip", host, echo, 1) > 0),
    );
    const { rounds, services, seconds } = this.#options;
    const seen = new Map<string, number[]>();
    const add = (name: string, value: number): void =>
      void seen.set(name, [...(seen.get(name) ?? []), value]);
    const latencies = (suffix: string): void => {
      for (const { name, from, host, echo } of paths) {
        add(`round trip, ${name}${suffix}`, this.#measure(from, "round-trip", host, echo, exchanges));
        add(`connection, ${name}${suffix}`, this.#measure(from, "connections", host, echo, connectionCount));
      }
    };
    for (let round = 0; round < rounds; round += 1) {
      this.#say(`round ${round + 1} of ${rounds}`);
      await this.#apply(base);
      for (const { name, from, host, iperf } of paths) {
        add(`throughput, ${name}`, throughput(from, host, { port: iperf, seconds }));
      }
      latencies("");
      await this.#apply(manyServices(services));
      latencies(`, among ${services} services`);
    }
    for (const [name, values] of seen)
      this.#note(name, median(values), name.startsWith("through") ? "Gbit/s" : "µs");
    await this.#changes(one);
    await this.#idle(one);
    await this.#apply(base);
    await this.#join();
    await this.#names(client);
    await this.#attach(one);
  }

  /** One service of many gets another backend: from the call to rules in the kernel. */
  async #changes(host: Host): Promise<void> {
    const { services } = this.#options;
    const many = manyServices(services);
    await this.#apply(many);
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
    const sorted = times.toSorted((a, b) => a - b);
    this.#note(`change of one service among ${services}, median`, median(times), "ms");
    this.#note("the same, p99", sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN, "ms");
    this.#note("the same, processor time", (processorMs(host) - cpuMs) / changes, "ms");
    await this.#apply(many);
  }

  async #idle(host: Host): Promise<void> {
    const idleMs = this.#options.seconds * idleMsPerSecond;
    this.#say(`an idle host among ${this.#options.services} services, ${idleMs / 1_000} s`);
    const cpuMs = processorMs(host);
    await new Promise((resolve) => setTimeout(resolve, idleMs));
    this.#note(
      `idle host among ${this.#options.services} services, share of one core`,
      ((processorMs(host) - cpuMs) / idleMs) * 100,
      "%",
    );
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
    this.#note("a joining host learns 1,000 tasks on 100 hosts", performance.now() - startMs, "ms");
    await third.apply([], []);
  }

  async #names(client: string): Promise<void> {
    const named = Array.from({ length: nameCount }, (_, index): OverlayService => ({
      ...web,
      networkId: red.id,
      serviceId: `n${index}`,
      serviceName: `s${index}`,
      address: `10.20.${50 + (index >> 8)}.${index & 255}`,
      ports: [],
    }));
    await this.#apply([...base, ...named]);
    this.#note(
      `answers to ${nameCount} names`,
      this.#measure(client, "names", red.gateway, 53, nameSeconds),
      "/s",
    );
    await this.#apply(base);
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
    this.#note(
      "attaching a task to an overlay, processor time",
      (await cost("attached", true)) - without,
      "ms",
    );
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

  #measure(from: string, mode: string, host: string, port: number, count: number): number {
    const argv = [`--net=${from}`, process.execPath, peer, mode, host, String(port), String(count)];
    const { status, stdout } = spawnSync("nsenter", argv, { encoding: "utf8", timeout: measureTimeoutMs });
    return status === 0 ? Number(stdout) : Number.NaN;
  }

  async #until(isReady: () => boolean): Promise<void> {
    for (let attempt = 0; !isReady(); attempt += 1) {
      if (attempt >= 30) throw new Error("the hosts of the benchmark do not reach each other");
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  #note(name: string, value: number, unit: string): void {
    this.figures.set(name, { value, unit });
    this.#say(`${name}: ${printed(value)} ${unit}`);
  }

  [Symbol.dispose](): void {
    for (const server of this.#servers) server.stop();
  }
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
function throughput(
  from: string,
  host: string,
  { port, seconds }: { readonly port: number; readonly seconds: number },
): number {
  const { status, stdout } = spawnSync(
    "nsenter",
    [`--net=${from}`, "iperf3", "-J", "-c", host, "-p", String(port), "-t", String(seconds)],
    { encoding: "utf8", timeout: measureTimeoutMs },
  );
  if (status !== 0) return Number.NaN;
  const { end } = JSON.parse(stdout) as { end: { sum_received: { bits_per_second: number } } };
  return end.sum_received.bits_per_second / 1e9;
}

/** Milliseconds of processor time of the host's process and of all tools it ran. */
function processorMs({ pid }: Host): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const ticksPerSecond = 100;
  return (fields.slice(11, 15).reduce((sum, each) => sum + Number(each), 0) / ticksPerSecond) * 1_000;
}

export function networkTable(figures: NetworkFigures, { rounds, services }: NetworkBenchOptions): string {
  const of = (name: string): number => figures.get(name)?.value ?? Number.NaN;
  const ratio = (name: string, beside: string): string => {
    const value = of(name) / of(beside);
    return Number.isFinite(value) ? `${value.toFixed(2)}× of ${beside.split(", ").slice(1).join(", ")}` : "";
  };
  const rows = [...figures].map(([name, { value, unit }]) => {
    const [kind = "", path = ""] = name.split(", ");
    const many = name.endsWith(`, among ${services} services`);
    const beside = many
      ? name.replace(`, among ${services} services`, "")
      : path === "overlay"
        ? `${kind}, link`
        : /virtual IP|mesh/.test(path)
          ? `${kind}, overlay`
          : "";
    return `| ${name} | ${printed(value)} ${unit} | ${beside === "" ? "" : ratio(name, beside)} |`;
  });
  const note = `Three hosts in namespaces of one machine (${machine()}), medians of ${rounds} rounds.`;
  return [note, "", "| figure | value | beside |", "|---|--:|---|", ...rows, ""].join("\n");
}

function printed(value: number): string {
  if (Number.isNaN(value)) return "failed";
  return value >= 1_000 ? value.toFixed(0) : value.toFixed(2);
}
