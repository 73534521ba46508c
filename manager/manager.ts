import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Server } from "@grpc/grpc-js";
import { splitHostPort } from "../model/address.ts";
import { ClusterError, errorText, noLeaderText, outcomeUnknownText } from "../model/errors.ts";
import type { ClusterSpec } from "../model/cluster.ts";
import type { NodeId } from "../model/ids.ts";
import type { HostSettings, ManagerStart, ManagerToDaemon, NodeIdentity } from "../proto/host.ts";
import { ControlService, type JoinGroupResponse } from "../proto/gen/shoal/control.ts";
import { backoff } from "../runtime/backoff.ts";
import { createGrpcServer, type GrpcListener, listenGrpc } from "../runtime/grpc.ts";
import { LoopGroup, type LoopDeps } from "../runtime/loop.ts";
import { deadline, orAborted, within } from "../runtime/signal.ts";
import { TlsKeeper } from "../runtime/tls.ts";
import { type OwnAddresses, resolveAddresses } from "./addresses.ts";
import { jsonObject } from "./api/json-reader.ts";
import { type Api, createApi } from "./api/server.ts";
import { parseClusterSpec } from "./api/swarm-json.ts";
import { type Founding, foundCluster } from "./ca/found.ts";
import { rotateJoinToken } from "./ca/token.ts";
import { addDoors, type DoorDeps } from "./doors.ts";
import { Leadership } from "./leader.ts";
import { clusterAddress, raftAddressOf } from "./membership/plan.ts";
import { callManager, ManagerChannels, NoLeaderYet } from "./peers.ts";
import type { GroupMember, RaftEvent, RaftGroup, RaftGroupOptions, SnapshotSource } from "./raft/group.ts";
import type { Roster } from "./rpc.ts";
import { Store } from "./store/store.ts";
import { noTelemetry, type OpenTelemetry, type Telemetry } from "./telemetry/telemetry.ts";

/** A group of one elects itself in well under this. */
const foundTimeoutMs = 15_000;
/** A joiner asks again until then; shoald's own patience is shorter and it starts us anew. */
const joinTimeoutMs = 60_000;
const joinAttemptMs = 12_000;
const readBarrierTimeoutMs = 5_000;
const forwardTimeoutMs = 25_000;
const leaveTimeoutMs = 8_000;
/** Handing over takes one round to a follower; a group without quorum cannot. */
const transferTimeoutMs = 1_500;
const closeTimeoutMs = 3_000;

export interface ManagerDeps extends LoopDeps {
  readonly settings: HostSettings;
  openGroup(options: RaftGroupOptions, snapshotSource: SnapshotSource): Promise<RaftGroup>;
  /** Absent: logs answer that there is no telemetry. */
  readonly openTelemetry?: OpenTelemetry;
}

type Notify = (message: ManagerToDaemon) => void;

/** One manager, from its first breath to its end: store, consensus, doors, and the leader's loops while it leads. */
export class Manager {
  readonly #deps: ManagerDeps;
  readonly #notify: Notify;
  readonly #identity: { current: NodeIdentity };
  readonly #keeper: TlsKeeper;
  readonly #channels: ManagerChannels;
  readonly #store: Store;
  readonly #loops: LoopGroup;
  readonly #memberListeners = new Set<() => void>();
  #group: RaftGroup | undefined;
  #server: Server | undefined;
  #listener: GrpcListener | undefined;
  #api: Api | undefined;
  #telemetry: Telemetry = noTelemetry;
  #leadership: Leadership | undefined;
  #leadershipEnd: Promise<void> = Promise.resolve();
  #leaderId: NodeId | undefined;
  /** The last leader known, and the end of its being that. */
  #askedLeader: { readonly id: NodeId | undefined; readonly replaced: AbortController } = {
    id: undefined,
    replaced: new AbortController(),
  };
  #members: readonly GroupMember[] = [];
  #stopping: Promise<void> | undefined;
  #failed: (reason: unknown) => void = () => {};
  /** Rejects when the manager cannot go on. */
  readonly failure: Promise<never>;

  private constructor(deps: ManagerDeps, identity: NodeIdentity, notify: Notify) {
    this.#deps = deps;
    this.#notify = notify;
    this.#identity = { current: identity };
    this.#keeper = new TlsKeeper(identity);
    this.#channels = new ManagerChannels(this.#keeper);
    this.#loops = new LoopGroup(deps);
    this.#store = new Store({
      clock: deps.clock,
      random: deps.random,
      proposer: {
        propose: (data, signal) => this.#requireGroup().propose(data, signal),
        confirmLeader: () => this.#readBarrier(),
      },
    });
    this.failure = new Promise((_resolve, reject) => (this.#failed = reject));
    this.failure.catch(() => undefined); // Whoever opened us looks at it; until then it is not unhandled.
  }

  /**
   * Starts a manager and settles when it serves requests; a failure on the way stops what was started.
   *
   * @throws {ClusterError} or a system error; `describeFailure` knows what to make of them.
   */
  static async open(deps: ManagerDeps, start: ManagerStart, notify: Notify): Promise<Manager> {
    const founding = start.kind === "bootstrap" ? await found(deps, start) : undefined;
    const identity = founding?.identity ?? (start.kind === "bootstrap" ? undefined : start.identity);
    if (identity === undefined)
      throw new ClusterError("internal", "a manager was started without an identity");
    const manager = new Manager(deps, identity, notify);
    try {
      await manager.#start(start.kind, founding);
      return manager;
    } catch (error) {
      await manager.stop();
      throw error;
    }
  }

  get identity(): NodeIdentity {
    return this.#identity.current;
  }

  /** The certificate was renewed. */
  adopt(identity: NodeIdentity): void {
    this.#identity.current = identity;
    this.#keeper.replace(identity);
    this.#group?.updateIdentity(identity);
    this.#telemetry.replace(identity);
  }

  async #start(kind: ManagerStart["kind"], founding: Founding | undefined): Promise<void> {
    const { settings } = this.#deps;
    const directory = join(settings.stateDir, "manager");
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await this.#openDoors(); // Before the data: a port that is taken is found while nothing has been written yet.
    await this.#openGroup(kind, join(directory, "raft"));
    if (founding !== undefined) await this.#found(founding);
    if (kind === "join") await this.#join();
    this.#telemetry = this.#deps.openTelemetry?.(this.#telemetryContext()) ?? noTelemetry;
    await this.#openApi().listen(settings.managerSocket);
    this.#deps.log.info({ node: this.identity.nodeId, start: kind }, "manager serves");
    this.#notify({ kind: "ready" });
  }

  async #openDoors(): Promise<void> {
    const { log } = this.#deps;
    const server = createGrpcServer();
    this.#server = server;
    addDoors(server, this.#doorDeps());
    const { host, port } = splitHostPort(this.identity.listenAddress);
    this.#listener = await listenGrpc({ server, keeper: this.#keeper, host, port, log });
  }

  async #openGroup(start: RaftGroupOptions["start"], directory: string): Promise<void> {
    const { nodeId, clusterId, listenAddress, advertiseAddress, certificatePem, keyPem, rootPem } =
      this.identity;
    const { host: listenHost, port: listenPort } = splitHostPort(raftAddressOf(listenAddress));
    this.#group = await this.#deps.openGroup(
      {
        directory,
        nodeId,
        clusterId,
        identity: { certificatePem, keyPem, rootPem },
        listenHost,
        listenPort,
        raftAddress: raftAddressOf(advertiseAddress),
        start,
      },
      (atLeast) => this.#snapshot(atLeast),
    );
    const group = this.#group;
    this.#loops.background(
      "consensus",
      this.#follow(group).catch((error: unknown) => this.#failed(error)),
    );
    this.#loops.background("log limits", this.#followLogLimits(group));
  }

  /** The cluster's spec says how long the log of every manager may get. */
  async #followLogLimits(group: RaftGroup): Promise<void> {
    using watch = this.#store.watch(["cluster"], this.#loops.signal);
    let current: ClusterSpec | undefined;
    do {
      watch.take();
      const spec = this.#store.view((view) => view.cluster?.spec);
      if (spec === undefined || spec === current) continue;
      current = spec;
      const { snapshotIntervalEntries: snapshotEntries, slowFollowerEntries: keepEntries } = spec;
      group.updateLogLimits({ snapshotEntries, keepEntries });
    } while (await watch.ready());
  }

  /** Everything the group says, in order. Ends with the group. */
  async #follow(group: RaftGroup): Promise<void> {
    for await (const event of group.events) await this.#take(event);
    if (this.#stopping === undefined) throw new ClusterError("internal", "the consensus thread ended");
  }

  async #take(event: RaftEvent): Promise<void> {
    switch (event.kind) {
      case "committed":
        for (const { index, data } of event.entries) this.#store.apply(index, data);
        if (event.index > this.#store.appliedIndex) this.#store.apply(event.index, new Uint8Array());
        return;
      case "snapshot":
        await this.#store.restoreFrom(event.data);
        return;
      case "leader":
        this.#followLeader(event.leaderId);
        this.#lead(event.isSelf ? event.term : undefined);
        return;
      case "membership":
        this.#members = event.members;
        for (const listener of this.#memberListeners) listener();
        return;
      case "failed":
        throw event.removed
          ? new ClusterError("failed-precondition", "this node was removed from the group of managers")
          : event.error;
    }
  }

  /** Requests under way at a leader that another has replaced get no answer any more: whoever waits is told so. */
  #followLeader(leaderId: NodeId | undefined): void {
    this.#leaderId = leaderId;
    if (leaderId === undefined || leaderId === this.#askedLeader.id) return;
    this.#askedLeader.replaced.abort(new ClusterError("unavailable", outcomeUnknownText));
    this.#askedLeader = { id: leaderId, replaced: new AbortController() };
  }

  #lead(term: number | undefined): void {
    const { log } = this.#deps;
    if (term !== undefined && term === this.#store.leadingTerm) return;
    const before = this.#leadership;
    this.#leadership = undefined;
    this.#store.setLeading(term);
    if (before !== undefined) {
      log.info({}, "this manager does not lead any more");
      // One that was lost before it began has nothing to end, and the one it waited for may still be ending.
      this.#leadershipEnd = Promise.all([this.#leadershipEnd, before.stop()]).then(() => undefined);
    }
    if (term === undefined) return;
    log.info({ term }, "this manager leads");
    const { clock, random } = this.#deps;
    const deps = { clock, random, log, store: this.#store, membership: this.#membershipDeps() };
    this.#leadership = new Leadership(deps, this.#leadershipEnd);
  }

  /** The store as one applied entry left it, in pieces; other work gets its turn between two of them. */
  async #snapshot(atLeast: number): ReturnType<SnapshotSource> {
    await this.#store.waitApplied(atLeast, this.#loops.signal);
    const { clock } = this.#deps;
    const { signal } = this.#loops;
    return { index: this.#store.appliedIndex, data: oneByOne(this.#store.snapshot()) };

    async function* oneByOne(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for (const piece of pieces) {
        yield piece;
        await clock.sleep(0, signal);
      }
    }
  }

  async #found(founding: Founding): Promise<void> {
    const { clock } = this.#deps;
    using limit = deadline(clock, foundTimeoutMs, "founding the cluster", this.#loops.signal);
    while (this.#store.leadingTerm === undefined) await this.#pause(20, limit.signal);
    await this.#store.update((tx) => founding.write(tx), limit.signal);
    this.#notify({ kind: "bootstrapped", identity: founding.identity });
  }

  /** Asks one manager after another to be let in, then waits until the cluster's state has arrived here. */
  async #join(): Promise<void> {
    const { clock, random, log } = this.#deps;
    using limit = deadline(clock, joinTimeoutMs, "joining the group of managers", this.#loops.signal);
    const delays = backoff(random);
    while (!(await this.#tryJoin(limit.signal))) await this.#pause(delays.next().value, limit.signal);
    const { nodeId } = this.identity;
    const arrived = (): boolean =>
      this.#leaderId !== undefined && this.#store.view((view) => view.nodes.has(nodeId));
    while (!arrived()) await this.#pause(20, limit.signal);
    log.info({ managers: this.#knownMembers().length }, "joined the group of managers");
  }

  async #tryJoin(signal: AbortSignal): Promise<JoinGroupResponse | undefined> {
    const { advertiseAddress, managers } = this.identity;
    const request = {
      address: advertiseAddress,
      raftAddress: raftAddressOf(advertiseAddress),
      memberId: this.#requireGroup().memberId,
    };
    for (const manager of managers.filter((address) => address !== advertiseAddress)) {
      const client = this.#channels.to(manager);
      try {
        return await callManager(client, ControlService.joinGroup, request, {
          timeoutMs: joinAttemptMs,
          signal,
        });
      } catch (error) {
        if (signal.aborted) throw error;
        const code = error instanceof ClusterError ? error.code : "internal";
        if (code === "permission-denied" || code === "invalid-argument" || code === "not-found") throw error;
        this.#deps.log.warn({ manager, error: errorText(error) }, "cannot join yet");
      }
    }
    return undefined;
  }

  /** Leaves the group of managers; alone, there is nobody to leave. Bounded, and never fails: who wants to go goes. */
  async leave(): Promise<void> {
    const { clock, log } = this.#deps;
    const { nodeId } = this.identity;
    if (this.#knownMembers().length > 1) {
      using limit = deadline(clock, leaveTimeoutMs, "leaving the group of managers", this.#loops.signal);
      try {
        await this.#handOver(limit.signal);
        for (;;) {
          const address = this.#leaderAddress();
          try {
            if (address === undefined || this.#leaderId === nodeId) throw new NoLeaderYet(noLeaderText);
            const client = this.#channels.to(address);
            await callManager(
              client,
              ControlService.leaveGroup,
              {},
              { timeoutMs: leaveTimeoutMs, signal: limit.signal },
            );
            break;
          } catch (error) {
            if (!(error instanceof NoLeaderYet)) throw error;
          }
          await this.#pause(50, limit.signal);
        }
      } catch (error) {
        log.warn({ error: errorText(error) }, "left without being removed from the group of managers");
      }
    }
    this.#notify({ kind: "left" });
  }

  /** Orderly end; containers and data stay. Bounded. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stopAll();
    return this.#stopping;
  }

  async #stopAll(): Promise<void> {
    const { clock, log } = this.#deps;
    const bounded = async (what: string, work: Promise<unknown> | undefined): Promise<void> => {
      if (work === undefined) return;
      await within(clock, closeTimeoutMs, what, work).catch((error: unknown) =>
        log.warn({ error: errorText(error) }, "did not end in order"),
      );
    };
    await bounded("handing over the leadership", this.#handOver());
    await bounded("closing the API", this.#api?.close());
    this.#lead(undefined);
    await bounded("ending the leadership", this.#leadershipEnd);
    await bounded("ending telemetry", this.#telemetry.stop());
    await bounded("closing the cluster port", this.#listener?.close());
    if (this.#listener === undefined) this.#server?.forceShutdown();
    await bounded("ending consensus", this.#group?.stop());
    await this.#loops.stop("the manager is stopping", closeTimeoutMs);
    this.#channels[Symbol.dispose]();
  }

  /** A leader that goes on purpose spares everybody an election timeout. */
  async #handOver(signal?: AbortSignal): Promise<void> {
    if (this.#store.leadingTerm === undefined || this.#knownMembers().length < 2) return;
    using limit = deadline(this.#deps.clock, transferTimeoutMs, "transferring the leadership", signal);
    await orAborted(this.#requireGroup().transferLeadership(undefined, limit.signal), limit.signal).catch(
      (error: unknown) => this.#deps.log.warn({ error: errorText(error) }, "cannot hand over the leadership"),
    );
  }

  #openApi(): Api {
    const { clock, random, log } = this.#deps;
    const api = createApi({
      store: this.#store,
      clock,
      random,
      log: log.child({ part: "api" }),
      nodeId: this.identity.nodeId,
      cluster: {
        isLeader: () => this.#isLeader(),
        leaderAddress: () => this.#leaderAddress(),
        leaderId: () => this.#leaderId,
        readBarrier: (signal) => this.#readBarrier(signal),
        reachable: (nodeId) => this.#isReachable(nodeId),
      },
      forward: (request, signal) => {
        const address = this.#leaderAddress();
        if (address === undefined) return Promise.reject(new NoLeaderYet(noLeaderText));
        const client = this.#channels.to(address);
        return callManager(client, ControlService.forward, request, {
          timeoutMs: forwardTimeoutMs,
          signal: AbortSignal.any([signal, this.#askedLeader.replaced.signal]),
        });
      },
      logs: (selector, options, signal) => this.#telemetry.logs(selector, options, signal),
      joinTokens: {
        rotate: (kind, tx) => {
          const { cluster } = tx;
          if (cluster === undefined) throw new ClusterError("unavailable", "the cluster is still being made");
          const joinTokens = rotateJoinToken(random, cluster.joinTokens, kind, cluster.ca.certificatePem);
          tx.clusters.update({ ...cluster, joinTokens });
        },
      },
    });
    this.#api = api;
    return api;
  }

  #doorDeps(): DoorDeps {
    const { clock, random, log } = this.#deps;
    const isLeader = (): boolean => this.#isLeader();
    return {
      roster: this.#roster(),
      log: log.child({ part: "doors" }),
      peerOf: (call) =>
        this.#listener?.peerOf(call) ?? { kind: "refused", address: "", reason: "not ready yet" },
      dispatcher: () => this.#leadership?.dispatcher,
      leaderAddress: () => (isLeader() ? this.identity.advertiseAddress : this.#leaderAddress()),
      clock,
      ca: { store: this.#store, clock, random, log: log.child({ part: "ca" }) },
      membership: this.#membershipDeps(),
      channels: this.#channels,
      isLeader,
      inject: (request) => this.#api?.inject(request) ?? Promise.reject(new NoLeaderYet(noLeaderText)),
    };
  }

  #membershipDeps() {
    const { clock, log } = this.#deps;
    return {
      store: this.#store,
      group: {
        changeMembership: (...args: Parameters<RaftGroup["changeMembership"]>) =>
          this.#requireGroup().changeMembership(...args),
        transferLeadership: (...args: Parameters<RaftGroup["transferLeadership"]>) =>
          this.#requireGroup().transferLeadership(...args),
      },
      clock,
      log: log.child({ part: "membership" }),
      nodeId: this.identity.nodeId,
      members: () => this.#knownMembers(),
      onMembers: (listener: () => void) => {
        this.#memberListeners.add(listener);
        return () => void this.#memberListeners.delete(listener);
      },
    };
  }

  #knownMembers(): readonly GroupMember[] {
    return this.#members.length > 0 ? this.#members : (this.#group?.status().members ?? []);
  }

  #roster(): Roster {
    return {
      clusterId: this.identity.clusterId,
      isRemoved: (nodeId) =>
        this.#store.view(
          (view) =>
            view.cluster?.removedNodes[nodeId] !== undefined ||
            // The leader knows every node there is; entries of the list above run out with their certificates.
            (this.#isLeader() && !view.nodes.has(nodeId)),
        ),
      roleInEffect: (nodeId) =>
        this.#isLeader() ? this.#store.view((view) => view.nodes.get(nodeId)?.role) : undefined,
    };
  }

  #telemetryContext() {
    const { clock, random, log, settings } = this.#deps;
    return {
      clock,
      random,
      log: log.child({ part: "telemetry" }),
      settings,
      store: this.#store,
      identity: () => this.identity,
      leaderAddress: () => (this.#isLeader() ? this.identity.advertiseAddress : this.#leaderAddress()),
    };
  }

  #isLeader(): boolean {
    return this.#store.leadingTerm !== undefined;
  }

  #leaderAddress(): string | undefined {
    const leaderId = this.#leaderId;
    if (leaderId === undefined) return undefined;
    const stored = this.#store.view((view) => view.nodes.get(leaderId)?.member?.address);
    if (stored !== undefined) return stored;
    const member = this.#knownMembers().find(({ nodeId }) => nodeId === leaderId);
    return member && clusterAddress(member.raftAddress);
  }

  async #readBarrier(signal?: AbortSignal): Promise<void> {
    using limit = deadline(this.#deps.clock, readBarrierTimeoutMs, "a linearizable read", signal);
    const index = await this.#requireGroup().readIndex(limit.signal);
    try {
      await this.#store.waitApplied(index, limit.signal);
    } catch (cause) {
      if (!limit.signal.aborted || signal?.aborted === true) throw cause;
      const text = `this manager is behind the others and did not catch up within ${readBarrierTimeoutMs / 1000} s`;
      throw new ClusterError("unavailable", `${text}: ask another one, and see its log`, { cause });
    }
  }

  #isReachable(nodeId: NodeId): boolean {
    if (nodeId === this.identity.nodeId) return true;
    return this.#group?.status().members.find((member) => member.nodeId === nodeId)?.reachable ?? false;
  }

  #requireGroup(): RaftGroup {
    if (this.#group === undefined) throw new ClusterError("unavailable", "this manager is still starting");
    return this.#group;
  }

  /** Waits, unless the manager fails meanwhile. */
  #pause(ms: number, signal: AbortSignal): Promise<void> {
    return Promise.race([this.#deps.clock.sleep(ms, signal), this.failure]);
  }
}

async function found(
  deps: ManagerDeps,
  start: Extract<ManagerStart, { kind: "bootstrap" }>,
): Promise<Founding> {
  const { request } = start;
  const addresses: OwnAddresses = resolveAddresses(start);
  const spec = parseClusterSpec(jsonObject(request.spec ?? {}, ""));
  return foundCluster(deps, {
    request,
    spec,
    ...addresses,
    raftAddress: raftAddressOf(addresses.advertiseAddress),
  });
}
