import { heartbeatGrace } from "../../model/defaults.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Node, NodeState } from "../../model/node.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { Store } from "../store/store.ts";
import { heartbeatPeriodMs } from "./info.ts";
import { Liveness } from "./liveness.ts";

/** How often the deadlines are looked at. */
const tickMs = 100;
/** A node that has to find its leader gets this many heartbeat periods, at least `unheardGraceLeastMs`. */
const unheardGrace = 6;
const unheardGraceLeastMs = 6_000;
/** Nodes that found a new leader by then were never `unknown`; that saves two writes for each of them. */
const settleMs = 1_000;

export interface NodeStatesDeps {
  readonly store: Pick<Store, "view" | "update" | "batch">;
  readonly clock: Clock;
  readonly log: Log;
  isConnected(nodeId: NodeId): boolean;
  disconnect(nodeId: NodeId, reason: Error): void;
  /** Nodes that have a session from which nothing is read just now; their silence means nothing. */
  heldBack(): readonly NodeId[];
}

/** Which nodes are ready, unreachable, unknown or down, for one leadership. Its writes are retried or come up again. */
export class NodeStates {
  readonly #deps: NodeStatesDeps;
  readonly #signal: AbortSignal;
  readonly #liveness: Liveness;
  /** Nodes to be marked down; kept until it is written. */
  readonly #overdue = new Set<NodeId>();
  #writingDowns = false;

  constructor(deps: NodeStatesDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#signal = signal;
    this.#liveness = new Liveness(deps.clock.monotonic());
  }

  /** Begins to watch the clock. @returns A function that ends it. */
  start(): () => void {
    const { clock } = this.#deps;
    this.expectAll();
    const cancels = [
      clock.every(tickMs, () => this.#tick()),
      clock.after(settleMs, () => this.#inBackground("marking unheard nodes", this.#markUnknown())),
    ];
    return () => {
      for (const cancel of cancels) cancel();
    };
  }

  /**
   * The node asks for a session. Until it has one it may give us up, as when our group takes no writes for a while, and
   * look for a leader once more: it is given as long for that as after an election.
   */
  asks(nodeId: NodeId): void {
    this.#liveness.expect(nodeId, this.#searchGraceMs());
  }

  /** A sign of life came from the node in its session. */
  heard(nodeId: NodeId): void {
    const periodMs = this.#deps.store.view(heartbeatPeriodMs);
    this.#liveness.expect(nodeId, periodMs * heartbeatGrace);
  }

  /** The node has just got its certificate; its first session may take a while. */
  created(nodeId: NodeId): void {
    if (!this.#deps.isConnected(nodeId)) this.#liveness.expect(nodeId, unheardGraceLeastMs);
  }

  /** The node's session ended. */
  closed(nodeId: NodeId): void {
    this.#inBackground("marking a node unreachable", this.#markUnreachable(nodeId));
  }

  forget(nodeId: NodeId): void {
    this.#liveness.forget(nodeId);
    this.#overdue.delete(nodeId);
  }

  /** Nothing moves because of it: the grace that runs since the last heartbeat decides. */
  async #markUnreachable(nodeId: NodeId): Promise<void> {
    await this.#deps.store.update((tx) => {
      const node = tx.nodes.get(nodeId);
      if (node?.status.state !== "ready" || this.#deps.isConnected(nodeId)) return;
      tx.nodes.update(withState(node, "unreachable", "connection closed", tx.nowMs));
    }, this.#signal);
  }

  /** A new leader has heard nobody yet; everyone not known to be down gets time to come. */
  expectAll(): void {
    const graceMs = this.#searchGraceMs();
    this.#deps.store.view((view) => {
      for (const { id, status } of view.nodes.list()) {
        if (status.state !== "down" && !this.#deps.isConnected(id)) this.#liveness.expect(id, graceMs);
      }
    });
  }

  #searchGraceMs(): number {
    return Math.max(unheardGraceLeastMs, this.#deps.store.view(heartbeatPeriodMs) * unheardGrace);
  }

  async #markUnknown(): Promise<void> {
    const { store } = this.#deps;
    const unheard = store.view((view) =>
      view.nodes
        .list()
        .filter(
          ({ id, status }) =>
            !this.#deps.isConnected(id) && (status.state === "ready" || status.state === "unreachable"),
        ),
    );
    await store.batch(
      unheard.map(({ id }) => id),
      (tx, id) => {
        const node = tx.nodes.get(id);
        if (node === undefined || node.status.state === "down" || this.#deps.isConnected(id)) return;
        const message = 'Node moved to "unknown" state due to leadership change in cluster';
        tx.nodes.update(withState(node, "unknown", message, tx.nowMs));
      },
      this.#signal,
    );
  }

  #tick(): void {
    const { clock, log } = this.#deps;
    for (const nodeId of this.#deps.heldBack()) this.heard(nodeId);
    const lostMs = this.#liveness.tick(clock.monotonic());
    if (lostMs > 0)
      log.debug({ lostMs: Math.round(lostMs) }, "this manager was busy or stopped; nodes get the time back");
    for (const nodeId of this.#liveness.takeOverdue()) this.#overdue.add(nodeId);
    if (this.#overdue.size > 0 && !this.#writingDowns)
      this.#inBackground("marking nodes down", this.#writeDowns());
  }

  async #writeDowns(): Promise<void> {
    const { store, log } = this.#deps;
    const nodeIds = [...this.#overdue];
    this.#writingDowns = true;
    try {
      await store.batch(
        nodeIds,
        (tx, nodeId) => {
          const node = tx.nodes.get(nodeId);
          if (node === undefined || node.status.state === "down") return;
          if (this.#liveness.isExpected(nodeId)) return; // Heard meanwhile.
          const message =
            node.status.state === "unknown"
              ? 'heartbeat failure for node in "unknown" state'
              : "heartbeat failure";
          tx.nodes.update(withState(node, "down", message, tx.nowMs));
        },
        this.#signal,
      );
    } finally {
      this.#writingDowns = false;
    }
    for (const nodeId of nodeIds) {
      this.#overdue.delete(nodeId);
      // The store decides: a node heard since then is down all the same, and only a new session makes it ready.
      if (store.view((view) => view.nodes.get(nodeId)?.status.state) !== "down") continue;
      this.#deps.disconnect(nodeId, new ClusterError("unavailable", "heartbeat failure"));
      log.warn({ node: nodeId }, "node is down: heartbeat failure");
    }
  }

  #inBackground(work: string, promise: Promise<void>): void {
    promise.catch((error: unknown) => {
      if (!this.#signal.aborted)
        this.#deps.log.warn({ work, error: errorText(error) }, "could not write node states");
    });
  }
}

function withState(node: Node, state: NodeState, message: string, sinceMs: number): Node {
  return { ...node, status: { ...node.status, state, message, sinceMs } };
}
