import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Server } from "@grpc/grpc-js";
import { splitHostPort } from "../model/address.ts";
import { ClusterError, errorText, noLeaderText } from "../model/errors.ts";
import type { HostSettings, ManagerStart, ManagerToDaemon, NodeIdentity } from "../proto/host.ts";
import { ControlService, type JoinGroupResponse } from "../proto/gen/shoal/control.ts";
import { backoff } from "../runtime/backoff.ts";
import { createGrpcServer, type GrpcListener, listenGrpc } from "../runtime/grpc.ts";
import type { LoopDeps } from "../runtime/loop.ts";
import { anyOf, deadline, within } from "../runtime/signal.ts";
import { TlsKeeper } from "../runtime/tls.ts";
import { type OwnAddresses, resolveAddresses } from "./addresses.ts";
import { jsonObject } from "./api/json-reader.ts";
import { type Api, createApi } from "./api/server.ts";
import { parseClusterSpec } from "./api/swarm-json.ts";
import { type Founding, foundCluster } from "./ca/found.ts";
import { rotateJoinToken } from "./ca/token.ts";
import { addDoors, type DoorDeps } from "./doors.ts";
import { raftAddressOf } from "./membership/plan.ts";
import { becomeSoleManager } from "./membership/sole.ts";
import { callManager, ManagerChannels, NoLeaderYet } from "./peers.ts";
import { leaveByLeader } from "./membership/leave.ts";
import type { RaftGroup, RaftGroupOptions, SnapshotSource } from "./raft/group.ts";
import { Replica } from "./replica.ts";
import type { Roster } from "./rpc.ts";
import type { Transaction } from "./store/transaction.ts";
import { noTelemetry, type OpenTelemetry, type Telemetry } from "./telemetry/telemetry.ts";

/** A group of one elects itself in well under this. */
const foundTimeoutMs = 15_000;
/** A joiner asks again until then; shoald's own patience is shorter and it starts us anew. */
const joinTimeoutMs = 60_000;
const joinAttemptMs = 12_000;
const forwardTimeoutMs = 25_000;
const leaveTimeoutMs = 8_000;
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
  readonly #replica: Replica;
  #server: Server | undefined;
  #listener: GrpcListener | undefined;
  #api: Api | undefined;
  #telemetry: Telemetry = noTelemetry;
  #stopping: Promise<void> | undefined;

  private constructor(deps: ManagerDeps, identity: NodeIdentity, notify: Notify) {
    this.#deps = deps;
    this.#notify = notify;
    this.#identity = { current: identity };
    this.#keeper = new TlsKeeper(identity);
    this.#channels = new ManagerChannels(this.#keeper);
    this.#replica = new Replica({ ...deps, nodeId: identity.nodeId });
  }

  /** Rejects when the manager cannot go on. */
  get failure(): Promise<never> {
    return this.#replica.failure;
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
    if (this.#replica.hasStarted) this.#replica.group.updateIdentity(identity);
    this.#telemetry.replace(identity);
  }

  async #start(kind: ManagerStart["kind"], founding: Founding | undefined): Promise<void> {
    const { settings } = this.#deps;
    const directory = join(settings.stateDir, "manager");
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await this.#openDoors(); // Before the data: a port that is taken is found while nothing has been written yet.
    await this.#openGroup(kind, join(directory, "raft"));
    if (founding !== undefined) await this.#found(founding);
    if (kind === "force-new-cluster") await this.#goOnAlone();
    if (kind === "join") await this.#join();
    this.#telemetry = this.#deps.openTelemetry?.(this.#telemetryContext()) ?? noTelemetry;
    await this.#openApi().listen(settings.managerSocket);
    this.#deps.log.info({ node: this.identity.nodeId, start: kind }, "manager serves");
    this.#notify({ kind: "ready" });
  }

  async #openDoors(): Promise<void> {
    const { log } = this.#deps;
    const server = createGrpcServer();
    const strangerServer = createGrpcServer("strangers");
    this.#server = server;
    for (const each of [server, strangerServer]) addDoors(each, this.#doorDeps());
    const { host, port } = splitHostPort(this.identity.listenAddress);
    this.#listener = await listenGrpc({ server, strangerServer, keeper: this.#keeper, host, port, log });
  }

  async #openGroup(start: RaftGroupOptions["start"], directory: string): Promise<void> {
    const { nodeId, clusterId, listenAddress, advertiseAddress, certificatePem, keyPem, rootPem } =
      this.identity;
    const { host: listenHost, port: listenPort } = splitHostPort(raftAddressOf(listenAddress));
    const options: RaftGroupOptions = {
      directory,
      nodeId,
      clusterId,
      identity: { certificatePem, keyPem, rootPem },
      listenHost,
      listenPort,
      raftAddress: raftAddressOf(advertiseAddress),
      start,
    };
    await this.#replica.start((source) => this.#deps.openGroup(options, source));
  }

  async #found(founding: Founding): Promise<void> {
    await this.#writeFirst("founding the cluster", (tx) => founding.write(tx));
    this.#notify({ kind: "bootstrapped", identity: founding.identity });
  }

  async #goOnAlone(): Promise<void> {
    const { nodeId } = this.identity;
    await this.#writeFirst("forcing a new cluster", (tx) => becomeSoleManager(tx, nodeId));
    this.#deps.log.warn({ node: nodeId }, "a new cluster was forced: this is its only manager");
  }

  /** Of a group of one, which elects itself. */
  async #writeFirst(what: string, write: (tx: Transaction) => void): Promise<void> {
    using limit = deadline(this.#deps.clock, foundTimeoutMs, what, this.#replica.signal);
    while (!this.#replica.isLeader) await this.#pause(20, limit.signal);
    await this.#replica.store.update(write, limit.signal);
  }

  /** Asks one manager after another to be let in, then waits until the cluster's state has arrived here. */
  async #join(): Promise<void> {
    const { clock, random, log } = this.#deps;
    using limit = deadline(clock, joinTimeoutMs, "joining the group of managers", this.#replica.signal);
    const delays = backoff(random);
    while (!(await this.#tryJoin(limit.signal))) await this.#pause(delays.next().value, limit.signal);
    const { nodeId } = this.identity;
    const arrived = (): boolean =>
      this.#replica.leaderId !== undefined && this.#replica.store.view((view) => view.nodes.has(nodeId));
    while (!arrived()) await this.#pause(20, limit.signal);
    log.info({ managers: this.#replica.members.length }, "joined the group of managers");
  }

  async #tryJoin(signal: AbortSignal): Promise<JoinGroupResponse | undefined> {
    const { advertiseAddress, managers } = this.identity;
    const request = {
      address: advertiseAddress,
      raftAddress: raftAddressOf(advertiseAddress),
      memberId: this.#replica.group.memberId,
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
    if (this.#replica.members.length > 1) {
      using limit = deadline(clock, leaveTimeoutMs, "leaving the group of managers", this.#replica.signal);
      try {
        const ask = async (timeoutMs: number): Promise<void> => {
          await this.#replica.handOver(limit.signal);
          const address = this.#replica.leaderAddress;
          if (address === undefined || this.#replica.leaderId === nodeId) throw new NoLeaderYet(noLeaderText);
          const options = { timeoutMs, signal: limit.signal };
          await callManager(this.#channels.to(address), ControlService.leaveGroup, {}, options);
        };
        await leaveByLeader({ ask, pause: (ms) => this.#pause(ms, limit.signal) }, limit.signal);
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
    await bounded("handing over the leadership", this.#replica.handOver());
    await bounded("closing the API", this.#api?.close());
    await bounded("ending the leadership", this.#replica.endLeading());
    await bounded("ending telemetry", this.#telemetry.stop());
    await bounded("closing the cluster port", this.#listener?.close());
    if (this.#listener === undefined) this.#server?.forceShutdown();
    await this.#replica.stop();
    this.#channels[Symbol.dispose]();
  }

  #openApi(): Api {
    const { clock, random, log } = this.#deps;
    const api = createApi({
      store: this.#replica.store,
      clock,
      random,
      log: log.child({ part: "api" }),
      nodeId: this.identity.nodeId,
      cluster: {
        isLeader: () => this.#replica.isLeader,
        leaderAddress: () => this.#replica.leaderAddress,
        leaderId: () => this.#replica.leaderId,
        readBarrier: (signal) => this.#replica.readBarrier(signal),
        reachable: (nodeId) => this.#replica.isReachable(nodeId),
        rotateDataKey: (signal) => this.#replica.group.rotateDataKey(signal),
      },
      forward: async (request, signal) => {
        const address = this.#replica.leaderAddress;
        if (address === undefined) throw new NoLeaderYet(noLeaderText);
        const client = this.#channels.to(address);
        using either = anyOf(signal, this.#replica.leaderReplaced);
        return await callManager(client, ControlService.forward, request, {
          timeoutMs: forwardTimeoutMs,
          signal: either.signal,
        });
      },
      checkNetworks: (nodeIds, peersOf) => this.#telemetry.checkNetworks(nodeIds, peersOf),
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
    const isLeader = (): boolean => this.#replica.isLeader;
    return {
      roster: this.#roster(),
      log: log.child({ part: "doors" }),
      peerOf: (call) =>
        this.#listener?.peerOf(call) ?? { kind: "refused", address: "", reason: "not ready yet" },
      dispatcher: () => this.#replica.dispatcher,
      leaderAddress: () => (isLeader() ? this.identity.advertiseAddress : this.#replica.leaderAddress),
      clock,
      ca: { store: this.#replica.store, clock, random, log: log.child({ part: "ca" }) },
      membership: this.#replica.membershipDeps,
      channels: this.#channels,
      isLeader,
      inject: (request) => this.#api?.inject(request) ?? Promise.reject(new NoLeaderYet(noLeaderText)),
    };
  }

  #roster(): Roster {
    return {
      clusterId: this.identity.clusterId,
      isRemoved: (nodeId) =>
        this.#replica.store.view(
          (view) =>
            view.cluster?.removedNodes[nodeId] !== undefined ||
            // The leader knows every node there is; entries of the list above run out with their certificates.
            (this.#replica.isLeader && !view.nodes.has(nodeId)),
        ),
      roleInEffect: (nodeId) =>
        this.#replica.isLeader ? this.#replica.store.view((view) => view.nodes.get(nodeId)?.role) : undefined,
    };
  }

  #telemetryContext() {
    const { clock, random, log, settings } = this.#deps;
    return {
      clock,
      random,
      log: log.child({ part: "telemetry" }),
      settings,
      store: this.#replica.store,
      identity: () => this.identity,
      leaderAddress: () =>
        this.#replica.isLeader ? this.identity.advertiseAddress : this.#replica.leaderAddress,
    };
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
