/** A real dockerd beside a test's own containerd and registry, in the caller's namespaces. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { startTestHost, type TestHost } from "../integration/containerd.ts";
import { run, waitFor } from "../lab/shell.ts";

const readyMs = 60_000;

export class Dockerd {
  readonly #host: TestHost;
  readonly #process: ChildProcess;

  private constructor(host: TestHost, process: ChildProcess) {
    this.#host = host;
    this.#process = process;
  }

  /** @throws {Error} where Debian's docker.io is not installed, or it does not come up. */
  static async start(name: string): Promise<Dockerd> {
    const host = await startTestHost(name);
    const log = openSync(join(host.directory, "dockerd.log"), "a");
    const { directory, settings } = host;
    const flags = {
      host: `unix://${join(directory, "docker.sock")}`,
      "data-root": join(directory, "docker"),
      "exec-root": join(directory, "docker-exec"),
      pidfile: join(directory, "docker.pid"),
      containerd: settings.containerd,
      "cgroup-parent": settings.cgroupParent,
      "storage-driver": "overlay2",
      "log-level": "warn",
      bip: "172.30.0.1/16",
    };
    const args = Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`);
    const dockerd = new Dockerd(host, spawn("dockerd", args, { stdio: ["ignore", log, log] }));
    closeSync(log);
    try {
      await dockerd.#ready();
      return dockerd;
    } catch (error) {
      await dockerd.stop();
      throw error;
    }
  }

  get directory(): string {
    return this.#host.directory;
  }

  get registry(): string {
    return this.#host.registry;
  }

  get socket(): string {
    return join(this.directory, "docker.sock");
  }

  get dataRoot(): string {
    return join(this.directory, "docker");
  }

  get execRoot(): string {
    return join(this.directory, "docker-exec");
  }

  version(): Promise<string> {
    return this.#docker("version", "--format", "{{.Server.Version}}");
  }

  async stop(): Promise<void> {
    const { exitCode, pid } = this.#process;
    if (pid !== undefined && exitCode === null) {
      this.#process.kill("SIGTERM");
      await once(this.#process, "exit");
    }
    await this.#host.stop();
  }

  async #ready(): Promise<void> {
    let failure: Error | undefined;
    this.#process.once("error", (cause) => {
      failure = new Error("cannot start dockerd: install the Debian package docker.io", { cause });
    });
    const isUp = await waitFor("an answer of dockerd", { timeoutMs: readyMs }, async () => {
      if (failure !== undefined || this.#process.exitCode !== null) return "ended";
      return (await this.#docker("version")) && "up";
    });
    if (failure !== undefined) throw failure;
    if (isUp === "ended")
      throw new Error(`dockerd ended with ${this.#process.exitCode}; see ${this.directory}/dockerd.log`);
  }

  async #docker(...args: string[]): Promise<string> {
    return (await run(["docker", ...args], { env: { DOCKER_HOST: `unix://${this.socket}` } })).trim();
  }
}
