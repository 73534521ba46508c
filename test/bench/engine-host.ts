/** A host of the lab whose engine is measured: ours or Docker's, asked the same through its socket. */
import { readFile } from "node:fs/promises";

import { Limit } from "../../runtime/limit.ts";
import { ApiError, call, type CallOptions } from "../lab/api.ts";
import { clearLab, type Host, Lab, labPlace } from "../lab/lab.ts";
import { registryAddress } from "../lab/lan.ts";
import { run } from "../lab/shell.ts";

const inFlight = 8;
/** Of one request: hundreds of containers on a crowded machine, or an image of 200 MB. */
const requestTimeoutMs = 120_000;
const engines = {
  shoal: { title: "Shoal", lab: "b-eng", payload: "shoald", daemon: "worker" },
  docker: { title: "Docker", lab: "b-engd", payload: "dockerd", daemon: "dockerd" },
} as const;

export type EngineName = keyof typeof engines;

export class EngineHost {
  readonly name: EngineName;
  readonly title: string;
  readonly lab: Lab;
  readonly #host: Host;

  private constructor(name: EngineName, lab: Lab) {
    const [host] = lab.hosts;
    if (host === undefined) throw new Error("assertion failed: a lab without hosts");
    this.name = name;
    this.title = engines[name].title;
    this.lab = lab;
    this.#host = host;
  }

  /** On its own wire, with its own registry; in no swarm. */
  static async up(name: EngineName): Promise<EngineHost> {
    const { lab, payload } = engines[name];
    const up = await Lab.up({ name: lab, payload, managers: 1, workers: 0, swarm: "none" });
    const host = new EngineHost(name, up);
    await host.#host.countProcessorTime();
    return host;
  }

  /** Also what an interrupted run of it left. */
  static clear(name: EngineName): Promise<void> {
    return clearLab(labPlace({ name: engines[name].lab }));
  }

  image(name: string): string {
    return `${registryAddress}/${name}`;
  }

  call<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
    return call<T>(this.#host.socket, method, path, { timeoutMs: requestTimeoutMs, ...options });
  }

  /** The docker client. */
  docker(...args: readonly string[]): Promise<string> {
    const env = { DOCKER_HOST: `unix://${this.#host.socket}` };
    return run(["docker", ...args], { env, timeoutMs: requestTimeoutMs });
  }

  /** Eight at a time, as a client with eight connections does it. @returns their ids. */
  async startContainers(count: number): Promise<readonly string[]> {
    return this.#each(Array.from({ length: count }), async () => {
      const body = { Image: this.image("bb:1"), Cmd: ["sleep", "100000"] };
      const { Id } = await this.call<{ Id: string }>("POST", "/containers/create", { body });
      await this.call("POST", `/containers/${Id}/start`);
      return Id;
    });
  }

  async removeContainers(ids: readonly string[]): Promise<void> {
    await this.#each(ids, (id) => this.call("DELETE", `/containers/${id}?force=true&v=true`));
  }

  async removeAllContainers(): Promise<void> {
    const all = await this.call<{ Id: string }[]>("GET", "/containers/json?all=true");
    await this.removeContainers(all.map(({ Id }) => Id));
  }

  /** Nothing where it is not there. */
  async removeImage(name: string): Promise<void> {
    await this.call("DELETE", `/images/${encodeURIComponent(this.image(name))}`).catch((error: unknown) => {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
    });
  }

  /** User and system time of everything on the host since it was up, containers included. */
  processorMs(): Promise<number> {
    return this.#host.processorMs();
  }

  /** Memory that no other process shares, of all processes of the engine: daemons, shims, and what they run. */
  async privateBytes(): Promise<number> {
    const own = (await this.#host.processes()).filter(({ depth }) => depth === 2); // Containers are a level deeper.
    const each = await Promise.all(own.map(({ pid }) => privateBytesOf(pid)));
    return each.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Of the process that answers the API. */
  async daemonBytes(): Promise<number> {
    const own = await this.#host.ownProcesses();
    return own[engines[this.name].daemon]?.rssBytes ?? Number.NaN;
  }

  async #each<Item, Result>(
    items: readonly Item[],
    work: (item: Item) => Promise<Result>,
  ): Promise<readonly Result[]> {
    const places = new Limit(inFlight);
    return Promise.all(items.map((item) => places.run(() => work(item), new AbortController().signal)));
  }
}

/** 0 for one that has ended. */
async function privateBytesOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8").catch(() => "");
  const lines = [...text.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB$/gm)];
  return lines.reduce((sum, [, kibibytes]) => sum + Number(kibibytes) * 1024, 0);
}
