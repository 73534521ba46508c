import { type ChildProcess, fork } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { requestCertificate } from "../../daemon/certificate.ts";
import type { HostSettings, ManagerStart, ManagerToDaemon } from "../../proto/host.ts";
import { bundledFile } from "../../runtime/programs.ts";
import { call } from "../lab/api.ts";
import { waitFor } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import type { ProbeAnswer } from "./scale-probe.ts";

const startTimeoutMs = 30_000;
const kibibyte = 1024;

/** Manager processes of this machine that form a cluster; the benchmark stands in for their shoald. */
export class BenchManagers implements AsyncDisposable {
  readonly #folder: string;
  readonly #execArgv: readonly string[];
  readonly #all: ManagerProcess[] = [];
  workerToken = "";
  rootPem = "";

  private constructor(folder: string, execArgv: readonly string[]) {
    this.#folder = folder;
    this.#execArgv = execArgv;
  }

  /**
   * @param execArgv - Options of Node for the managers, such as `--cpu-prof`.
   * @param spec - Of the cluster, in the Engine API's form.
   */
  static async start(count: number, execArgv: readonly string[], spec: unknown = {}): Promise<BenchManagers> {
    const folder = await mkdtemp(join(tmpdir(), "shoal-bench-scale-"));
    const managers = new BenchManagers(folder, execArgv);
    try {
      const first = await managers.#add((addresses) => {
        const none = { dataPathPort: 0, addressPools: [], subnetBits: 0, forceNewCluster: false } as const;
        const request = { ...addresses, ...none, availability: "drain", spec } as const;
        return Promise.resolve({ kind: "bootstrap", request, ...addresses });
      });
      const { JoinTokens, TLSInfo } = await call<{
        readonly JoinTokens: Record<"Manager" | "Worker", string>;
        readonly TLSInfo: { readonly TrustRoot: string };
      }>(first.socket, "GET", "/swarm");
      managers.workerToken = JoinTokens.Worker;
      managers.rootPem = TLSInfo.TrustRoot;
      for (let i = 1; i < count; i += 1) {
        await managers.#add(async (addresses) => {
          const { issued } = await requestCertificate(
            {
              remotes: [first.address],
              token: JoinTokens.Manager,
              availability: "drain",
              hostname: `manager-${i}`,
              nowMs: Date.now(),
            },
            AbortSignal.timeout(startTimeoutMs),
          );
          return { kind: "join", identity: { ...issued, ...addresses } };
        });
      }
      await waitFor("every manager is reachable", { timeoutMs: startTimeoutMs }, async () => {
        const nodes = await call<NodeSummary[]>(first.socket, "GET", "/nodes");
        return nodes.filter((node) => node.ManagerStatus?.Reachability === "reachable").length === count;
      });
      return managers;
    } catch (error) {
      await managers[Symbol.asyncDispose]();
      throw error;
    }
  }

  get running(): readonly ManagerProcess[] {
    return this.#all.filter(({ hasEnded }) => !hasEnded);
  }

  get addresses(): readonly string[] {
    return this.#all.map(({ address }) => address);
  }

  leader(): Promise<ManagerProcess> {
    return waitFor("a leader", { timeoutMs: startTimeoutMs, everyMs: 20 }, async () => {
      for (const manager of this.running) {
        const node = await call<NodeSummary>(manager.socket, "GET", `/nodes/${manager.nodeId}`);
        if (node.ManagerStatus?.Leader === true) return manager;
      }
      return undefined;
    });
  }

  async #add(
    startOf: (addresses: Record<AddressName, string>) => Promise<ManagerStart>,
  ): Promise<ManagerProcess> {
    // Its own part of 127.0.0.0/8: there no port is taken, not even by a connection of somebody else.
    const host = `127.${200 + (process.pid % 50)}.${Math.floor(process.pid / 50) % 250}.${this.#all.length + 1}`;
    const address = `${host}:2377`;
    const addresses = { listenAddress: address, advertiseAddress: address, dataPathAddress: host };
    const start = await startOf(addresses);
    const folder = join(this.#folder, `manager-${this.#all.length}`);
    await mkdir(folder);
    const manager = new ManagerProcess({ address, folder, start, execArgv: this.#execArgv });
    this.#all.push(manager);
    await manager.ready;
    return manager;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.running.map((manager) => manager.stop()));
    await rm(this.#folder, { recursive: true, force: true });
  }
}

type AddressName = "listenAddress" | "advertiseAddress" | "dataPathAddress";

export class ManagerProcess {
  readonly address: string;
  readonly socket: string;
  readonly ready: Promise<void>;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  nodeId = "";

  constructor(options: {
    readonly address: string;
    readonly folder: string;
    readonly start: ManagerStart;
    readonly execArgv: readonly string[];
  }) {
    const { address, folder, start, execArgv } = options;
    const settings = settingsIn(folder);
    this.address = address;
    this.socket = settings.managerSocket;
    if (start.kind !== "bootstrap") this.nodeId = start.identity.nodeId;
    const entry = fileURLToPath(bundledFile("manager"));
    const probe = new URL("./scale-probe.js", import.meta.url).href;
    this.#child = fork(entry, [], {
      env: { ...process.env, SHOAL_HOST: JSON.stringify(settings), MALLOC_ARENA_MAX: "2" },
      execArgv: ["--import", probe, ...execArgv],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    let said = "";
    this.#child.stderr?.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4_000)));
    const log = process.env["SHOAL_BENCH_LOG"];
    if (log !== undefined) this.#child.stderr?.pipe(createWriteStream(`${log}.${address.split(":")[0]}`));
    this.#ended = new Promise((resolve) => this.#child.once("exit", () => resolve()));
    this.ready = new Promise((resolve, reject) => {
      this.#child.once("exit", () => reject(new Error(`a manager ended:\n${said}`)));
      this.#child.on("message", (message: ManagerToDaemon) => {
        if (message.kind === "bootstrapped") this.nodeId = message.identity.nodeId;
        if (message.kind === "ready") resolve();
        if (message.kind === "failed") reject(new Error(message.message));
      });
    });
    this.ready.catch(() => undefined); // Whoever starts us awaits it.
    this.#child.send({ kind: "start", start });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** How its main thread fared since this was asked before. */
  probe(): Promise<ProbeAnswer> {
    return new Promise((resolve) => {
      const take = (message: ManagerToDaemon | ProbeAnswer): void => {
        if (message.kind !== "probe") return;
        this.#child.off("message", take);
        resolve(message);
      };
      this.#child.on("message", take);
      this.#child.send({ kind: "probe" });
    });
  }

  kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    return this.#ended;
  }

  stop(): Promise<void> {
    this.#child.kill("SIGTERM");
    return this.#ended;
  }
}

/** Memory that is in use by a process, and the most it ever was. */
export async function residentBytes(pid: number): Promise<{ readonly now: number; readonly peak: number }> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? Number.NaN) * kibibyte;
  return { now: field("VmRSS"), peak: field("VmHWM") };
}

function settingsIn(folder: string): HostSettings {
  return {
    stateDir: folder,
    runDir: folder,
    socket: join(folder, "shoal.sock"),
    managerSocket: join(folder, "manager.sock"),
    hostname: "bench",
    containerd: "",
    runtime: "runc",
    runtimeRoot: folder,
    cgroupParent: "/shoal-bench",
    insecureRegistries: [],
    engineLabels: {},
    bridgeSubnet: "172.29.0.0/16",
    natsServer: "nats-server",
    logLevel: process.env["SHOAL_BENCH_LOG"] === undefined ? "error" : "debug",
  };
}
