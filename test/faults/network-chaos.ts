/**
 * Three hosts' networks under churn, kills, cuts and foreign hands. After each round every host must have what the plan says, and
 * every name, virtual IP and link must work from every host.
 */
import { Command } from "commander";

import type { TaskId } from "../../model/ids.ts";
import { seededRandom } from "../../runtime/random.ts";
import type { Random } from "../../runtime/random.ts";
import type { Finding } from "../../worker/network/examine.ts";
import type { OverlayEndpoint, OverlayNetwork, OverlayService } from "../../worker/network/network.ts";
import { dual, endpoint, type Host, overlay, World } from "../integration/network-hosts.ts";

const ingress: OverlayNetwork = { ...overlay("ingress", 0), ingress: true };
const networks = [ingress, dual("red", 1), overlay("blue", 2)];
const serviceCount = 4;
const mostTasks = 12;
const stepsPerRound = 12;
/** A host looks every 5 s, and what it mends may take it one look more. */
const healMs = 60_000;

interface ChaosTask {
  readonly name: string;
  readonly service: number;
  readonly host: Host;
  readonly last: number;
  serving: boolean;
}

/** What somebody else may do to a host; each is a shell's line. */
const hands = [
  "nft flush ruleset",
  "nft delete table ip shoal_net",
  "nft flush chain ip shoal_net published",
  "nft flush set ip shoal_net task_devices",
  "for d in $(ls /sys/class/net | grep -E '^(ov|vx)' | head -1); do ip link del $d; done",
  "for d in $(ls /sys/class/net | grep -E '^sv-' | head -1); do ip link del $d; done",
  "for d in $(ls /sys/class/net | grep -E '^(ov|vx)' | tail -1); do ip link set $d down; done",
  "ip route flush proto 77",
  "ip nexthop flush",
  "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
  "echo 0 > /proc/sys/net/ipv4/ip_forward",
  "bridge fdb show | while read mac rest; do bridge fdb del $mac ${rest%% *} ${rest#* } 2>/dev/null; done; true",
  "nft delete table ip6 shoal_net",
  "ip -6 route flush proto 77",
  "for d in $(ls /sys/class/net | grep -E '^(ov|vx|sv-)'); do echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done",
  "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
  "ip link set eth0 down; ip link set eth0 up; ip route replace default via 10.233.0.254",
] as const;

class Chaos {
  readonly #world: World;
  readonly #random: Random;
  readonly #history: string[] = [];
  readonly #tasks: ChaosTask[] = [];
  #made = 0;

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
  }

  get history(): readonly string[] {
    return this.#history;
  }

  async step(): Promise<void> {
    const host = this.#pick(this.#world.hosts);
    switch (this.#pick(["start", "start", "stop", "serving", "kill", "hand", "hand"] as const)) {
      case "start":
        return await this.#start(host);
      case "stop":
        return await this.#stop();
      case "serving": {
        const task = this.#tasks.length === 0 ? undefined : this.#pick(this.#tasks);
        if (task === undefined) return;
        task.serving = !task.serving;
        this.#history.push(`${task.name} ${task.serving ? "serves" : "serves no more"}`);
        return await this.#applyAll();
      }
      case "kill":
        this.#history.push(`kill -9 of host ${host.index}`);
        await host.kill();
        await host.start();
        return await this.#apply(host);
      case "hand": {
        const line = this.#pick(hands);
        this.#history.push(`host ${host.index}: ${line}`);
        host.run("sh", "-c", line);
      }
    }
  }

  /** One task on each host at least, so that each has somebody to ask from. */
  async populate(): Promise<void> {
    for (const host of this.#world.hosts) await this.#start(host);
  }

  /** @returns milliseconds until all was well. @throws {Error} with what is not. */
  async settle(): Promise<number> {
    for (const task of this.#tasks) task.serving = true;
    await this.#applyAll();
    const startMs = performance.now();
    for (;;) {
      const found = await Promise.all(this.#world.hosts.map((host) => this.#problems(host)));
      const tookMs = performance.now() - startMs;
      if (found.flat().length === 0) return tookMs;
      if (tookMs > healMs) throw new Error(found.flat().join("\n"));
    }
  }

  async #problems(host: Host): Promise<string[]> {
    const others = this.#world.hosts.filter((each) => each !== host);
    const findings = await host.examine(others);
    const said = (finding: Finding): string =>
      `host ${host.index}: ${finding.test} ${finding.peer} ${finding.subject}: ${finding.text}`;
    const wrong = findings.filter(({ state }) => state !== "ok").map(said);
    // What was mended in this very look was not in order a moment ago: the next one has to find nothing.
    const mended = findings
      .filter(({ test, text }) => test === "kernel" && text !== "as it should be")
      .map(said);
    const wanted = new Set(this.#tasks.map(({ service }) => service)).size * 2;
    const names = findings.filter(({ test }) => test === "dns").length;
    return [
      ...wrong,
      ...mended,
      ...(names < wanted ? [`host ${host.index}: ${names} of ${wanted} names`] : []),
    ];
  }

  async #start(host: Host): Promise<void> {
    if (this.#tasks.length >= mostTasks) return;
    this.#made += 1;
    const task: ChaosTask = {
      name: `t${this.#made}`,
      service: this.#random.integer(serviceCount),
      host,
      last: 20 + (this.#made % 200),
      serving: true,
    };
    this.#history.push(`${task.name} of s${task.service} starts on host ${host.index}`);
    this.#tasks.push(task);
    await this.#applyAll();
    await host.attach({
      taskId: task.name as TaskId,
      networks: networks.map(({ id, gateway, further }) => ({
        networkId: id,
        address: `${gateway.slice(0, -1)}${task.last}/24`,
        ...(further !== undefined && { ipv6: `${ipv6Of(further, task)}/64` }),
        aliases: [],
      })),
    });
  }

  async #stop(): Promise<void> {
    const able = this.#tasks.filter(
      (task) => this.#tasks.filter(({ host }) => host === task.host).length > 1,
    );
    if (able.length === 0) return;
    const task = this.#pick(able);
    this.#history.push(`${task.name} ends`);
    this.#tasks.splice(this.#tasks.indexOf(task), 1);
    await this.#applyAll();
    await task.host.detach(task.name as TaskId);
  }

  async #applyAll(): Promise<void> {
    await Promise.all(this.#world.hosts.map((host) => this.#apply(host)));
  }

  async #apply(host: Host): Promise<void> {
    const others = this.#world.hosts.filter((each) => each !== host);
    const hosts = others.map(({ nodeId, address, index }) => ({ nodeId, address, index }));
    const services = Array.from({ length: serviceCount }, (_, index) => index)
      .filter((index) => this.#tasks.some(({ service }) => service === index))
      .flatMap((index) => networks.map((network) => serviceOf(network, index)));
    const endpoints = this.#tasks.flatMap((task): OverlayEndpoint[] =>
      networks.map((network) => ({
        ...endpoint(network, task.host, {
          task: task.name,
          address: `${network.gateway.slice(0, -1)}${task.last}`,
          service: `s${task.service}`,
          ...(network.further !== undefined && { ipv6: ipv6Of(network.further, task) }),
        }),
        serving: task.serving,
      })),
    );
    // A foreign hand may have been there a moment ago: as the agent does, once more.
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await host.apply(networks, endpoints, { services, hosts });
      } catch (reason) {
        if (attempt >= 5) throw reason;
      }
    }
  }

  #pick<T>(items: readonly T[]): T {
    const item = items[this.#random.integer(items.length)];
    if (item === undefined) throw new Error("nothing to choose from");
    return item;
  }
}

/** The last number of its address of IPv4, in the network's block of IPv6. */
function ipv6Of([block]: NonNullable<OverlayNetwork["further"]>, { last }: ChaosTask): string {
  return `${block?.gateway.slice(0, -1) ?? ""}${last}`;
}

function serviceOf(network: OverlayNetwork, index: number): OverlayService {
  return {
    networkId: network.id,
    serviceId: `id-s${index}`,
    serviceName: `s${index}`,
    address: `${network.gateway.slice(0, -1)}${2 + index}`,
    aliases: [],
    ports: network.ingress ? [{ protocol: "udp", targetPort: 53, publishedPort: 15_000 + index }] : [],
    localFirst: false,
    within: [],
  };
}

const program = new Command("chaos")
  .description("random churn, kills, cuts and foreign hands on three hosts' networks, which must all mend")
  .option("--minutes <n>", "begin no further round after that", Number, 2)
  .option("--seed <n>", "of what happens", Number, 1);
program.parse();
const { minutes, seed } = program.opts<{ minutes: number; seed: number }>();
await using world = await World.open("chaos");
const chaos = new Chaos(world, seededRandom(seed));
const endMs = performance.now() + minutes * 60_000;
const times: number[] = [];
try {
  await chaos.populate();
  while (performance.now() < endMs) {
    for (let step = 0; step < stepsPerRound; step += 1) await chaos.step();
    times.push(await chaos.settle());
    console.log(`round ${times.length}: all is well after ${Math.round(times.at(-1) ?? 0)} ms`);
  }
  console.log(
    `${times.length} rounds, ${chaos.history.length} events, longest ${Math.round(Math.max(0, ...times))} ms`,
  );
} catch (reason) {
  console.error(
    `seed ${seed}, round ${times.length + 1}: ${String(reason)}\n${chaos.history.slice(-20).join("\n")}`,
  );
  process.exitCode = 1;
}
