import type { MemberId, RaftNode } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Log } from "../../runtime/log.ts";
import { nodeIdOf } from "./membership.ts";

/** What the member lends. */
export interface HandoverDeps {
  readonly log: Pick<Log, "warn">;
  readonly memberId: MemberId;
  readonly node: Pick<RaftNode, "status" | "transferLeadership">;
  readonly isConnected: (id: MemberId) => boolean;
  readonly done: (id: number, term: number) => void;
  readonly refuse: (id: number, error: ClusterError) => void;
}

/** Leadership that goes to another member: because somebody asked for it, or because this one can take nothing in. */
export class Handover {
  readonly #deps: HandoverDeps;
  /** Who asked for the one under way. */
  #asker: number | undefined;
  /** A full disk was met by handing leadership over; not again before there was room. */
  #hasYielded = false;

  constructor(deps: HandoverDeps) {
    this.#deps = deps;
  }

  /** A leader is asked to hand over to this node, or to the best of those that can be reached. */
  start(id: number, to: NodeId | undefined): void {
    const { node, memberId, done } = this.#deps;
    const target = this.#target(to);
    if (to !== undefined && nodeIdOf(memberId) === to) done(id, node.status().term);
    else if (target === undefined) this.#refuse(id, "no such voter can be reached");
    else if (this.#asker !== undefined) this.#refuse(id, "another one is under way");
    else {
      const result = node.transferLeadership(target);
      if (result.kind === "accepted") this.#asker = id;
      else this.#refuse(id, result.text);
    }
  }

  /** The role has changed: what was asked for is done once another one leads. */
  followRole(): void {
    const { node, done } = this.#deps;
    if (this.#asker === undefined || node.status().role === "leader") return;
    done(this.#asker, 0);
    this.#asker = undefined;
  }

  /** One tick of a leader. */
  tick(): void {
    if (this.#asker === undefined || this.#deps.node.status().transferTo !== undefined) return;
    const text = "leadership was not taken over in time: it stays here";
    this.#deps.refuse(this.#asker, new ClusterError("unavailable", text));
    this.#asker = undefined;
  }

  /** A leader that can take nothing in lets another one lead. */
  yieldWhen(disk: "ample" | "short"): void {
    const { node, log } = this.#deps;
    if (disk !== "short" || node.status().role !== "leader") {
      this.#hasYielded = false;
      return;
    }
    if (this.#hasYielded || this.#asker !== undefined) return;
    const target = this.#target(undefined);
    if (target !== undefined && node.transferLeadership(target).kind === "accepted") {
      this.#hasYielded = true;
      log.warn({ to: target }, "leadership is handed over: the disk is full");
    }
  }

  /** The voter that is furthest, of those that can be reached or of the node that is asked for. */
  #target(to: NodeId | undefined): MemberId | undefined {
    const { node, memberId, isConnected } = this.#deps;
    const { peers, configuration } = node.status();
    return peers
      .filter((peer) => peer.id !== memberId && configuration.voters.includes(peer.id))
      .filter((peer) => (to === undefined ? isConnected(peer.id) : nodeIdOf(peer.id) === to))
      .toSorted((a, b) => b.match - a.match)[0]?.id;
  }

  #refuse(id: number, why: string): void {
    const text = `leadership cannot be handed over: ${why}`;
    this.#deps.refuse(id, new ClusterError("failed-precondition", text));
  }
}
