import { hostOf, withPort } from "../model/address.ts";
import { ClusterError, errorText } from "../model/errors.ts";
import type {
  ClusterFacts,
  DaemonToManager,
  DaemonToWorker,
  HostSettings,
  LocalNodeState,
  ManagerStart,
  ManagerToDaemon,
  NodeIdentity,
  SwarmInit,
  SwarmJoin,
  SwarmOperation,
  SwarmOutcome,
  WorkerToDaemon,
} from "../proto/host.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import type { Random } from "../runtime/random.ts";
import { followed, renewed, sourceOf } from "./addresses.ts";
import { type SupervisedChild, superviseChild } from "./child.ts";
import { eraseIdentity, eraseManagerData, saveIdentity, type StoredIdentity } from "./identity.ts";
import { afterManagerExit } from "./manager-exit.ts";
import { superviseRenewal } from "./renewal.ts";

/** Longest that `swarm init` and `swarm join` wait before they answer. */
const operationTimeoutMs = 20_000;
/** Longest that a leaving manager may take to be removed from the group before it goes anyway. */
const leaveTimeoutMs = 10_000;
/** After it was removed: a node that was demoted has its worker's certificate by then, and nothing to join. */
const rejoinDelayMs = 5_000;
const defaultPort = 2377;

type ManagerListener = (
  message: ManagerToDaemon | { readonly kind: "exited"; readonly reason: string },
) => void;

export interface ShoaldDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly settings: HostSettings;
}

/**
 * What this node is and which processes that takes. All changes go through one queue, so that a
 * renewal never meets a `swarm leave` half-way.
 */
export class Shoald {
  readonly #deps: ShoaldDeps;
  readonly #worker: SupervisedChild<DaemonToWorker>;
  readonly #renewal: ReturnType<typeof superviseRenewal>;
  readonly #stop = new AbortController();
  #manager: SupervisedChild<DaemonToManager> | undefined;
  #stored: StoredIdentity | undefined;
  #state: LocalNodeState = "inactive";
  #error = "";
  #queue: Promise<unknown> = Promise.resolve();
  #managerEvents: ManagerListener | undefined;
  #onFacts: (() => void) | undefined;
  #cancelRejoin: () => void = () => {};

  constructor(deps: ShoaldDeps, stored: StoredIdentity | undefined) {
    this.#deps = deps;
    this.#stored = stored;
    this.#state = stored === undefined ? "inactive" : "active";
    this.#worker = superviseChild<DaemonToWorker, WorkerToDaemon>(deps, {
      name: "worker",
      settings: deps.settings,
      onStart: () => [this.#identityMessage()],
      onMessage: (message) => this.#onWorkerMessage(message),
      onExit: () => "restart",
    });
    this.#renewal = superviseRenewal(deps, {
      identity: () => this.#stored?.identity,
      renewed: (identity) => this.#enqueue(() => this.#adoptRenewed(identity)),
    });
    if (stored?.identity.role === "manager") this.#startManager(this.#managerStart(stored));
  }

  /** Ends our processes; containers and containerd stay. */
  async stop(): Promise<void> {
    this.#stop.abort(new ClusterError("unavailable", "shoald is stopping"));
    this.#renewal.stop();
    this.#cancelRejoin();
    await Promise.all([this.#worker.stop(), this.#manager?.stop()]);
  }

  #onWorkerMessage(message: WorkerToDaemon): void {
    switch (message.kind) {
      case "ready":
        this.#deps.log.info({ socket: this.#deps.settings.socket }, "front door is open");
        return;
      case "cluster":
        // At once: a join that waits for its session holds the queue.
        this.#onFacts?.();
        void this.#enqueue(() => this.#adoptFacts(message.facts));
        return;
      case "moved":
        void this.#enqueue(() => this.#follow(message));
        return;
      case "request":
        void this.#enqueue(() => this.#answer(message.operation)).then((outcome) =>
          this.#worker.send({ kind: "reply", id: message.id, outcome }),
        );
        return;
    }
  }

  async #answer(operation: SwarmOperation): Promise<SwarmOutcome> {
    try {
      switch (operation.kind) {
        case "init":
          return { kind: "done", nodeId: await this.#init(operation.request) };
        case "join":
          return { kind: "done", nodeId: await this.#join(operation.request) };
        case "leave":
          return { kind: "done", nodeId: await this.#leave(operation.force) };
      }
    } catch (reason) {
      this.#deps.log.warn({ operation: operation.kind, error: errorText(reason) }, "swarm operation failed");
      const code = reason instanceof ClusterError ? reason.code : "internal";
      return { kind: "failed", code, message: errorText(reason) };
    }
  }

  async #init(request: SwarmInit): Promise<string> {
    // Without a cluster there is nothing to go on with, and it is a new one.
    if (request.forceNewCluster && this.#stored !== undefined) {
      return this.#forceNewCluster(this.#stored.identity, request);
    }
    this.#refuseMember();
    await eraseManagerData(this.#deps.settings.stateDir);
    const { listenAddress, advertiseAddress, dataPathAddress } = request;
    const bootstrapped = this.#managerMessage("bootstrapped");
    const ready = this.#managerMessage("ready");
    ready.catch(() => undefined); // Looked at below, after `bootstrapped`, which fails with it.
    this.#startManager({ kind: "bootstrap", request, listenAddress, advertiseAddress, dataPathAddress });
    try {
      const { identity } = await bootstrapped;
      await this.#become({ identity: { ...identity, ...sourceOf(request) }, managerJoined: true });
      await ready;
      return identity.nodeId;
    } catch (error) {
      await this.#forget();
      throw error;
    }
  }

  /** Goes on with this manager alone, on what it holds of the cluster: the way out when a majority of them is lost for good. */
  async #forceNewCluster(before: NodeIdentity, request: SwarmInit): Promise<string> {
    if (before.role !== "manager") throw notManager();
    const { listenAddress, advertiseAddress, dataPathAddress } = request;
    const identity = {
      ...before,
      listenAddress,
      advertiseAddress,
      dataPathAddress,
      ...sourceOf(request),
      managers: [advertiseAddress],
    };
    await this.#manager?.stop();
    this.#manager = undefined;
    const ready = this.#managerMessage("ready");
    ready.catch(() => undefined); // Looked at below.
    this.#startManager({ kind: "force-new-cluster", identity });
    await ready;
    await this.#become({ identity, managerJoined: true });
    return identity.nodeId;
  }

  async #join(request: SwarmJoin): Promise<string> {
    this.#refuseMember();
    if (request.remoteAddresses.length === 0) {
      throw new ClusterError("invalid-argument", "at least 1 RemoteAddr is required to join");
    }
    const remotes = request.remoteAddresses.map((address) => withPort(address, defaultPort));
    const { settings, clock } = this.#deps;
    const { ownAddressTowards, requestCertificate } = await import("./certificate.ts"); // See there why not before.
    const { issued, issuer } = await requestCertificate(
      {
        remotes,
        token: request.joinToken,
        availability: request.availability,
        hostname: settings.hostname,
        nowMs: clock.now(),
      },
      this.#stop.signal,
    );
    const ownAddress = request.advertiseAddress === "" ? await ownAddressTowards(issuer) : "";
    const advertiseAddress = withPort(request.advertiseAddress || ownAddress, defaultPort);
    const identity: NodeIdentity = {
      ...issued,
      listenAddress: request.listenAddress,
      advertiseAddress,
      dataPathAddress: request.dataPathAddress || hostOf(advertiseAddress),
      ...sourceOf(request),
    };
    const managerReady = identity.role === "manager" ? this.#managerMessage("ready") : undefined;
    managerReady?.catch(() => undefined); // Awaited below together with the session.
    const session = this.#nextFacts();
    session.catch(() => undefined); // As above.
    try {
      await eraseManagerData(settings.stateDir);
      await this.#become({ identity, managerJoined: false });
      await Promise.all([managerReady, session]);
      return identity.nodeId;
    } catch (error) {
      // The identity stays: worker and manager go on trying.
      if (error === joinTimeout) throw error;
      if (error instanceof ClusterError && error.code === "deadline-exceeded") throw joinTimeout;
      await this.#forget();
      throw error;
    }
  }

  async #leave(force: boolean): Promise<string> {
    const identity = this.#stored?.identity;
    if (identity === undefined) throw new ClusterError("unavailable", "This node is not part of a swarm");
    if (identity.role === "manager" && !force)
      throw new ClusterError("unavailable", managerLeaveText(identity));
    if (this.#manager !== undefined) {
      const left = this.#managerMessage("left", leaveTimeoutMs);
      this.#manager.send({ kind: "leave" });
      // With `--force` a manager without quorum must still be able to go.
      await left.catch((error: unknown) =>
        this.#deps.log.warn(
          { error: errorText(error) },
          "left without being removed from the group of managers",
        ),
      );
    }
    await this.#forget();
    return identity.nodeId;
  }

  #refuseMember(): void {
    if (this.#stored === undefined) return;
    throw new ClusterError(
      "unavailable",
      'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.',
    );
  }

  /** Takes on an identity: disk first, then everyone who needs it. */
  async #become(stored: StoredIdentity): Promise<void> {
    await saveIdentity(this.#deps.settings.stateDir, stored);
    const { identity } = stored;
    this.#stored = stored;
    this.#state = "active";
    this.#error = "";
    this.#worker.send(this.#identityMessage());
    if (identity.role === "worker") return this.#stopManager();
    if (this.#manager === undefined) this.#startManager(this.#managerStart(stored));
    else this.#manager.send({ kind: "identity", identity });
    return undefined;
  }

  /** The disk first: what it keeps, the node would be again after its next start, so it is that until then as well. */
  async #forget(): Promise<void> {
    const hadManager = this.#manager !== undefined;
    await this.#manager?.stop();
    this.#manager = undefined;
    try {
      await eraseIdentity(this.#deps.settings.stateDir);
    } catch (error) {
      if (hadManager && this.#stored !== undefined) this.#startManager(this.#managerStart(this.#stored));
      throw error;
    }
    this.#stored = undefined;
    this.#state = "inactive";
    this.#error = "";
    this.#worker.send(this.#identityMessage());
  }

  async #adoptRenewed(identity: NodeIdentity): Promise<void> {
    const before = this.#stored;
    if (before === undefined || before.identity.nodeId !== identity.nodeId) return; // Left meanwhile.
    const managerJoined = before.managerJoined && identity.role === "manager";
    // A demotion that was cut short may have left a log that no longer is this cluster's.
    if (before.identity.role === "worker") await eraseManagerData(this.#deps.settings.stateDir);
    if (before.identity.role !== identity.role) {
      this.#deps.log.info({ role: identity.role }, "role of this node changed");
    }
    await this.#become({ identity: renewed(before.identity, identity), managerJoined });
  }

  /** The host has another address. What managers are reached at does not follow: others know them by it. */
  async #follow({ nodeId, from, to }: Extract<WorkerToDaemon, { kind: "moved" }>): Promise<void> {
    const stored = this.#stored;
    if (stored === undefined || stored.identity.nodeId !== nodeId) return; // Left meanwhile.
    if (stored.identity.dataPathAddress !== from) return; // Said twice.
    this.#deps.log.warn({ from, to }, "the host's address has changed; its data path follows");
    const next = { ...stored, identity: followed(stored.identity, to) };
    await saveIdentity(this.#deps.settings.stateDir, next); // Where that fails, the worker says it again.
    this.#stored = next;
    this.#worker.send(this.#identityMessage());
  }

  async #adoptFacts(facts: ClusterFacts): Promise<void> {
    const stored = this.#stored;
    if (stored === undefined) return;
    const managers = facts.managers.length > 0 ? facts.managers : stored.identity.managers;
    if (managers.join() !== stored.identity.managers.join()) {
      this.#stored = { ...stored, identity: { ...stored.identity, managers } };
      await saveIdentity(this.#deps.settings.stateDir, this.#stored);
    }
    this.#renewal.facts(facts);
  }

  async #stopManager(): Promise<void> {
    await this.#manager?.stop();
    this.#manager = undefined;
    await eraseManagerData(this.#deps.settings.stateDir);
  }

  #startManager(start: ManagerStart): void {
    let first: ManagerStart | undefined = start;
    let failure: Extract<ManagerToDaemon, { kind: "failed" }> | undefined;
    this.#manager = superviseChild<DaemonToManager, ManagerToDaemon>(this.#deps, {
      name: "manager",
      settings: this.#deps.settings,
      // Only the first incarnation bootstraps, or forces a new cluster; later ones find what came of it.
      onStart: () => {
        const next = first ?? (this.#stored === undefined ? start : this.#managerStart(this.#stored));
        first = undefined;
        return [{ kind: "start", start: next }];
      },
      onMessage: (message) => {
        if (message.kind === "failed") {
          failure = message;
          this.#setError(message.message);
        }
        if (message.kind === "ready") this.#onManagerReady();
        this.#managerEvents?.(message);
      },
      onExit: (reason) => {
        this.#managerEvents?.({ kind: "exited", reason });
        const next = afterManagerExit(this.#stored, failure);
        failure = undefined;
        if (next !== "rejoin") return next;
        const ended = this.#manager;
        this.#cancelRejoin();
        this.#cancelRejoin = this.#deps.clock.after(rejoinDelayMs, () => {
          void this.#enqueue(() => this.#rejoin(ended));
        });
        return "leave";
      },
    });
  }

  /** As a member without a past: what it held is of the one that was removed. */
  async #rejoin(ended: SupervisedChild<DaemonToManager> | undefined): Promise<void> {
    const { settings } = this.#deps;
    if (this.#stop.signal.aborted || this.#manager !== ended) return; // Demoted, or left.
    if (this.#stored?.identity.role !== "manager") return;
    this.#stored = { ...this.#stored, managerJoined: false };
    await saveIdentity(settings.stateDir, this.#stored);
    await eraseManagerData(settings.stateDir);
    this.#startManager(this.#managerStart(this.#stored));
  }

  #onManagerReady(): void {
    this.#setError("");
    const stored = this.#stored;
    if (stored === undefined || stored.managerJoined) return;
    void this.#enqueue(async () => {
      if (this.#stored?.identity.role !== "manager") return;
      this.#stored = { ...this.#stored, managerJoined: true };
      await saveIdentity(this.#deps.settings.stateDir, this.#stored);
    });
  }

  #managerStart({ identity, managerJoined }: StoredIdentity): ManagerStart {
    return { kind: managerJoined ? "restart" : "join", identity };
  }

  #setError(text: string): void {
    if (this.#error === text) return;
    this.#error = text;
    this.#state = text === "" ? (this.#stored === undefined ? "inactive" : "active") : "error";
    if (text !== "") this.#deps.log.error({ error: text }, "the manager cannot run");
    this.#worker.send(this.#identityMessage());
  }

  #identityMessage(): DaemonToWorker {
    const identity = this.#stored?.identity;
    return { kind: "identity", state: this.#state, error: this.#error, ...(identity && { identity }) };
  }

  /** Settles with the manager's next message of that kind; fails when the manager says so, ends, or takes too long. */
  #managerMessage<Kind extends ManagerToDaemon["kind"]>(
    kind: Kind,
    timeoutMs = operationTimeoutMs,
  ): Promise<Extract<ManagerToDaemon, { kind: Kind }>> {
    return new Promise((resolve, reject) => {
      const next = this.#managerEvents;
      const settle = () => {
        cancel();
        if (this.#managerEvents === onEvent) this.#managerEvents = next;
      };
      const cancel = this.#deps.clock.after(timeoutMs, () => {
        settle();
        reject(
          new ClusterError(
            "deadline-exceeded",
            `the manager process did not say '${kind}' within ${timeoutMs} ms`,
          ),
        );
      });
      const onEvent: ManagerListener = (message) => {
        next?.(message);
        if (message.kind === kind) {
          settle();
          resolve(message as Extract<ManagerToDaemon, { kind: Kind }>);
        } else if (message.kind === "failed") {
          settle();
          reject(new ClusterError(message.code, message.message));
        } else if (message.kind === "exited") {
          settle();
          reject(
            new ClusterError(
              "internal",
              `the manager process ended (${message.reason}); see the log of shoald`,
            ),
          );
        }
      };
      this.#managerEvents = onEvent;
    });
  }

  /** Settles when the worker has a session with the leader. */
  #nextFacts(): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = this.#deps.clock.after(operationTimeoutMs, () => reject(joinTimeout));
      this.#onFacts = () => {
        cancel();
        this.#onFacts = undefined;
        resolve();
      };
    });
  }

  /** One at a time, in order; a failure is the caller's, not the queue's. */
  #enqueue<Result>(step: () => Promise<Result>): Promise<Result> {
    const result = this.#queue.then(step);
    this.#queue = result.catch((error: unknown) =>
      this.#deps.log.error({ error: errorText(error) }, "a change of this node's identity failed"),
    );
    return result;
  }
}

function notManager(): ClusterError {
  return new ClusterError(
    "unavailable",
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a " +
      "manager node or promote the current node to a manager.",
  );
}

const joinTimeout = new ClusterError(
  "unavailable",
  "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. " +
    'Use the "docker info" command to see the current swarm status of your node.',
);

function managerLeaveText(identity: NodeIdentity): string {
  const head = "You are attempting to leave the swarm on a node that is participating as a manager. ";
  const others = identity.managers.filter((address) => address !== identity.advertiseAddress);
  if (others.length === 0) {
    return `${head}Removing the last manager erases all current state of the swarm. Use \`--force\` to ignore this message. `;
  }
  return (
    `${head}The only way to restore a swarm that has lost consensus is to reinitialize it with ` +
    "`--force-new-cluster`. Use `--force` to suppress this message. "
  );
}
