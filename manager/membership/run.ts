import { errorText } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import { deadline } from "../../runtime/signal.ts";
import type { RaftGroup } from "../raft/group.ts";
import type { StoreEvent } from "../store/change.ts";
import type { Store } from "../store/store.ts";
import { type MemberFact, type MembershipStep, planMembership } from "./plan.ts";

/** How often everything is looked at again, for what failed and for changes of the group that no event told of. */
const lookMs = 2_000;
const stepTimeoutMs = 10_000;
/** How often the list of removed nodes loses those whose certificates have run out anyway. */
const pruneMs = 3_600_000;

export interface MembershipDeps {
  readonly store: Pick<Store, "view" | "update" | "watch">;
  readonly group: Pick<RaftGroup, "changeMembership" | "transferLeadership">;
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeId: NodeId;
  /** The committed members; empty while they are not known. */
  members(): readonly MemberFact[];
  /** Calls back after every change of the group's members; the result ends it. */
  onMembers(listener: () => void): () => void;
}

/** The role manager: while this manager leads, makes roles and the consensus group follow what users asked for. */
export async function runMembership(deps: MembershipDeps, signal: AbortSignal): Promise<void> {
  const { store, clock, log } = deps;
  using watch = store.watch(["nodes"], signal);
  let isDue = true;
  const look = (): void => {
    isDue = true;
    watch.poke();
  };
  const cancels = [clock.every(lookMs, look), deps.onMembers(look)];
  let prunedMs = clock.monotonic() - pruneMs;
  const complained = new Map<string, string>();
  try {
    do {
      // Thousands of nodes may come and go, each with some news, and hardly any of it changes who is a manager.
      isDue = watch.take().some(concernsRoles) || isDue;
      if (!isDue) continue;
      isDue = false;
      if (clock.monotonic() - prunedMs >= pruneMs) {
        prunedMs = clock.monotonic();
        await pruneRemovedNodes(deps, signal);
      }
      for (const step of plan(deps)) {
        const key = JSON.stringify(step);
        try {
          using limit = deadline(clock, stepTimeoutMs, `membership step ${step.kind}`, signal);
          await perform(deps, step, limit.signal);
          log.info({ step }, "membership changed");
          complained.delete(key);
        } catch (error) {
          if (signal.aborted) return;
          const text = errorText(error);
          if (complained.get(key) !== text)
            log.warn({ step, error: text }, "cannot change the membership yet");
          complained.set(key, text);
          if (complained.size > 1_000) complained.clear();
        }
      }
    } while (await watch.ready());
  } finally {
    for (const cancel of cancels) cancel();
  }
}

function concernsRoles(event: StoreEvent): boolean {
  if (event.kind === "resync" || event.table !== "nodes") return true;
  const { object: node } = event;
  if (event.kind !== "updated")
    return node.role === "manager" || node.spec.role === "manager" || node.member !== undefined;
  const before = event.previous;
  return node.role !== before.role || node.spec.role !== before.spec.role || node.member !== before.member;
}

/** A removed node is refused for as long as its certificate would be valid; after that it is refused for its age. */
async function pruneRemovedNodes({ store, clock }: MembershipDeps, signal: AbortSignal): Promise<void> {
  const nowMs = clock.now();
  await store.update((tx) => {
    const { cluster } = tx;
    if (cluster === undefined) return;
    const keepMs = cluster.spec.certificateValidityMs + pruneMs;
    const entries = Object.entries(cluster.removedNodes);
    const kept = entries.filter(([, removedMs]) => nowMs - removedMs < keepMs);
    if (kept.length < entries.length)
      tx.clusters.update({ ...cluster, removedNodes: Object.fromEntries(kept) });
  }, signal);
}

function plan({ store, nodeId, ...deps }: MembershipDeps): MembershipStep[] {
  const members = deps.members();
  if (members.length === 0) return []; // A leader knows them as soon as it has applied its log.
  return planMembership({ nodes: store.view((view) => view.nodes.list()), members, leaderId: nodeId });
}

async function perform(
  { store, group }: MembershipDeps,
  step: MembershipStep,
  signal: AbortSignal,
): Promise<void> {
  switch (step.kind) {
    case "transfer-leadership":
      return group.transferLeadership(undefined, signal);
    case "remove-member":
      return group.changeMembership({ kind: "remove", nodeId: step.nodeId }, signal);
    case "set-role":
      return store.update((tx) => {
        const node = tx.nodes.get(step.nodeId);
        // The user may have changed her mind since.
        if (node !== undefined && node.spec.role === step.role) tx.nodes.update({ ...node, role: step.role });
      }, signal);
    case "set-member":
      return store.update((tx) => {
        const node = tx.nodes.get(step.nodeId);
        if (node === undefined) return;
        const { member: _before, ...rest } = node;
        tx.nodes.update(step.member === undefined ? rest : { ...rest, member: step.member });
      }, signal);
  }
}
