import type { ServerDuplexStream } from "@grpc/grpc-js";
import { hostOf } from "../../model/address.ts";
import type { Attachment } from "../../model/attachment.ts";
import { ClusterError, errorText, unreachable } from "../../model/errors.ts";
import type { NetworkId, NodeId, TaskId } from "../../model/ids.ts";
import type { Node } from "../../model/node.ts";
import type { Service } from "../../model/service.ts";
import type { Task } from "../../model/task.ts";
import type { Hello, ManagerMessage, WorkerMessage } from "../../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { newId, type Random } from "../../runtime/random.ts";
import { aborted, anyOf, deadline, orAborted } from "../../runtime/signal.ts";
import type { StoreEvent } from "../store/change.ts";
import type { Store } from "../store/store.ts";
import type { Transaction } from "../store/transaction.ts";
import { allocatorRefusal, takeAttachments } from "./attachments.ts";
import {
  changesEndpoints,
  changesNodeEndpoints,
  changesIpv6,
  changesTunnel,
  type EndpointOwner,
  networksOf,
  stopAfterMs,
} from "./assignments.ts";
import { readDescription } from "./description.ts";
import { NodeAssignments } from "./difference.ts";
import { changesManagers, heartbeatPeriodMs, sessionInfo } from "./info.ts";
import { NodeStates } from "./node-states.ts";
import { Rounds } from "./rounds.ts";
import { Session } from "./session.ts";
import { applyReport, readReports, refuseStranger } from "./status.ts";
import { Withdrawals, withdraws } from "./withdrawals.ts";

const helloTimeoutMs = 10_000;
/** A worker with more unanswered batches than this is not read from until some are answered. */
const statusesInFlightLimit = 8;

export interface DispatcherDeps {
  readonly store: Pick<Store, "view" | "update" | "batch" | "watch">;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** This manager, the leader. */
  readonly nodeId: NodeId;
}

/** Who called; as the role check found out. */
export interface DispatcherPeer {
  readonly nodeId: NodeId;
  readonly address: string;
}

type WorkerStream = ServerDuplexStream<WorkerMessage, ManagerMessage>;

/**
 * What a leader has of its workers, for one term: their sessions, when they were last heard, and what they still have
 * to be told. Everything here is rebuilt from the store and from the workers' own calls by the next leader.
 */
export class Dispatcher {
  readonly #deps: DispatcherDeps;
  readonly #signal: AbortSignal;
  readonly #states: NodeStates;
  readonly #sessions = new Map<NodeId, Session>();
  readonly #sessionsOf = new Map<NetworkId, Set<Session>>();
  readonly #withdrawals: Withdrawals;
  readonly #rounds: Rounds;
  /** As everybody was told. */
  #periodMs: number;

  /** @param signal - The leadership; when it aborts every session ends with a redirect. */
  constructor(deps: DispatcherDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
    this.#states = new NodeStates(
      {
        ...deps,
        isConnected: (nodeId) => this.#sessions.has(nodeId),
        disconnect: (nodeId, reason) => this.#sessions.get(nodeId)?.end(reason),
        heldBack: () => [...this.#sessions.values()].filter(isHeldBack).map(({ nodeId }) => nodeId),
      },
      signal,
    );
    this.#periodMs = deps.store.view(heartbeatPeriodMs);
    this.#withdrawals = new Withdrawals(deps.clock, (taskId) => this.#tell(taskId));
    this.#rounds = new Rounds(deps.clock, (session) => this.#flush(session));
    signal.addEventListener("abort", () => this.#endAll(), { once: true });
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** The leader's loop: watches the clock for silent nodes and the store for what workers must be told. */
  async run(signal: AbortSignal): Promise<void> {
    const { log } = this.#deps;
    const over = new AbortController();
    const stopWatching = this.#states.start();
    try {
      using ended = anyOf(signal, over.signal);
      await Promise.all([this.#follow(ended.signal), this.#rounds.run(ended.signal)]);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      over.abort(new Error("the dispatcher's loop ends"));
      stopWatching();
      this.#withdrawals.clear();
      log.debug({}, "dispatcher ended");
    }
  }

  async #follow(signal: AbortSignal): Promise<void> {
    using watch = this.#deps.store.watch(
      ["services", "tasks", "nodes", "networks", "revisions", "secrets", "configs", "attachments", "cluster"],
      signal,
    );
    for (const session of this.#sessions.values()) this.#markAll(session);
    this.#rounds.add(this.#sessions.values(), "in time");
    for await (const events of watch) {
      const touched = new Set<Session>();
      let everyone = false;
      for (const event of events) if (this.#mark(event, touched)) everyone = true;
      if (everyone) for (const session of this.#sessions.values()) this.#inform(session);
      this.#rounds.add(touched, this.#withdrawals.isHolding ? "urgent" : "in time");
      if (this.#withdrawals.isHolding) this.#withdraw(events);
    }
  }

  /**
   * `Dispatcher.Session`: registers the worker, then sends and receives until either side ends it.
   *
   * @throws {ClusterError} `not-found` for a node that is not in the cluster, `invalid-argument` for a message that
   *   cannot be read, `permission-denied` for a status of another node's task.
   */
  async serve(stream: WorkerStream, peer: DispatcherPeer, callSignal: AbortSignal): Promise<void> {
    const { clock, log, random } = this.#deps;
    const session = new Session({
      sessionId: newId(random),
      nodeId: peer.nodeId,
      assignments: new NodeAssignments(peer.nodeId, {
        begins: (networkId) => this.#beginUse(session, networkId),
        ends: (networkId) => this.#endUse(session, networkId),
        holds: (taskId) => this.#withdrawals.holds(taskId),
      }),
      stream,
      clock,
      wake: () => this.#flush(session),
    });
    using linked = anyOf(callSignal, this.#signal, session.signal);
    const over = linked.signal;
    try {
      const hello = await this.#hello(stream, clock, over);
      const description = readDescription(hello.description);
      if (!this.#deps.store.view((view) => view.nodes.has(peer.nodeId))) throw noSuchNode(peer.nodeId);
      const replaced = this.#sessions.get(peer.nodeId);
      replaced?.end(new ClusterError("unavailable", "another session of this node took over"));
      this.#withdrawals.away(peer.nodeId);
      this.#sessions.set(peer.nodeId, session);
      this.#states.asks(session.nodeId);
      await this.#deps.store.update((tx) => this.#register(tx, peer, hello, description), over);
      this.#states.heard(session.nodeId);
      log.info({ node: peer.nodeId, address: peer.address }, "node registered");
      const info = this.#deps.store.view((view) => this.#infoFor(session, view));
      stream.on("data", (message: WorkerMessage) => this.#receive(session, stream, message));
      this.#deps.store.view((view) => session.start(view, info));
      this.#withdrawals.flushed(session);
      stream.resume();
      await this.#untilOver(stream, over);
    } catch (error) {
      if (!over.aborted) throw error;
    } finally {
      this.#close(session);
    }
    if (this.#signal.aborted || callSignal.aborted) return; // The door says where to go next; or nobody listens.
    if (session.signal.aborted) throw session.signal.reason;
  }

  #hello(stream: WorkerStream, clock: Clock, over: AbortSignal): Promise<Hello> {
    const first = new Promise<Hello>((resolve, reject) => {
      stream.once("data", (message: WorkerMessage) => {
        stream.pause(); // What follows is read once the node is registered.
        if (message.body?.$case === "hello") resolve(message.body.value);
        else reject(new ClusterError("invalid-argument", "the first message of a session must be Hello"));
      });
      stream.once("end", () => reject(new ClusterError("unavailable", "the session ended before Hello")));
    });
    const limit = deadline(clock, helloTimeoutMs, "waiting for Hello", over);
    return orAborted(first, limit.signal).finally(() => limit[Symbol.dispose]());
  }

  #untilOver(stream: WorkerStream, over: AbortSignal): Promise<void> {
    const ended = new Promise<void>((resolve) => {
      stream.once("end", resolve);
    });
    return Promise.race([ended, aborted(over)]);
  }

  #register(
    tx: Transaction,
    peer: DispatcherPeer,
    hello: Hello,
    description: NonNullable<Node["description"]>,
  ): void {
    const node = tx.nodes.get(peer.nodeId);
    if (node === undefined) throw noSuchNode(peer.nodeId);
    const address = addressSeen(node, peer.address, hello.dataPathAddress);
    const sinceMs = node.status.state === "ready" ? node.status.sinceMs : tx.nowMs;
    const { dataPathAddress: _previous, ...rest } = node;
    tx.nodes.update({
      ...rest,
      description,
      status: { state: "ready", message: "", address, ...(sinceMs !== undefined && { sinceMs }) },
      ...(hello.dataPathAddress !== "" && { dataPathAddress: hello.dataPathAddress }),
    });
  }

  #receive(session: Session, stream: WorkerStream, message: WorkerMessage): void {
    if (session.signal.aborted) return;
    this.#states.heard(session.nodeId);
    const { body } = message;
    switch (body?.$case) {
      case undefined:
      case "heartbeat":
        return;
      case "applied":
        session.applied = body.value.sequence;
        this.#withdrawals.applied(session.nodeId, body.value.sequence);
        return;
      case "hello":
        session.end(new ClusterError("invalid-argument", "a session has only one Hello"));
        return;
      case "description":
        this.#endOnFailure(session, this.#describe(session, body.value));
        return;
      case "statuses": {
        session.statusesInFlight += 1;
        if (isHeldBack(session)) stream.pause();
        const { sequence, statuses } = body.value;
        const work = this.#takeStatuses(session, statuses).then(() => {
          session.statusesInFlight -= 1;
          stream.resume();
          session.acknowledge(sequence);
        });
        this.#endOnFailure(session, work);
        return;
      }
      case "attachments": {
        const { attachments } = body.value;
        const isCurrent = (one: Session): boolean => this.#sessions.get(one.nodeId) === one;
        const deps = { store: this.#deps.store, isCurrent };
        session.attaching = session.attaching.then(() => takeAttachments(deps, session, attachments));
        this.#endOnFailure(session, session.attaching);
        return;
      }
      default:
        unreachable(body);
    }
  }

  async #describe(session: Session, message: NonNullable<Hello["description"]>): Promise<void> {
    const description = readDescription(message);
    await this.#deps.store.update((tx) => {
      const node = tx.nodes.get(session.nodeId);
      if (node !== undefined) tx.nodes.update({ ...node, description });
    });
  }

  async #takeStatuses(session: Session, statuses: Parameters<typeof readReports>[0]): Promise<void> {
    const { store, clock } = this.#deps;
    const reports = readReports(statuses);
    store.view((view) => {
      for (const { taskId } of reports) {
        const task = view.tasks.get(taskId);
        if (task !== undefined) refuseStranger(task.nodeId, session.nodeId, taskId);
      }
    });
    const nowMs = clock.now();
    // No signal: the store itself rejects what is pending when the leadership ends, and thousands may be.
    await store.batch(reports, (tx, report) => applyReport(tx, session.nodeId, report, nowMs));
  }

  /** A session whose word could not be taken is over: the worker reconnects and says everything again. */
  #endOnFailure(session: Session, work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (this.#signal.aborted) return;
      if (!(error instanceof ClusterError))
        this.#deps.log.error({ node: session.nodeId, error }, "session failed");
      session.end(error instanceof Error ? error : new ClusterError("internal", errorText(error)));
    });
  }

  #close(session: Session): void {
    session.assignments.release();
    session.end(new ClusterError("unavailable", "the session is over"));
    if (this.#sessions.get(session.nodeId) !== session) return; // Replaced.
    this.#sessions.delete(session.nodeId);
    this.#withdrawals.away(session.nodeId);
    if (this.#signal.aborted) return;
    this.#states.closed(session.nodeId);
  }

  /** Finds out whom an event concerns. @returns True when it shows in everyone's session information. */
  #mark(event: StoreEvent, touched: Set<Session>): boolean {
    if (event.kind === "resync") {
      this.#states.expectAll();
      for (const session of this.#sessions.values()) {
        this.#markAll(session);
        touched.add(session);
      }
      return true;
    }
    const previous = event.kind === "updated" ? event.previous : undefined;
    switch (event.table) {
      case "tasks": {
        const { object: task } = event;
        const before = previous as typeof task | undefined;
        if (before !== undefined && withdraws(task, before)) this.#withdrawals.hold(before);
        this.#markTask(task.id, task.nodeId, touched);
        if (before !== undefined && before.nodeId !== task.nodeId)
          this.#markTask(task.id, before.nodeId, touched);
        if (before === undefined ? task.networks.length === 0 : !changesEndpoints(task, before)) return false;
        for (const networkId of new Set([...networksOf(task), ...(before ? networksOf(before) : [])]))
          this.#markEndpoint(networkId, task.id, touched);
        return false;
      }
      case "attachments":
        this.#markAttachment(event.object, touched);
        if (event.kind !== "removed" && event.object.refusal !== undefined) this.#refuse(event.object);
        return false;
      case "nodes": {
        const { object: node } = event;
        const before = previous as Node | undefined;
        if (event.kind === "created") this.#states.created(node.id);
        if (event.kind === "removed") this.#forget(node.id);
        if (event.kind === "updated" && before !== undefined && changesNodeEndpoints(node, before)) {
          this.#markEndpointsOf(node.id, touched);
        }
        const hasOtherTunnel = before !== undefined && changesTunnel(node, before);
        if (
          event.kind !== "updated" ||
          hasOtherTunnel ||
          (before !== undefined && (changesNodeEndpoints(node, before) || changesIpv6(node, before)))
        ) {
          for (const session of this.#sessions.values()) {
            if (session.assignments.markHost(node.id)) touched.add(session);
          }
        }
        const session = this.#sessions.get(node.id);
        if (session !== undefined && (hasOtherTunnel || node.role !== before?.role)) this.#inform(session);
        if (event.kind !== "updated" && this.#takePeriod()) return true;
        return event.kind === "removed" ? node.member !== undefined : changesManagers(node, before);
      }
      case "networks":
        for (const session of this.#sessionsOf.get(event.object.id) ?? []) {
          session.assignments.markNetwork(event.object.id);
          touched.add(session);
        }
        return false;
      case "revisions": {
        if (event.kind !== "updated") return false; // Their tasks have events of their own.
        const { serviceId, specVersion } = event.object;
        const tasks = this.#deps.store.view((view) => view.tasks.byRevision(serviceId, specVersion));
        this.#resend(tasks, touched);
        return false;
      }
      case "secrets":
      case "configs":
        for (const session of this.#sessions.values()) {
          session.assignments.markPayload(event.object.id);
          touched.add(session);
        }
        return false;
      case "cluster":
        return true;
      case "services": {
        const { object: service } = event;
        this.#markService(service, previous as Service | undefined, touched);
        // Removed with its tasks, created before them; only what changes under them has to be told.
        if (event.kind !== "updated" || stopAfterMs(service) === stopAfterMs(event.previous)) return false;
        this.#resend(
          this.#deps.store.view((view) => view.tasks.byService(service.id)),
          touched,
        );
        return false;
      }
    }
  }

  /** @returns Whether it is another one for so many nodes. */
  #takePeriod(): boolean {
    const beforeMs = this.#periodMs;
    this.#periodMs = this.#deps.store.view(heartbeatPeriodMs);
    return this.#periodMs !== beforeMs;
  }

  #markTask(taskId: TaskId, nodeId: NodeId | undefined, touched: Set<Session>): void {
    const session = nodeId && this.#sessions.get(nodeId);
    if (!session) return;
    session.assignments.markTask(taskId, "compare");
    touched.add(session);
  }

  #resend(tasks: Iterable<Task>, touched: Set<Session>): void {
    for (const task of tasks) {
      const session = task.nodeId && this.#sessions.get(task.nodeId);
      if (!session) continue;
      session.assignments.markTask(task.id, "resend");
      touched.add(session);
    }
  }

  #markService(service: Service, before: Service | undefined, touched: Set<Session>): void {
    if (before !== undefined && service.endpoint === before.endpoint && service.spec === before.spec) return;
    const virtualIps = [...(service.endpoint?.virtualIps ?? []), ...(before?.endpoint?.virtualIps ?? [])];
    const ingress = this.#deps.store.view((view) => view.networks.ingress()?.id);
    for (const networkId of new Set(virtualIps.map((each) => each.networkId))) {
      // The first service there brings the ingress network to every node, the last takes it away.
      const sessions = networkId === ingress ? this.#sessions.values() : this.#sessionsOf.get(networkId);
      for (const session of sessions ?? []) {
        session.assignments.markService(networkId, service.id);
        touched.add(session);
      }
    }
  }

  #markEndpoint(networkId: NetworkId, owner: EndpointOwner, touched: Set<Session>): void {
    for (const session of this.#sessionsOf.get(networkId) ?? []) {
      session.assignments.markEndpoint(networkId, owner);
      touched.add(session);
    }
  }

  #markAttachment({ id, nodeId, networkId }: Attachment, touched: Set<Session>): void {
    this.#markEndpoint(networkId, id, touched);
    const session = this.#sessions.get(nodeId);
    if (session === undefined) return;
    session.assignments.markAttachment(id);
    touched.add(session);
  }

  #refuse(attachment: Attachment): void {
    this.#sessions.get(attachment.nodeId)?.refuse(allocatorRefusal(attachment));
  }

  /** Sends what is marked; whoever had nothing of it to hear is not waited for. */
  #flush(session: Session): void {
    this.#deps.store.view((view) => session.flush(view));
    this.#withdrawals.flushed(session);
  }

  /** Once everyone was sent that tasks serve no more, they wait for their word. */
  #withdraw(events: readonly StoreEvent[]): void {
    let away: NodeId[] | undefined;
    for (const event of events) {
      if (event.kind !== "updated" || event.table !== "tasks") continue;
      if (this.#withdrawals.holds(event.object.id) === undefined) continue;
      away ??= this.#away();
      const networks = networksOf(event.object);
      const sessions = new Set(networks.flatMap((networkId) => [...(this.#sessionsOf.get(networkId) ?? [])]));
      this.#withdrawals.sent(event.object.id, sessions, away);
    }
  }

  /** Nodes without a session that are not known to be down: their hosts do as they were told last. */
  #away(): NodeId[] {
    const nodes = this.#deps.store.view((view) => view.nodes.list());
    return nodes
      .filter(({ id, status }) => status.state !== "down" && this.#sessions.get(id)?.started !== true)
      .map(({ id }) => id);
  }

  #tell(taskId: TaskId): void {
    this.#deps.store.view((view) => {
      const nodeId = view.tasks.get(taskId)?.nodeId;
      const session = nodeId && this.#sessions.get(nodeId);
      if (!session) return;
      session.assignments.markTask(taskId, "compare");
      session.flush(view);
    });
  }

  #markEndpointsOf(nodeId: NodeId, touched: Set<Session>): void {
    const { store } = this.#deps;
    for (const task of store.view((view) => view.tasks.byNode(nodeId)))
      for (const networkId of networksOf(task)) this.#markEndpoint(networkId, task.id, touched);
    for (const { id, networkId } of store.view((view) => view.attachments.byNode(nodeId)))
      this.#markEndpoint(networkId, id, touched);
  }

  #markAll(session: Session): void {
    this.#deps.store.view((view) => session.assignments.markAll(view));
  }

  /** A removed node is not waited for, and its session ends for good. */
  #forget(nodeId: NodeId): void {
    this.#states.forget(nodeId);
    this.#withdrawals.gone(nodeId);
    this.#sessions
      .get(nodeId)
      ?.end(new ClusterError("permission-denied", `node ${nodeId} was removed from swarm`));
  }

  #inform(session: Session): void {
    if (!session.started) return;
    session.inform(this.#deps.store.view((view) => this.#infoFor(session, view)));
  }

  #infoFor(
    { sessionId, nodeId }: Session,
    view: Parameters<typeof sessionInfo>[0],
  ): ReturnType<typeof sessionInfo> {
    return sessionInfo(view, { sessionId, nodeId, leaderId: this.#deps.nodeId });
  }

  #beginUse(session: Session, networkId: NetworkId): void {
    const sessions = this.#sessionsOf.get(networkId);
    if (sessions === undefined) this.#sessionsOf.set(networkId, new Set([session]));
    else sessions.add(session);
  }

  #endUse(session: Session, networkId: NetworkId): void {
    const sessions = this.#sessionsOf.get(networkId);
    sessions?.delete(session);
    if (sessions?.size === 0) this.#sessionsOf.delete(networkId);
  }

  #endAll(): void {
    for (const session of this.#sessions.values())
      session.end(new ClusterError("unavailable", "this manager does not lead any more"));
  }
}

/** It is we who do not listen, so its silence means nothing. */
function isHeldBack(session: Session): boolean {
  return session.statusesInFlight >= statusesInFlightLimit;
}

function noSuchNode(nodeId: NodeId): ClusterError {
  return new ClusterError("not-found", `node ${nodeId} not found`);
}

/** A worker beside its own manager may come over loopback, which says nothing to other nodes. */
function addressSeen(node: Node, seen: string, dataPathAddress: string): string {
  const loopback = seen === "" || seen === "::1" || seen.startsWith("127.");
  if (!loopback) return seen;
  return hostOf(node.member?.address ?? "") || dataPathAddress || seen;
}
