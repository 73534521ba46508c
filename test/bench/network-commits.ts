/**
 * How long it takes from the commit of a service's new or ended task until the rules of every host lead to it, or no longer:
 * a cluster in the lab, whose kernels tell each change of their rules (`nft monitor`).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

import { call } from "../lab/api.ts";
import { clearLab, Lab, labPlace } from "../lab/lab.ts";
import { registryAddress } from "../lab/lan.ts";
import { sleep } from "../lab/shell.ts";

const labName = "b-commit";
const workers = 2;
const fewest = 6;
const most = 10;
const pollEveryMs = 5;
const settleMs = 30_000;
const network = "bench";

interface Task {
  readonly ID: string;
  readonly DesiredState: string;
  readonly Status: { readonly State: string };
  readonly NetworksAttachments?: readonly { readonly Addresses?: readonly string[] }[];
}

interface Service {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: object;
}

/** What one host's rules lead to, and since when. */
interface Seen {
  readonly atMs: number;
  readonly addresses: ReadonlySet<string>;
}

/** A task that begins to serve, or ends to, and when that was not yet so in the API. */
interface Change {
  readonly address: string;
  readonly serving: boolean;
  readonly afterMs: number;
}

/**
 * @param untilMs - No scaling begins after this, in the time of `performance.now()`.
 * @returns Milliseconds of each change until the last host had it.
 */
export async function measureCommits(rounds: number, untilMs: number): Promise<readonly number[]> {
  const lab = await Lab.up({ name: labName, managers: 1, workers });
  const monitors = lab.hosts.map(({ netns }) => new RuleMonitor(netns));
  try {
    const socket = lab.hosts[0]?.socket ?? "";
    await call(socket, "POST", "/networks/create", { body: { Name: network, Driver: "overlay" } });
    const { ID } = await call<{ ID: string }>(socket, "POST", "/services/create", { body: service(fewest) });
    const watch = new TaskWatch(socket, ID);
    await watch.reach(fewest);
    const times: number[] = [];
    for (let round = 0; round < rounds && performance.now() < untilMs; round += 1) {
      for (const count of [most, fewest]) {
        const { Version, Spec } = await call<Service>(socket, "GET", `/services/${ID}`);
        const body = { ...Spec, Mode: { Replicated: { Replicas: count } } };
        await call(socket, "POST", `/services/${ID}/update?version=${Version.Index}`, { body });
        const changes = await watch.reach(count);
        // Before the next: what ends before a host has heard of it never comes there.
        times.push(...(await Promise.all(changes.map((change) => timeOf(change, monitors)))));
      }
    }
    return times;
  } finally {
    for (const monitor of monitors) monitor.stop();
  }
}

export function closeCommits(): Promise<void> {
  return clearLab(labPlace({ name: labName }));
}

async function timeOf(change: Change, monitors: readonly RuleMonitor[]): Promise<number> {
  const times = await Promise.all(monitors.map((monitor) => monitor.when(change)));
  return Math.max(...times) - change.afterMs;
}

/** Reads the service's tasks again and again, and notes what changed between two looks. */
class TaskWatch {
  readonly #socket: string;
  readonly #path: string;
  #serving: ReadonlySet<string> = new Set();
  #lookedMs = performance.now();

  constructor(socket: string, serviceId: string) {
    this.#socket = socket;
    this.#path = `/tasks?filters=${encodeURIComponent(JSON.stringify({ service: { [serviceId]: true } }))}`;
  }

  /** Until so many serve. */
  async reach(count: number): Promise<readonly Change[]> {
    const changes: Change[] = [];
    const endMs = performance.now() + settleMs;
    while (this.#serving.size !== count) {
      if (performance.now() > endMs) throw new Error(`not within ${settleMs} ms: ${count} tasks serve`);
      changes.push(...(await this.#look()));
      await sleep(pollEveryMs);
    }
    return changes;
  }

  async #look(): Promise<readonly Change[]> {
    const beforeMs = this.#lookedMs;
    const lookedMs = performance.now(); // Before it is asked: what comes after the answer was made, is after this.
    const tasks = await call<Task[]>(this.#socket, "GET", this.#path);
    const now = new Set(tasks.filter(isServing).map(addressOf));
    const before = this.#serving;
    this.#serving = now;
    this.#lookedMs = lookedMs;
    const change = (address: string): Change => ({ address, serving: now.has(address), afterMs: beforeMs });
    return [...new Set([...before, ...now])]
      .filter((address) => before.has(address) !== now.has(address))
      .map(change);
  }
}

function isServing({ DesiredState, Status }: Task): boolean {
  return DesiredState === "running" && Status.State === "running";
}

function addressOf({ NetworksAttachments = [] }: Task): string {
  return NetworksAttachments[0]?.Addresses?.[0]?.split("/")[0] ?? "";
}

/** The rules of one host's only virtual IP, as the kernel tells them. */
class RuleMonitor {
  readonly #child: ChildProcess;
  readonly #seen: Seen[] = [];

  constructor(netns: string) {
    const argv = [`--net=/run/netns/${netns}`, "nft", "monitor", "new", "rules"];
    this.#child = spawn("nsenter", argv, { stdio: ["ignore", "pipe", "ignore"] });
    const { stdout } = this.#child;
    if (stdout === null) throw new Error("assertion failed: no output of nft");
    createInterface({ input: stdout }).on("line", (line) => {
      if (!line.startsWith("add rule ip shoal_net vip_")) return;
      const addresses = new Set(
        [...line.matchAll(/ : (\d+\.\d+\.\d+\.\d+)/g)].map(([, address = ""]) => address),
      );
      this.#seen.push({ atMs: performance.now(), addresses });
    });
  }

  /** When its rules first had the change. */
  async when({ address, serving, afterMs }: Change): Promise<number> {
    for (const endMs = performance.now() + settleMs; performance.now() < endMs; await sleep(pollEveryMs)) {
      const found = this.#seen.find(
        ({ atMs, addresses }) => atMs >= afterMs && addresses.has(address) === serving,
      );
      if (found !== undefined) return found.atMs;
    }
    return Number.NaN;
  }

  stop(): void {
    this.#child.kill();
  }
}

function service(replicas: number): object {
  return {
    Name: "bench",
    TaskTemplate: {
      ContainerSpec: {
        Image: `${registryAddress}/bb:1`,
        Command: ["sleep", "100000"],
        StopGracePeriod: 1_000_000,
      },
      Networks: [{ Target: network }],
    },
    Mode: { Replicated: { Replicas: replicas } },
  };
}
