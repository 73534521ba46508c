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
  /** The time that others have to agree on a leader once this one is none any more. */
  readonly boundTicks: number;
  readonly isConnected: (id: MemberId) => boolean;
  readonly done: (id: number, term: number) => void;
  readonly refuse: (id: number, error: ClusterError) => void;
}

/** Leadership that goes to another member: because somebody asked for it, or because this one can take nothing in. */
export class Handover {
  readonly #deps: HandoverDeps;
  /** Who asked for the one under way. */
  #asker: number | undefined;
  /** Since leadership was lost with nobody known who has it. */
  #leaderlessTicks = 0;
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
      if (result.kind === "accepted") {
        this.#asker = id;
        this.#leaderlessTicks = 0;
      } else this.#refuse(id, result.text);
    }
  }

  /** Role or leader have changed: what was asked for is done once another one is known to lead. */
  followRole(): void {
    const { node, memberId, done } = this.#deps;
    const { role, leader } = node.status();
    if (this.#asker === undefined || role === "leader" || leader === undefined || leader === memberId) return;
    done(this.#asker, 0);
    this.#asker = undefined;
  }

  /** One tick, of a leader or of who was one. */
  tick(): void {
    if (this.#asker === undefined) return;
    const { role, transferTo } = this.#deps.node.status();
    if (role === "leader") {
      if (transferTo === undefined) this.#giveUp("leadership was not taken over in time: it stays here");
      return;
    }
    this.#leaderlessTicks += 1;
    if (this.#leaderlessTicks < this.#deps.boundTicks) return;
    this.#giveUp(
      "leadership was given up, and nobody is known to have taken it over yet: see who leads, and ask that one",
    );
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

  #giveUp(text: string): void {
    if (this.#asker !== undefined) this.#deps.refuse(this.#asker, new ClusterError("unavailable", text));
    this.#asker = undefined;
  }

  #refuse(id: number, why: string): void {
    const text = `leadership cannot be handed over: ${why}`;
    this.#deps.refuse(id, new ClusterError("failed-precondition", text));
  }
}
