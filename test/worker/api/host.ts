import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { Agent, createServer, request as httpRequest } from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ClusterId, NodeId, TaskId } from "../../../model/ids.ts";
import type { HostSettings, NodeIdentity, SwarmOperation, SwarmOutcome } from "../../../proto/host.ts";
import { type Clock, systemClock } from "../../../runtime/clock.ts";
import { silentLog } from "../../../runtime/log.ts";
import { openFrontDoor } from "../../../worker/api/server.ts";
import type { HostInterface, NodeView } from "../../../worker/api/deps.ts";
import { containerName, createRequest, taskSpec } from "../../../worker/task/request.ts";
import { assignment } from "../agent/fixtures.ts";
import { FakeEngine } from "../../sim/engine.ts";
import { FakeNetwork, fakeNetworks } from "../../sim/network.ts";

export const oneInterface: HostInterface[] = [{ name: "eth0", addresses: ["10.9.0.1"] }];
export const notMember =
  'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.';

export interface HasTeardown {
  teardown(work: () => Promise<void>): void;
}

/** A front door over fakes; what it asks of shoald and the manager is scripted. */
export class Host {
  view: NodeView = { state: "inactive", error: "", managers: [] };
  interfaces: HostInterface[] = oneInterface;
  outcome: SwarmOutcome = { kind: "done", nodeId: "node1" };
  readonly operations: SwarmOperation[] = [];
  readonly engine = new FakeEngine(systemClock, { registry: { "web:1": { output: ["hello"] } } });
  readonly network = new FakeNetwork();
  readonly directory: string;
  readonly settings: HostSettings;
  readonly #toManager = new Agent({ keepAlive: true });

  readonly #clock: Clock;

  private constructor(directory: string, clock: Clock) {
    this.directory = directory;
    this.#clock = clock;
    this.settings = {
      stateDir: directory,
      runDir: directory,
      socket: join(directory, "shoal.sock"),
      socketGroup: 4_242,
      managerSocket: join(directory, "manager.sock"),
      hostname: "host1",
      containerd: "",
      runtime: "crun",
      runtimeRoot: "",
      cgroupParent: "/shoal",
      insecureRegistries: ["10.0.0.1:5000"],
      proxies: { httpProxy: "", httpsProxy: "http://me:secret@proxy:3128", noProxy: "10.0.0.0/8" },
      engineLabels: { zone: "a" },
      bridgeSubnet: "172.20.0.0/16",
      natsServer: "",
      logLevel: "error",
    };
  }

  static async open(t: HasTeardown, clock = systemClock): Promise<Host> {
    const host = new Host(await mkdtemp(join(tmpdir(), "shoal-door-")), clock);
    await writeFile(host.settings.socket, ""); // What a killed process leaves.
    const door = await host.serve();
    t.teardown(async () => {
      await door.close();
      await rm(host.directory, { recursive: true });
    });
    return host;
  }

  async serve() {
    const networks = await fakeNetworks(this.network, this.settings);
    return openFrontDoor({
      clock: this.#clock,
      log: silentLog,
      settings: this.settings,
      engine: this.engine,
      network: this.network,
      networks,
      toManager: this.#toManager,
      node: () => this.view,
      healthOf: () => undefined,
      swarm: async (operation) => {
        this.operations.push(operation);
        return this.outcome;
      },
      interfaces: () => this.interfaces,
    });
  }

  become(role: "manager" | "worker"): void {
    this.view = {
      state: "active",
      error: "",
      identity: {
        nodeId: "node1",
        clusterId: "c" as ClusterId,
        role,
        dataPathAddress: "10.9.0.1",
      } as NodeIdentity,
      managers: [{ nodeId: "m1", address: "10.9.0.2:2377" }],
    };
  }

  /** Answers swarm routes in the manager's place. */
  async manager(
    t: HasTeardown,
    answer: (request: IncomingMessage, response: ServerResponse) => void,
  ): Promise<void> {
    const server = createServer(answer).listen(this.settings.managerSocket);
    await once(server, "listening");
    t.teardown(async () => {
      server.closeAllConnections();
      server.close();
    });
  }

  async ask(method: string, path: string, body?: string): Promise<Answer> {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const request = httpRequest({ socketPath: this.settings.socket, method, path, headers });
    request.end(body);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const pieces: Buffer[] = [];
    for await (const piece of response) pieces.push(piece as Buffer);
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(pieces) };
  }

  docker(...args: string[]): Promise<{ code: number; out: string; err: string }> {
    const env = {
      PATH: process.env["PATH"],
      HOME: this.directory,
      DOCKER_HOST: `unix://${this.settings.socket}`,
    };
    return new Promise((resolve) => {
      execFile("docker", args, { env, timeout: 20_000 }, (error, out, err) =>
        resolve({ code: error === null ? 0 : Number(error.code), out, err }),
      );
    });
  }

  /** A running container of a task. */
  async run(taskId: string, id: string): Promise<void> {
    const { signal } = new AbortController();
    await this.engine.pull("web:1", {}, signal);
    const host = {
      nodeId: "node1" as NodeId,
      hostname: "host1",
      platform: { architecture: "x86_64", os: "linux" },
    };
    const task = assignment(taskId);
    const attached = await this.network.attach(
      {
        taskId: taskId as TaskId,
        containerId: id,
        networks: [],
        host: false,
        none: false,
        ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 8080, publishMode: "host" }],
        hostname: "x",
        name: containerName(task, host.nodeId),
        extraHosts: [],
      },
      signal,
    );
    await this.engine.create(
      createRequest(task, id, taskSpec(task, host), host, attached, () => undefined),
      signal,
    );
    await this.engine.start(id, signal);
  }
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export const messageOf = ({ body }: Answer) => (JSON.parse(body.toString()) as { message: string }).message;
export const id = "ab".repeat(32);
