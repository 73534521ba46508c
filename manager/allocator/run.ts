import { defaultAddressPools, defaultSubnetBits } from "../../model/defaults.ts";
import type { NetworkId, TaskId } from "../../model/ids.ts";
import type { Network, NetworkState } from "../../model/network.ts";
import { isTerminal, isWanted, type NetworkAttachment, type Task } from "../../model/task.ts";
import { runLoop, type LoopDeps } from "../../runtime/loop.ts";
import type { StoreEvent } from "../store/change.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { Store } from "../store/store.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import { AllocationBook, isAllocated } from "./book.ts";

export interface AllocatorDeps extends LoopDeps {
  readonly store: Store;
}

/** What gets committed together; each is checked again against what the store holds by then. */
type Grant =
  | { readonly kind: "network"; readonly id: NetworkId; readonly state: NetworkState }
  | { readonly kind: "task"; readonly id: TaskId; readonly networks: readonly NetworkAttachment[] }
  | { readonly kind: "refusal"; readonly id: TaskId; readonly reason: string };

/** Tasks that are looked at in one go; other work of the main thread gets its turn before the next ones. */
const passLimit = 2_000;

/**
 * Gives overlays their subnet and tasks their addresses, and lets a task on to the scheduler once it
 * has them. Ends when `signal` aborts; never rejects.
 */
export function runAllocator(deps: AllocatorDeps, signal: AbortSignal): Promise<void> {
  return runLoop(deps, "allocator", (ended) => allocate(deps, ended), signal);
}

async function allocate({ store, log }: AllocatorDeps, signal: AbortSignal): Promise<void> {
  using watch = store.watch(["tasks", "networks"], signal);
  let book = new AllocationBook();
  const waitingNetworks = new Set<NetworkId>();
  const waitingTasks = new Set<TaskId>();
  /** Tasks that were refused wait here until something is freed or a network changes. */
  const stuckTasks = new Set<TaskId>();
  store.view(rebuild);
  for (;;) {
    await grant(store.view(decide));
    if (waitingTasks.size === 0 && !(await watch.ready())) return;
    if (signal.aborted) return;
    store.view((view) => note(view, watch.take()));
  }

  function rebuild(view: StoreView): void {
    book = new AllocationBook();
    for (const set of [waitingNetworks, waitingTasks, stuckTasks]) set.clear();
    noteNetworks(view);
    // Should two tasks have one address, it stays with the older.
    for (const task of view.tasks.list().toSorted((a, b) => a.meta.createdVersion - b.meta.createdVersion)) {
      if (task.status.state === "new") noteTask(task);
      else if (!book.claimTask(task)) log.error({ task: task.id }, "task shares an address with another");
    }
  }

  function noteNetworks(view: StoreView): void {
    for (const network of view.networks.list()) noteNetwork(network);
  }

  function noteNetwork(network: Network): void {
    if (network.state !== undefined) book.claimNetwork(network);
    else if (isAllocated(network)) waitingNetworks.add(network.id);
  }

  function noteTask(task: Task): void {
    if (task.status.state === "new" && isWanted(task)) {
      if (!stuckTasks.has(task.id)) waitingTasks.add(task.id);
    } else if (isTerminal(task)) {
      forget(task.id);
    }
  }

  function forget(id: TaskId): void {
    waitingTasks.delete(id);
    stuckTasks.delete(id);
    if (book.releaseTask(id)) retryStuck();
  }

  function retryStuck(): void {
    for (const id of stuckTasks) waitingTasks.add(id);
    stuckTasks.clear();
  }

  function note(view: StoreView, events: readonly StoreEvent[]): void {
    for (const event of events) {
      if (event.kind === "resync") return rebuild(view);
      if (event.table === "tasks") {
        const task = event.kind === "removed" ? undefined : view.tasks.get(event.object.id);
        if (task === undefined) forget(event.object.id);
        else noteTask(task);
      }
      if (event.table === "networks") {
        const network = view.networks.get(event.object.id);
        retryStuck();
        if (network === undefined) {
          book.releaseNetwork(event.object.id);
          noteNetworks(view); // What was refused for want of room may have it now.
        } else {
          noteNetwork(network);
        }
      }
    }
  }

  function decide(view: StoreView): Grant[] {
    const grants: Grant[] = [];
    const pools = view.cluster?.addressPools ?? [];
    const from = {
      pools: pools.length > 0 ? pools : defaultAddressPools,
      bits: view.cluster?.subnetBits ?? defaultSubnetBits,
    };
    for (const id of waitingNetworks) {
      const network = view.networks.get(id);
      if (network === undefined || network.state !== undefined) continue;
      const outcome = book.allocateNetwork(network, from);
      if (outcome.kind === "allocated") grants.push({ kind: "network", id, state: outcome.value });
      else log.warn({ network: network.spec.name, reason: outcome.reason }, "network gets no subnet");
    }
    waitingNetworks.clear();
    let looked = 0;
    for (const id of waitingTasks) {
      if (looked >= passLimit) break;
      looked += 1;
      waitingTasks.delete(id);
      const task = view.tasks.get(id);
      if (task === undefined || task.status.state !== "new" || !isWanted(task)) continue;
      const references = revisionOfTask(view, task)?.task.networks ?? [];
      const outcome = book.allocateTask(id, references, (networkId) => view.networks.get(networkId));
      if (outcome.kind === "allocated") {
        grants.push({ kind: "task", id, networks: outcome.value });
      } else {
        stuckTasks.add(id);
        if (task.status.error !== outcome.reason)
          grants.push({ kind: "refusal", id, reason: outcome.reason });
      }
    }
    return grants;
  }

  async function grant(grants: readonly Grant[]): Promise<void> {
    const missed = new Set<Grant>();
    await store.batch(
      grants,
      (tx, item) => {
        if (carryOut(tx, item)) missed.delete(item);
        else missed.add(item);
      },
      signal,
    );
    for (const item of missed) {
      if (item.kind === "task") forget(item.id);
      if (item.kind === "network") book.releaseNetwork(item.id);
    }
  }
}

/** @returns False when the object has moved on and the grant is void. */
function carryOut(tx: Transaction, item: Grant): boolean {
  if (item.kind === "network") {
    const network = tx.networks.get(item.id);
    if (network === undefined || network.state !== undefined) return false;
    tx.networks.update({ ...network, state: item.state });
    return true;
  }
  const task = tx.tasks.get(item.id);
  if (task === undefined || task.status.state !== "new" || !isWanted(task)) return false;
  if (item.kind === "refusal") {
    tx.tasks.update({ ...task, status: { ...task.status, error: item.reason } });
    return true;
  }
  tx.tasks.update({
    ...task,
    networks: item.networks,
    status: {
      ...task.status,
      state: "pending",
      atMs: tx.nowMs,
      appliedAtMs: tx.nowMs,
      message: "pending task scheduling",
      error: "",
    },
  });
  return true;
}
