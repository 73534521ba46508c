import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import { requestCertificate } from "../../daemon/certificate.ts";
import { ClusterError } from "../../model/errors.ts";
import type { HostSettings, ManagerStart, ManagerToDaemon, NodeIdentity } from "../../proto/host.ts";
import { bundledFile } from "../../runtime/programs.ts";

/** Real manager processes on loopback addresses, with the test in shoald's place. */
export class ManagerProcesses {
  readonly #children = new Set<ManagerProcess>();
  readonly #folder: string;
  readonly #net: string;
  #count = 0;

  private constructor(folder: string) {
    this.#folder = folder;
    // Its own part of 127.0.0.0/8, so that two test runs beside each other never want the same port.
    this.#net = `127.${100 + (process.pid % 100)}.${Math.floor(process.pid / 100) % 250}`;
  }

  /** @param within - Existing folder for all they keep; default the temp folder. */
  static async create(t: Test, within = tmpdir()): Promise<ManagerProcesses> {
    const folder = await mkdtemp(join(within, "shoal-managers-"));
    const processes = new ManagerProcesses(folder);
    t.teardown(async () => {
      await Promise.all([...processes.#children].map((child) => child.kill("SIGKILL")));
      await rm(folder, { recursive: true, force: true });
    });
    return processes;
  }

  /** A fresh address; the cluster port is always the same. */
  nextAddress(): string {
    this.#count += 1;
    return `${this.#net}.${this.#count}:2377`;
  }

  bootstrap(address = this.nextAddress()): ManagerProcess {
    const [host = ""] = address.split(":");
    const addresses = { listenAddress: address, advertiseAddress: address, dataPathAddress: host };
    const request = {
      ...addresses,
      dataPathPort: 0,
      addressPools: [],
      subnetBits: 0,
      forceNewCluster: false,
      availability: "active",
      spec: {},
    } as const;
    return this.start(address, { kind: "bootstrap", request, ...addresses });
  }

  /** Gets a certificate with the token and starts a manager that joins. */
  async join(remote: string, token: string): Promise<ManagerProcess> {
    const address = this.nextAddress();
    return this.start(address, { kind: "join", identity: await this.issue(remote, token, address) });
  }

  async issue(
    remote: string,
    token: string,
    address = this.nextAddress(),
    nowMs = Date.now(),
  ): Promise<NodeIdentity> {
    const request = { remotes: [remote], token, availability: "active", hostname: "test", nowMs } as const;
    const { issued } = await requestCertificate(request, AbortSignal.timeout(20_000));
    const [host = ""] = address.split(":");
    return { ...issued, listenAddress: address, advertiseAddress: address, dataPathAddress: host };
  }

  start(address: string, start: ManagerStart): ManagerProcess {
    const folder = join(this.#folder, address.replace(":", "-"));
    const child = new ManagerProcess(address, folder, start);
    this.#children.add(child);
    return child;
  }
}

export interface Answer {
  readonly status: number;
  readonly json: unknown;
}

export class ManagerProcess {
  readonly address: string;
  readonly #folder: string;
  readonly #messages: ManagerToDaemon[] = [];
  readonly #waiting = new Set<() => void>();
  readonly #child: ChildProcess;
  readonly exited: Promise<string>;
  #identity: NodeIdentity | undefined;
  /** Everything it logged. */
  log = "";

  constructor(address: string, folder: string, start: ManagerStart) {
    this.address = address;
    this.#folder = folder;
    this.#identity = start.kind === "bootstrap" ? undefined : start.identity;
    const entry = fileURLToPath(bundledFile("manager"));
    this.#child = fork(entry, [], {
      env: { ...process.env, SHOAL_HOST: JSON.stringify(settingsIn(folder)) },
      execArgv: ["--enable-source-maps"],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    this.#child.stderr?.on("data", (chunk: Buffer) => (this.log += chunk.toString()));
    if (process.env["SHOAL_TEST_LOG"] !== undefined) this.#child.stderr?.pipe(process.stderr);
    this.exited = new Promise((resolve) => {
      this.#child.once("exit", (code, signal) => {
        resolve(signal ?? String(code));
        for (const wake of this.#waiting) wake();
      });
    });
    this.#child.on("message", (message: ManagerToDaemon) => {
      if (message.kind === "bootstrapped") this.#identity = message.identity;
      this.#messages.push(message);
      for (const wake of this.#waiting) wake();
    });
    this.#child.send({ kind: "start", start });
  }

  get identity(): NodeIdentity {
    if (this.#identity === undefined) throw new Error("it has no identity yet");
    return this.#identity;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  send(
    message: { readonly kind: "leave" } | { readonly kind: "identity"; readonly identity: NodeIdentity },
  ): void {
    this.#child.send(message);
  }

  /** Its next message of that kind; rejects with its log when it ends without one. */
  async message<Kind extends ManagerToDaemon["kind"]>(kind: Kind, timeoutMs = 30_000) {
    const endMs = Date.now() + timeoutMs;
    for (;;) {
      const found = this.#messages.find((message) => message.kind === kind);
      if (found !== undefined) return found as Extract<ManagerToDaemon, { kind: Kind }>;
      const ended = this.#child.exitCode ?? this.#child.signalCode;
      const failed = this.#messages.find((message) => message.kind === "failed");
      if (failed?.kind === "failed") throw new ClusterError(failed.code, failed.message);
      if (ended !== null || Date.now() > endMs)
        throw new Error(`no '${kind}' (ended: ${ended}):\n${this.log}`);
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, timeoutMs);
        this.#waiting.add(wake);
      });
    }
  }

  /** A REST request to its socket. */
  call(method: string, path: string, body?: unknown): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        {
          socketPath: join(this.#folder, "manager.sock"),
          method,
          path: `/v1.50${path}`,
          headers: body === undefined ? {} : { "content-type": "application/json" },
          timeout: 15_000,
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("error", reject);
          response.on("end", () => {
            const text = Buffer.concat(chunks).toString();
            try {
              resolve({ status: response.statusCode ?? 0, json: text === "" ? undefined : JSON.parse(text) });
            } catch (error) {
              reject(error);
            }
          });
        },
      );
      request.on("timeout", () => request.destroy(new Error(`no answer to ${method} ${path}`)));
      request.on("error", reject);
      request.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  async kill(signal: "SIGKILL" | "SIGTERM"): Promise<string> {
    this.#child.kill(signal);
    return this.exited;
  }

  /** Every file it keeps, by path. */
  async dataFiles(): Promise<string[]> {
    const folder = join(this.#folder, "manager");
    const entries = await readdir(folder, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  }

  disconnect(): void {
    this.#child.disconnect();
  }
}

function settingsIn(folder: string): HostSettings {
  return {
    stateDir: folder,
    runDir: folder,
    socket: join(folder, "shoal.sock"),
    managerSocket: join(folder, "manager.sock"),
    hostname: "test",
    containerd: "",
    runtime: "runc",
    runtimeRoot: folder,
    cgroupParent: "/shoal-test",
    insecureRegistries: [],
    engineLabels: {},
    bridgeSubnet: "172.29.0.0/16",
    natsServer: "/nonexistent/nats-server",
    logLevel: "info",
  };
}

/** Asks again until the answer is yes. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined>,
  timeoutMs = 20_000,
): Promise<T> {
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    const found = await look().catch((error: unknown) => {
      if (Date.now() > endMs) throw error;
      return undefined;
    });
    if (found !== undefined) return found;
    if (Date.now() > endMs) throw new Error(`${what} did not happen within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
