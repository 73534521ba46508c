import { Agent as HttpAgent } from "node:http";
import { hostOf } from "../model/address.ts";
import { ClusterError, errorText } from "../model/errors.ts";
import type { NodeDescription } from "../model/node.ts";
import type {
  DaemonToWorker,
  HostSettings,
  NodeIdentity,
  SwarmOperation,
  SwarmOutcome,
  WorkerToDaemon,
} from "../proto/host.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Disk } from "../runtime/disk.ts";
import { FabricLink } from "../runtime/fabric.ts";
import { productVersion } from "../runtime/http.ts";
import type { Log } from "../runtime/log.ts";
import { LoopGroup } from "../runtime/loop.ts";
import type { Random } from "../runtime/random.ts";
import { deadline } from "../runtime/signal.ts";
import { channelCredentials, TlsKeeper } from "../runtime/tls.ts";
import { openDispatcher } from "./agent/channel.ts";
import { Agent } from "./agent/agent.ts";
import { Attachments, type LostPlace } from "./agent/attachments.ts";
import { Journal } from "./agent/journal.ts";
import type { NodeView } from "./api/deps.ts";
import { openFrontDoor } from "./api/server.ts";
import type { FrontDoor } from "./api/server.ts";
import type { LocalNetworks } from "./bridges/networks.ts";
import { Builder } from "./builder/builder.ts";
import { LocalContainers } from "./containers/containers.ts";
import { daemonRun } from "./containers/daemon-run.ts";
import type { LocalEngine } from "./engine/local.ts";
import type { HealthState } from "./health/state.ts";
import type { LoggedTask } from "./logs/publish.ts";
import { publishLogs } from "./logs/publish.ts";
import { answerNetworkChecks } from "./network/answer.ts";
import type { HostNetwork } from "./network/network.ts";
import {
  type DataPathDeps,
  dataPathLookMs,
  dataPathLooks,
  dataPathNow,
  hostDataPath,
  ownInterfaces,
} from "./data-path.ts";

/** Longest that a node's tasks may take to stop once it has left its cluster; the rest is removed by force. */
const leaveTimeoutMs = 60_000;
/** shoald bounds its own answers by 20 s; this only guards against a lost reply. */
const operationTimeoutMs = 30_000;
/** Connections to the manager beside us that stay open between requests: answers of many clients come at once. */
const idleConnections = 128;
/** Managers close connections that idle for 72 s; ours go well before, so that no request meets a closing one. */
const idleTimeoutMs = 30_000;
/** Of how many containers the latest health is kept. */
const healthLimit = 4_096;

export interface WorkerDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly disk: Disk;
  readonly log: Log;
  readonly settings: HostSettings;
  readonly engine: LocalEngine;
  readonly network: HostNetwork;
  readonly networks: LocalNetworks;
  /** The host's own, unless a test says otherwise. */
  readonly dataPath?: DataPathDeps;
  /** To shoald. */
  send(message: WorkerToDaemon): void;
}

/** One node's membership of one cluster, as long as it lasts. */
interface Membership {
  readonly identity: NodeIdentity;
  readonly keeper: TlsKeeper;
  readonly agent: Agent;
  readonly loops: LoopGroup;
}

/** All of the worker process but its entry: the front door always, the agent while the node is in a cluster. */
export class Worker {
  readonly #deps: WorkerDeps;
  readonly #journal: Journal;
  readonly #description: NodeDescription;
  readonly #attachments: Attachments;
  readonly #health = new Map<string, HealthState>();
  readonly #replies = new Map<number, (outcome: SwarmOutcome) => void>();
  readonly #ending = new AbortController();
  #door: FrontDoor | undefined;
  #containers: LocalContainers | undefined;
  #member: Membership | undefined;
  #view: NodeView = { state: "pending", error: "", managers: [] };
  #changes: Promise<void> = Promise.resolve();
  #requestId = 0;

  private constructor(deps: WorkerDeps, journal: Journal, description: NodeDescription) {
    this.#deps = deps;
    this.#journal = journal;
    this.#description = description;
    this.#attachments = new Attachments(deps);
  }

  /** Opens the journal and the front door; then shoald's messages may come. */
  static async open(deps: WorkerDeps): Promise<Worker> {
    const journal = await Journal.open(deps, `${deps.settings.stateDir}/worker`);
    const worker = new Worker(deps, journal, await describeNode(deps));
    const { clock, random, log, settings, engine, network, networks } = deps;
    const toManager = new HttpAgent({
      keepAlive: true,
      maxFreeSockets: idleConnections,
      timeout: idleTimeoutMs,
    });
    const containers = await LocalContainers.open({
      clock,
      random,
      log,
      engine,
      network,
      networks,
      cluster: worker.#attachments,
      directory: `${settings.stateDir}/local`,
      daemonRun: await daemonRun(),
      facts: await engine.info(),
    });
    worker.#containers = containers;
    worker.#attachments.onLost((lost) => worker.#leaveNetwork(lost));
    const warn = (message: string, error: unknown): void => log.warn({ error: errorText(error) }, message);
    const builder = new Builder({ clock, random, engine, network, settings, warn });
    worker.#door = await openFrontDoor({
      clock,
      log,
      settings,
      engine,
      containers,
      builder,
      network,
      networks,
      toManager,
      node: () => worker.#nodeView(),
      healthOf: (containerId) => worker.#health.get(containerId),
      swarm: (operation) => worker.#ask(operation),
      interfaces: ownInterfaces,
    });
    deps.send({ kind: "ready" });
    return worker;
  }

  /** Messages take effect one after another, in the order they came. */
  receive(message: DaemonToWorker): void {
    switch (message.kind) {
      case "identity":
        this.#view = { ...message, managers: [] };
        this.#changes = this.#changes
          .then(() => this.#adopt(message.identity, message.state === "inactive"))
          .catch((error: unknown) => this.#deps.log.error({ error }, "change of identity failed"));
        return;
      case "reply":
        this.#replies.get(message.id)?.(message.outcome);
        return;
    }
  }

  /** Ends everything of ours; containers, networks and the journal stay for the next worker. */
  async close(): Promise<void> {
    this.#ending.abort(new ClusterError("unavailable", "the worker is ending"));
    await this.#door?.close();
    await this.#containers?.close();
    await this.#changes;
    await this.#endMembership();
    await this.#journal.close();
    await this.#deps.network.close();
    await this.#deps.engine.close();
  }

  async #adopt(identity: NodeIdentity | undefined, hasLeft: boolean): Promise<void> {
    if (this.#ending.signal.aborted) return;
    const member = this.#member;
    if (identity !== undefined && member?.identity.nodeId === identity.nodeId) {
      const { certificatePem } = member.keeper.current;
      member.keeper.replace(identity);
      // What the old certificate vouched for goes with it.
      if (certificatePem !== identity.certificatePem) this.#deps.network.replaceTunnelKey();
      member.agent.setManagers(identity.managers);
      if (member.identity.dataPathAddress === identity.dataPathAddress) return;
      // Every connection is from the old address and leads nowhere; and managers are told the new one as a session begins.
      await this.#endMembership();
      this.#join(identity);
      return;
    }
    if (member !== undefined) await this.#leave(member);
    else if (hasLeft) await this.#removeLeftovers();
    if (identity !== undefined) this.#join(identity);
    else if (hasLeft) this.#attachments.leave();
  }

  #join(identity: NodeIdentity): void {
    const { clock, random, log, engine, network } = this.#deps;
    const keeper = new TlsKeeper(identity);
    const agent = new Agent(
      {
        clock,
        random,
        log,
        engine,
        network,
        journal: this.#journal,
        attachments: this.#attachments,
        connect: (address) => openDispatcher(address, channelCredentials(keeper.current)),
        onFacts: (facts) => this.#deps.send({ kind: "cluster", facts }),
        onHealth: (containerId, state) => this.#keepHealth(containerId, state),
      },
      identity,
      this.#description,
    );
    const loops = new LoopGroup({ clock, random, log });
    const host = (): string | undefined => {
      const leader = agent.managers.find((manager) => manager.leader);
      return leader === undefined ? undefined : hostOf(leader.address);
    };
    const fabric = new FabricLink({ clock, random, log }, { nodeId: identity.nodeId, tls: keeper, host });
    const publisher = {
      clock,
      log,
      nodeId: identity.nodeId,
      find: (taskId: string) => this.#loggedTask(agent, taskId),
    };
    loops.background(
      "telemetry",
      fabric.run(loops.signal, (connection, signal) => {
        publishLogs(publisher, connection, signal);
        answerNetworkChecks({ clock, log, nodeId: identity.nodeId, network }, connection, signal);
      }),
    );
    this.#member = { identity, keeper, agent, loops };
    this.#watchDataPath(this.#member);
    agent.start();
  }

  /** Changes of addresses are looked for, not waited for: the one who would tell of them may be late or gone. */
  #watchDataPath(member: Membership): void {
    const { clock, log, dataPath = hostDataPath } = this.#deps;
    let problem = "";
    let isLooking = false;
    let missed = 0;
    const look = async (): Promise<void> => {
      const { identity } = this.#view;
      if (identity === undefined || this.#member !== member) return;
      const now = await dataPathNow(dataPath, identity);
      if (this.#member !== member) return;
      missed = now.kind === "kept" ? 0 : missed + 1;
      if (missed > 0 && missed < dataPathLooks) return;
      const { nodeId, dataPathAddress: from } = identity;
      if (now.kind === "moved") this.#deps.send({ kind: "moved", nodeId, from, to: now.address });
      const next = now.kind === "gone" ? now.problem : "";
      if (next === problem) return;
      problem = next;
      if (problem !== "") log.warn({ problem }, "the data path of this node is broken");
      member.agent.setProblem(problem);
    };
    const cancel = clock.every(dataPathLookMs, () => {
      if (isLooking) return;
      isLooking = true;
      void look()
        .catch((error: unknown) =>
          log.warn({ error: errorText(error) }, "the host's addresses cannot be read"),
        )
        .finally(() => (isLooking = false));
    });
    member.loops.signal.addEventListener("abort", cancel, { once: true });
  }

  async #leave(member: Membership): Promise<void> {
    const { clock, log } = this.#deps;
    this.#member = undefined;
    await this.#leaveNetworks(); // While the managers may still hear that the addresses are free.
    this.#attachments.leave(); // Nobody gives a place any more, however long the tasks take to stop.
    await member.loops.stop("node has left the cluster");
    using limit = deadline(clock, leaveTimeoutMs, "stopping the node's tasks", this.#ending.signal);
    try {
      await member.agent.removeAll(limit.signal);
    } catch (error) {
      log.warn({ error: errorText(error) }, "tasks of the cluster that was left did not all stop");
      await member.agent.stop();
    }
    if (!this.#ending.signal.aborted) await this.#removeLeftovers();
  }

  /** Whatever a journal says of a cluster that this node is no longer in. */
  async #removeLeftovers(): Promise<void> {
    const { engine, network } = this.#deps;
    await this.#leaveNetworks();
    for (const { assignment, containerId } of this.#journal.tasks.values()) {
      if (containerId !== undefined) await engine.remove(containerId);
      await network.detach(assignment.taskId, this.#ending.signal);
      await this.#journal.forget(assignment.taskId);
    }
  }

  /** Containers of users run on, off the networks of a cluster that this node is no longer in. */
  async #leaveNetworks(): Promise<void> {
    const { log } = this.#deps;
    await this.#containers?.leaveNetworks("all", this.#ending.signal).catch((error: unknown) => {
      log.error({ error: errorText(error) }, "containers could not be taken off the networks of the cluster");
    });
  }

  #leaveNetwork(lost: LostPlace): void {
    const { log } = this.#deps;
    log.warn({ ...lost }, "a container has lost its place on a network of the cluster");
    this.#containers?.leaveNetworks(lost, this.#ending.signal).catch((error: unknown) => {
      if (!this.#ending.signal.aborted)
        log.error({ ...lost, error: errorText(error) }, "a container could not be taken off a network");
    });
  }

  async #endMembership(): Promise<void> {
    const member = this.#member;
    this.#member = undefined;
    if (member === undefined) return;
    await Promise.all([member.agent.stop(), member.loops.stop("worker is ending")]);
  }

  async #loggedTask(agent: Agent, taskId: string): Promise<LoggedTask | undefined> {
    const { engine } = this.#deps;
    const known = agent.taskContainer(taskId);
    if (known === undefined || (await engine.inspect(known.containerId)) === undefined) return undefined;
    return { taskId, serviceId: known.serviceId, reader: engine.logs(known.containerId) };
  }

  #nodeView(): NodeView {
    const { managers = [], networks = [] } = this.#member?.agent ?? {};
    return { ...this.#view, managers, networks };
  }

  #keepHealth(containerId: string, state: HealthState): void {
    this.#health.delete(containerId); // The newest is last, so that the first is the one to drop.
    this.#health.set(containerId, state);
    for (const oldest of this.#health.keys()) {
      if (this.#health.size <= healthLimit) return;
      this.#health.delete(oldest);
    }
  }

  #ask(operation: SwarmOperation): Promise<SwarmOutcome> {
    const { clock } = this.#deps;
    this.#requestId += 1;
    const id = this.#requestId;
    return new Promise((resolve) => {
      const settle = (outcome: SwarmOutcome): void => {
        cancel();
        this.#replies.delete(id);
        resolve(outcome);
      };
      const cancel = clock.after(operationTimeoutMs, () =>
        settle({ kind: "failed", code: "deadline-exceeded", message: "context deadline exceeded" }),
      );
      this.#replies.set(id, settle);
      this.#deps.send({ kind: "request", id, operation });
    });
  }
}

async function describeNode({
  engine,
  settings,
}: Pick<WorkerDeps, "engine" | "settings">): Promise<NodeDescription> {
  const { architecture, cpuCount, memoryBytes } = await engine.info();
  return {
    hostname: settings.hostname,
    platform: { architecture, os: "linux" },
    resources: { nanoCpus: cpuCount * 1_000_000_000, memoryBytes, generic: {}, ...settings.genericResources },
    engineVersion: productVersion,
    engineLabels: settings.engineLabels,
    plugins: [
      { type: "Log", name: "journald" },
      { type: "Log", name: "json-file" },
      { type: "Log", name: "local" },
      { type: "Network", name: "bridge" },
      { type: "Network", name: "host" },
      { type: "Network", name: "null" },
      { type: "Network", name: "overlay" },
      { type: "Volume", name: "local" },
    ],
  };
}
