import { ClusterError, errorText } from "../../model/errors.ts";
import { taskStates } from "../../model/task.ts";
import type { NetworkId, NodeId, TaskId } from "../../model/ids.ts";
import type { NodeDescription } from "../../model/node.ts";
import type { PublishedPort, TaskStatus } from "../../model/task.ts";
import type { ClusterFacts, NodeIdentity } from "../../proto/host.ts";
import type {
  AssignedNetwork,
  Assignments,
  DispatcherClient,
  ManagerPeer,
  PublishedPortMessage,
  SessionInfo,
  WantedAttachment,
} from "../../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../../runtime/clock.ts";
import { Limit } from "../../runtime/limit.ts";
import type { Log } from "../../runtime/log.ts";
import { LoopGroup } from "../../runtime/loop.ts";
import { newContainerId } from "../../runtime/random.ts";
import type { Random } from "../../runtime/random.ts";
import { orAborted } from "../../runtime/signal.ts";
import type { Engine } from "../engine/engine.ts";
import type { HealthState } from "../health/state.ts";
import type { HostNetwork, WantedNetworks } from "../network/network.ts";
import { taskLabel } from "../task/request.ts";
import { TaskRunner } from "../task/runner.ts";
import type { RunnerEvents } from "../task/runner.ts";
import type { TaskWorld } from "../task/controller.ts";
import type { Attachments } from "./attachments.ts";
import { AppliedReports } from "./applied-reports.ts";
import { emptySet, receive, withIpv6 } from "./assignment.ts";
import type { AssignedSet, Assignment } from "./assignment.ts";
import type { Journal } from "./journal.ts";
import { isolationText, planIsolation, sessionNotePeriodMs } from "./isolation.ts";
import { ManagerPool } from "./managers.ts";
import { planTasks } from "./plan.ts";
import type { LocalTask } from "./plan.ts";
import { Reporter } from "./reporter.ts";
import { keepSession, SessionLine, StatusSender } from "./session.ts";

/** How many tasks of a node pull or start at a time; the rest wait their turn. */
const pullLimit = 8;
const startLimit = 8;
/** Pause before the host's network is tried again after it refused. */
const networkRetryMs = 1_000;
/** How long a node that leaves waits until managers have heard that its containers are on no network any more. */
const releaseTimeoutMs = 2_000;

export interface AgentDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly journal: Journal;
  /** Outlives the agent. */
  readonly attachments: Attachments;
  connect(address: string): DispatcherClient;
  /** What the leader said; called when it changes. */
  onFacts(facts: ClusterFacts): void;
  onHealth(containerId: string, state: HealthState): void;
}

/** Of one node in one cluster: keeps its tasks as the managers want them. */
export class Agent {
  readonly #deps: AgentDeps;
  readonly #identity: NodeIdentity;
  readonly #description: NodeDescription;
  readonly #loops: LoopGroup;
  readonly #applied: AppliedReports;
  readonly #managers: ManagerPool;
  readonly #reporter: Reporter;
  readonly #line = new SessionLine();
  readonly #runners = new Map<TaskId, TaskRunner>();
  readonly #world: TaskWorld;
  #set: AssignedSet = emptySet;
  #partial: AssignedSet | undefined;
  /** The open session has not sent its complete set yet. */
  #awaitsComplete = true;
  #hasSwept = false;
  #facts = "";
  /** Of this node, as the leader said last. */
  #nodeIndex: number | undefined;
  #tunnelKeys: readonly string[] = [];
  #peers: readonly ManagerPeer[] = [];
  #adding: Promise<void> = Promise.resolve();
  /** Since when no manager is heard, on the monotonic clock; `undefined` in a session. */
  #silentSinceMs: number | undefined;
  #cancelIsolation: () => void = () => undefined;
  /** How many sets of networks there were, across sessions, and the last of them that the host's network has. */
  #networkWanted = 0;
  /** Sequences count anew in each session: which one is open, and which one the set is of. */
  #session = 0;
  #sessionOfSet = 0;
  #networkDone = 0;
  #networkWork: Promise<void> | undefined;
  /** The last try of it, or the one under way. */
  #networkTry: Promise<void> = Promise.resolve();
  #stopWatching: () => void = () => undefined;
  #problem = "";
  /** Managers keep no place for a container of this node. */
  #onReleased: () => void = () => undefined;

  constructor(deps: AgentDeps, identity: NodeIdentity, description: NodeDescription) {
    this.#deps = deps;
    this.#identity = identity;
    this.#description = description;
    this.#loops = new LoopGroup(deps);
    this.#applied = new AppliedReports(deps.clock, this.#loops.signal);
    this.#managers = new ManagerPool(identity.managers);
    const sender = new StatusSender(deps.clock, this.#line);
    this.#reporter = new Reporter(() => sender.schedule(this.#reporter));
    this.#world = this.#makeWorld();
  }

  /** Takes up the journal's tasks, then looks for the leader. Containers that run are left running. */
  start(): void {
    for (const task of this.#deps.journal.tasks.values()) {
      const { assignment, status } = task;
      this.#reporter.report(assignment.taskId, status);
      const containerId = task.containerId ?? newContainerId(this.#deps.random);
      this.#run(assignment, containerId, status, "journal");
    }
    const { clock, journal, attachments } = this.#deps;
    attachments.join((list) => this.#sendAttachments(list));
    // A session that nobody noted the end of lasted at least until its last note.
    const silentMs = Math.max(0, clock.now() - (journal.sessionAtMs ?? clock.now()));
    this.#hearNobody(clock.monotonic() - silentMs);
    this.#stopWatching = this.#deps.network.watch(() => this.#describe());
    this.#loops.background(
      "session",
      keepSession(
        { ...this.#deps, managers: this.#managers, reporter: this.#reporter },
        {
          description: () => this.#described(),
          dataPathAddress: this.#identity.dataPathAddress,
          onInfo: (info, isNew) => this.#takeInfo(info, isNew),
          onAssignments: (message) => this.#takeAssignments(message),
          onRefusal: (refusal) => this.#deps.attachments.refused(refusal),
          onEnd: () => {
            this.#partial = undefined;
            this.#noteSession();
            this.#hearNobody(clock.monotonic());
          },
        },
        this.#line,
        this.#loops.signal,
      ),
    );
  }

  /** What the host's network offers may change while the process runs. */
  #described(): NodeDescription {
    const problem = this.#problem === "" ? {} : { problem: this.#problem };
    return { ...this.#description, ...this.#deps.network.offer, ...problem };
  }

  /** What its owner has to know of the host; empty: nothing. */
  setProblem(problem: string): void {
    this.#problem = problem;
    this.#describe();
  }

  #describe(): void {
    const json = Buffer.from(JSON.stringify(this.#described()), "utf8");
    this.#line.send({ $case: "description", value: { json } }); // Without a session, the next `Hello` says it.
  }

  /** Managers that shoald has heard of since. */
  setManagers(addresses: readonly string[]): void {
    this.#managers.replace(addresses);
  }

  /** Managers as the leader named them last; empty before the first session. */
  get managers(): readonly ManagerPeer[] {
    return this.#peers;
  }

  /** Networks of the cluster that this node is on. */
  get networks(): readonly AssignedNetwork[] {
    return [...this.#set.networks.values()];
  }

  taskStatus(taskId: string): TaskStatus | undefined {
    return this.#runners.get(taskId as TaskId)?.status;
  }

  /** What a task of this node runs in; undefined for a task that is not here. */
  taskContainer(taskId: string): { readonly containerId: string; readonly serviceId: string } | undefined {
    const runner = this.#runners.get(taskId as TaskId);
    if (runner === undefined) return undefined;
    return { containerId: runner.containerId, serviceId: runner.assignment.serviceId };
  }

  /** Ends the agent; containers, network and journal stay as they are. */
  async stop(): Promise<void> {
    this.#cancelIsolation();
    this.#deps.attachments.pause();
    this.#stopWatching();
    await this.#loops.stop("agent is ending");
    await Promise.all([...this.#runners.values()].map((runner) => runner.close()));
  }

  /** The node has left its cluster: every task is stopped and removed. Settles when that is done. */
  async removeAll(signal: AbortSignal): Promise<void> {
    this.#cancelIsolation();
    this.#stopWatching();
    await this.#untilReleased();
    await this.#loops.stop("node has left the cluster");
    await this.#adding;
    const runners = [...this.#runners.values()];
    for (const runner of runners) runner.remove("at-once");
    await orAborted(Promise.all(runners.map(({ done }) => done)), signal);
    const wanted = { self: this.#self(), networks: [], endpoints: [], services: [], hosts: [] };
    await this.#deps.network.apply(wanted, signal);
  }

  /**
   * Containers of users have left the cluster's networks by now. That the managers have heard it is worth a moment: what they
   * have not heard stays taken until the node is removed.
   */
  async #untilReleased(): Promise<void> {
    if (this.#set.attachments.size === 0 || !this.#line.isOpen) return;
    await new Promise<void>((resolve) => {
      const cancel = this.#deps.clock.after(releaseTimeoutMs, resolve);
      this.#onReleased = () => {
        cancel();
        resolve();
      };
    });
  }

  #takeInfo(info: SessionInfo, isNew: boolean): void {
    if (isNew) {
      this.#hearSomebody();
      this.#partial = undefined;
      this.#awaitsComplete = true;
      this.#session += 1;
      this.#sendAttachments(this.#deps.attachments.list());
    }
    this.#peers = info.managers;
    const hasChanged =
      this.#nodeIndex !== info.nodeIndex || this.#tunnelKeys.join() !== info.tunnelKeys.join();
    this.#nodeIndex = info.nodeIndex === 0 ? undefined : info.nodeIndex;
    this.#tunnelKeys = info.tunnelKeys;
    // In a new session the complete set comes next.
    if (!isNew && hasChanged) this.#applyNetwork(true);
    const addresses = info.managers.map(({ address }) => address);
    this.#managers.replace(addresses);
    const facts: ClusterFacts = {
      managers: addresses,
      desiredRole: info.desiredRole === "manager" ? "manager" : "worker",
      rootPem: info.rootPem,
      certificateGeneration: info.certificateGeneration,
    };
    const text = JSON.stringify(facts);
    // A new session is told anew: shoald takes it as the sign that the node is in the cluster.
    if (isNew || text !== this.#facts) this.#deps.onFacts(facts);
    this.#facts = text;
  }

  #sendAttachments(attachments: WantedAttachment[]): void {
    this.#line.send({ $case: "attachments", value: { attachments } });
  }

  #hearNobody(sinceMs: number): void {
    this.#silentSinceMs = sinceMs;
    this.#cancelIsolation();
    this.#cancelIsolation = () => undefined;
    if (!this.#loops.signal.aborted) this.#isolate();
  }

  #hearSomebody(): void {
    const { clock } = this.#deps;
    this.#silentSinceMs = undefined;
    this.#cancelIsolation();
    this.#cancelIsolation = clock.every(sessionNotePeriodMs, () => this.#noteSession());
  }

  /** Only for tasks that a silence would end: others have no use for it after a restart. */
  #noteSession(): void {
    const matters = [...this.#runners.values()].some(
      ({ assignment }) => assignment.stopAfterMs !== undefined,
    );
    if (matters) void this.#deps.journal.noteSession(this.#deps.clock.now()); // Its failure is in the journal's log.
  }

  #isolate(): void {
    const { clock, log } = this.#deps;
    if (this.#silentSinceMs === undefined) return;
    const { stop, nextMs } = planIsolation(this.#runners.values(), clock.monotonic() - this.#silentSinceMs);
    for (const taskId of stop) {
      const runner = this.#runners.get(taskId);
      if (runner === undefined) continue;
      log.warn({ taskId }, "no manager was heard for long; the task is ended as its service asks");
      runner.giveUp(isolationText(runner.assignment.stopAfterMs));
    }
    if (nextMs !== undefined) this.#cancelIsolation = clock.after(Math.ceil(nextMs), () => this.#isolate());
  }

  #takeAssignments(message: Assignments): "taken" | "gap" {
    const { log } = this.#deps;
    if (this.#awaitsComplete && !message.complete && this.#partial === undefined) return "gap";
    let received;
    try {
      received = receive(this.#set, this.#partial, message);
    } catch (error) {
      log.error({ error }, "assignments could not be read");
      return "gap";
    }
    switch (received.kind) {
      case "gap":
        log.warn({ expected: received.expected, seen: received.seen }, "assignments have a gap");
        return "gap";
      case "partial":
        this.#partial = received.set;
        return "taken";
      case "whole":
        this.#partial = undefined;
        this.#awaitsComplete = false;
        this.#set = received.set;
        this.#sessionOfSet = this.#session;
        if (this.#set.attachments.size === 0) this.#onReleased();
        this.#applyNetwork(received.changed.includes("network") || message.complete);
        // Those on networks that this host has already; the others once it has them.
        if (this.#networkWork === undefined)
          this.#deps.attachments.assigned(this.#set.attachments.values(), this.#set.networks);
        this.#applyTasks();
        return "taken";
    }
  }

  /** Additions need one look at the containers there are; they happen in the order of the messages. */
  #applyTasks(): void {
    const steps = planTasks(this.#set.tasks, this.#localTasks());
    const additions: Assignment[] = [];
    for (const step of steps) {
      switch (step.kind) {
        case "add":
          additions.push(step.assignment);
          break;
        case "update": {
          const runner = this.#runners.get(step.assignment.taskId);
          if (runner === undefined) break;
          runner.update(step.assignment);
          void this.#write(runner); // Its failure is in the journal's log, and it tries again.
          break;
        }
        case "remove":
          this.#runners.get(step.taskId)?.remove("when-idle");
          break;
      }
    }
    this.#adding = this.#adding
      .then(() => this.#add(additions))
      .catch((error: unknown) => this.#deps.log.error({ error }, "tasks could not be taken up"));
  }

  async #add(assignments: readonly Assignment[]): Promise<void> {
    if (this.#loops.signal.aborted) return;
    if (assignments.length > 0 || !this.#hasSwept) {
      const containers = new Map<string, string>();
      for (const { id, labels } of await this.#deps.engine.list()) {
        const taskId = labels[taskLabel];
        if (taskId !== undefined) containers.set(taskId, id);
      }
      await this.#sweep(containers);
      for (const assignment of assignments) {
        // Removed or asked more of while this one waited: the newest word counts.
        const wanted = this.#set.tasks.get(assignment.taskId);
        if (wanted === undefined || this.#runners.has(wanted.taskId)) continue;
        this.#addOne(wanted, containers.get(wanted.taskId));
      }
    }
  }

  #addOne(assignment: Assignment, knownContainer: string | undefined): void {
    const { clock, random } = this.#deps;
    const containerId = knownContainer ?? newContainerId(random);
    const seen = taskStates[assignment.statusState];
    // A task the managers have seen further than `assigned`, and the journal has lost.
    const state =
      knownContainer !== undefined && seen >= taskStates.starting ? assignment.statusState : "assigned";
    const isOver = seen > taskStates.running;
    const status: TaskStatus = {
      state: isOver ? assignment.statusState : state,
      atMs: clock.now(),
      message: "assigned",
      error: "",
      appliedAtMs: 0,
    };
    this.#run(assignment, containerId, status, "managers");
  }

  #run(assignment: Assignment, containerId: string, status: TaskStatus, from: "journal" | "managers"): void {
    const { journal } = this.#deps;
    const isKnown = from === "journal";
    let written = journal.put({ assignment, containerId, status });
    const events: RunnerEvents = {
      journaled: (runner) =>
        written.catch(() => {
          written = this.#write(runner);
          return written;
        }),
      onStatus: (taskId: TaskId, next: TaskStatus) => {
        void journal.setStatus(taskId, next); // Its failure is in the journal's log, and it tries again.
        this.#reporter.report(taskId, next);
      },
      onRemoved: (taskId: TaskId) => {
        this.#runners.delete(taskId);
        this.#reporter.forget(taskId);
        void journal.forget(taskId);
      },
    };
    const start = { assignment, containerId, status, confirmed: !isKnown };
    this.#runners.set(assignment.taskId, new TaskRunner(this.#world, events, start));
  }

  #write({ assignment, containerId, status }: TaskRunner): Promise<void> {
    return this.#deps.journal.put({ assignment, containerId, status });
  }

  /** Once a process: containers and namespaces of tasks that nobody knows any more. */
  async #sweep(containers: ReadonlyMap<string, string>): Promise<void> {
    if (this.#hasSwept) return;
    this.#hasSwept = true;
    const { engine, network, log } = this.#deps;
    const isKnown = (taskId: string) =>
      this.#runners.has(taskId as TaskId) || this.#set.tasks.has(taskId as TaskId);
    for (const [taskId, containerId] of containers) {
      if (isKnown(taskId)) continue;
      log.warn({ taskId, containerId }, "container of an unknown task is removed");
      this.#loops.background("sweep", engine.remove(containerId));
    }
    for (const { taskId, containerId } of await network.list()) {
      // Those under a container's own id are of no task, but somebody's own.
      if (!isKnown(taskId) && taskId !== containerId)
        this.#loops.background("sweep", network.detach(taskId, this.#loops.signal));
    }
  }

  /** Brings the host's network to the newest set; while it works, newer sets wait and are taken together. */
  #applyNetwork(hasChanged: boolean): void {
    if (!hasChanged && this.#networkWork === undefined) return; // No manager waits to hear of it.
    this.#networkWanted += 1;
    this.#networkWork ??= this.#networkLoop();
  }

  async #networkLoop(): Promise<void> {
    const { network, clock, log } = this.#deps;
    const { signal } = this.#loops;
    let failure = "";
    while (this.#networkDone !== this.#networkWanted && !signal.aborted) {
      const wanted = this.#networkWanted;
      const set = this.#set;
      const session = this.#sessionOfSet;
      try {
        this.#networkTry = network.apply(this.#wantedNetworks(), signal);
        await this.#networkTry;
        this.#deps.attachments.assigned(set.attachments.values(), set.networks);
        this.#networkDone = wanted;
        this.#applied.tell(network.namesHeldMs, () => {
          if (session === this.#session)
            this.#line.send({ $case: "applied", value: { sequence: set.sequence } });
        });
      } catch (error) {
        if (signal.aborted) return;
        const text = errorText(error);
        if (text !== failure)
          log.error({ error: text }, "the host's network could not be brought up to date");
        failure = text;
        await clock.sleep(networkRetryMs, signal).catch(() => undefined); // The condition sees the abort.
      }
    }
    this.#networkWork = undefined; // In the same turn as the look above, so that no set is left behind.
  }

  #wantedNetworks(): WantedNetworks {
    const { networks, endpoints, services, hosts } = this.#set;
    return {
      self: this.#self(),
      networks: [...networks.values()]
        .filter(({ driver }) => driver === "overlay")
        .map((network) => ({ ...network, id: network.id as NetworkId })),
      endpoints: [...endpoints.values()].map((endpoint) => ({
        ...withIpv6(endpoint),
        networkId: endpoint.networkId as NetworkId,
        taskId: endpoint.taskId as TaskId,
        nodeId: endpoint.nodeId as NodeId,
      })),
      services: [...services.values()].map((service) => ({
        ...withIpv6(service),
        networkId: service.networkId as NetworkId,
        ports: service.ports.map(publishedPort),
      })),
      hosts: [...hosts.values()].map((host) => ({
        ...host,
        nodeId: host.nodeId as NodeId,
        tunnelKeys: host.tunnelKeys.map(({ publicKey, slot }) => ({ publicKey, slot: slot === 1 ? 1 : 0 })),
      })),
    };
  }

  #self(): WantedNetworks["self"] {
    return {
      nodeId: this.#identity.nodeId,
      address: this.#identity.dataPathAddress,
      ...(this.#nodeIndex !== undefined && { nodeIndex: this.#nodeIndex }),
      tunnelKeys: this.#tunnelKeys,
    };
  }

  #localTasks(): Map<TaskId, LocalTask> {
    const local = new Map<TaskId, LocalTask>();
    for (const [taskId, { assignment, confirmed, removing }] of this.#runners) {
      const { desiredState, stopAfterMs } = assignment;
      local.set(taskId, {
        taskId,
        desiredState,
        confirmed,
        removing,
        ...(stopAfterMs !== undefined && { stopAfterMs }),
      });
    }
    return local;
  }

  #makeWorld(): TaskWorld {
    const { clock, log, engine, network } = this.#deps;
    const { nodeId } = this.#identity;
    const { hostname, platform } = this.#description;
    return {
      clock,
      log,
      engine,
      network,
      onHealth: (containerId, state) => this.#deps.onHealth(containerId, state),
      pulls: new Limit(pullLimit),
      starts: new Limit(startLimit),
      host: { nodeId, hostname, platform },
      driverOf: (networkId) => this.#set.networks.get(networkId)?.driver,
      payload: (id) => this.#set.payloads.get(id),
      networkApplied: (signal) => this.#networkApplied(signal),
      networkTried: (signal) => this.#networkTried(signal),
      portsHeld: (assignment) => this.#portsHeld(assignment),
    };
  }

  async #networkApplied(signal: AbortSignal): Promise<void> {
    const wanted = this.#networkWanted;
    while (this.#networkWork !== undefined && this.#networkDone < wanted) {
      await orAborted(this.#networkWork, signal);
    }
  }

  /** A try that fails is for whoever waits to say; the loop goes on meanwhile. */
  async #networkTried(signal: AbortSignal): Promise<void> {
    const wanted = this.#networkWanted;
    while (this.#networkWork !== undefined && this.#networkDone < wanted) {
      try {
        await orAborted(this.#networkTry, signal);
      } catch (cause) {
        signal.throwIfAborted();
        throw new ClusterError("unavailable", `waits for this host's network: ${errorText(cause)}`, {
          cause,
        });
      }
    }
  }

  #portsHeld(assignment: Assignment): boolean {
    const wanted = hostPorts(assignment);
    return [...this.#runners.values()].some(
      (runner) =>
        runner.assignment.taskId !== assignment.taskId &&
        runner.isAttached &&
        hostPorts(runner.assignment).some((port) => wanted.includes(port)),
    );
  }
}

function publishedPort({ protocol, targetPort, publishedPort }: PublishedPortMessage): PublishedPort {
  if (protocol !== "tcp" && protocol !== "udp" && protocol !== "sctp") {
    throw new ClusterError(
      "invalid-argument",
      `published port ${publishedPort}/${protocol}: tcp, udp or sctp is accepted`,
    );
  }
  return { protocol, targetPort, publishedPort };
}

function hostPorts({ revision }: Assignment): readonly string[] {
  return revision.endpoint.ports
    .filter(({ publishMode, publishedPort }) => publishMode === "host" && publishedPort > 0)
    .map(({ protocol, publishedPort }) => `${protocol}/${publishedPort}`);
}
