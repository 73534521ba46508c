/** A host's front door over a real containerd and kernel network, in this process, and the docker client in front of it. */
import { execFile } from "node:child_process";
import { Agent } from "node:http";
import { join } from "node:path";

import type { HostSettings } from "../../proto/host.ts";
import { systemClock } from "../../runtime/clock.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { Attachments } from "../../worker/agent/attachments.ts";
import { type FrontDoor, openFrontDoor } from "../../worker/api/server.ts";
import { LocalNetworks } from "../../worker/bridges/networks.ts";
import { Builder } from "../../worker/builder/builder.ts";
import { LocalContainers } from "../../worker/containers/containers.ts";
import type { LocalEngine } from "../../worker/engine/local.ts";
import type { HostNetwork } from "../../worker/network/network.ts";
import { openHostNetwork } from "../../worker/network/open.ts";
import { startTestHost, type TestHost } from "./containerd.ts";

export interface Said {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Everything a worker has but its agent. */
export class LocalHost {
  readonly host: TestHost;
  readonly settings: HostSettings;
  readonly warnings: string[] = [];
  engine!: LocalEngine;
  #network!: HostNetwork;
  #containers!: LocalContainers;
  #door!: FrontDoor;
  #daemonRuns = 1;

  private constructor(host: TestHost) {
    this.host = host;
    this.settings = {
      ...host.settings,
      socket: join(host.directory, "shoal.sock"),
      managerSocket: join(host.directory, "manager.sock"),
      engineLabels: {},
      bridgeSubnet: "172.30.0.0/16",
      natsServer: "nats-server",
      logLevel: "warn",
    };
  }

  static async start(name: string): Promise<LocalHost> {
    const local = new LocalHost(await startTestHost(name));
    await local.#open();
    return local;
  }

  /** What happens while no worker is there; then a new one finds it. */
  async away(meanwhile: () => Promise<void>, daemon: "kept" | "restarted" = "kept"): Promise<void> {
    await this.#close();
    await meanwhile();
    if (daemon === "restarted") this.#daemonRuns += 1;
    await this.#open();
  }

  async stop(): Promise<void> {
    await this.#close();
    await this.host.stop();
  }

  docker(...args: string[]): Promise<Said> {
    return this.dockerWith("", ...args);
  }

  /** With something on its standard input. */
  dockerWith(input: string, ...args: string[]): Promise<Said> {
    return this.#run(input, "docker", args);
  }

  #run(input: string, command: string, args: readonly string[]): Promise<Said> {
    const env = {
      PATH: process.env["PATH"],
      HOME: this.host.directory,
      DOCKER_HOST: `unix://${this.settings.socket}`,
    };
    return new Promise((resolve) => {
      const child = execFile(
        command,
        [...args],
        { env, timeout: 120_000, maxBuffer: 16 * 2 ** 20 },
        (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code ?? 255), out, err }),
      );
      child.stdin?.on("error", () => undefined); // It may end before it has read all.
      child.stdin?.end(input);
    });
  }

  /** A shell whose docker is this host's. */
  shell(input: string, script: string): Promise<Said> {
    return this.#run(input, "sh", ["-c", script]);
  }

  async #open(): Promise<void> {
    const deps = { clock: systemClock, random: systemRandom };
    const log = createLog("test", "warn");
    const warn = (text: string): void => void this.warnings.push(text);
    this.engine = await this.host.openEngine();
    const networks = await LocalNetworks.open({ ...deps, ...this.settings });
    const network = await openHostNetwork(
      { ...deps, warn },
      { ...this.settings, bridges: networks.bridges },
      new AbortController().signal,
    );
    await network.restored;
    this.#network = network;
    networks.use(network);
    const { engine } = this;
    const cluster = new Attachments(deps);
    cluster.leave();
    this.#containers = await LocalContainers.open({
      ...deps,
      log,
      engine,
      network: this.#network,
      networks,
      cluster,
      directory: join(this.settings.stateDir, "local"),
      daemonRun: String(this.#daemonRuns),
      facts: await engine.info(),
    });
    this.#door = await openFrontDoor({
      clock: systemClock,
      log,
      settings: this.settings,
      engine,
      containers: this.#containers,
      builder: new Builder({ ...deps, warn, engine, network: this.#network, settings: this.settings }),
      network: this.#network,
      networks,
      toManager: new Agent(),
      node: () => ({ state: "inactive", error: "", managers: [] }),
      healthOf: () => undefined,
      swarm: () => Promise.resolve({ kind: "failed", code: "unavailable", message: "no shoald here" }),
      interfaces: () => [],
    });
  }

  async #close(): Promise<void> {
    await this.#door.close();
    await this.#containers.close();
    await this.#network.close();
    await this.engine.close();
  }
}
