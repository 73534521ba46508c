import { defaultAddressPools, defaultSubnetBits } from "../../model/defaults.ts";
import type { Attachment } from "../../model/attachment.ts";
import type { AttachmentId, NetworkId, ServiceId, TaskId } from "../../model/ids.ts";
import type { Network, NetworkState } from "../../model/network.ts";
import type { Node } from "../../model/node.ts";
import type { Service, ServiceEndpoint } from "../../model/service.ts";
import { isTerminal, isWanted, type NetworkAttachment, portKey, type Task } from "../../model/task.ts";
import { runLoop, type LoopDeps } from "../../runtime/loop.ts";
import type { StoreEvent } from "../store/change.ts";
import { pending, revisionOfTask } from "../store/revisions.ts";
import type { Store } from "../store/store.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import { AllocationBook, type AllocationScene, isAllocated, type Outcome } from "./book.ts";
import { attachmentsOf, isReachable, noIngressText, virtualNetworks } from "./endpoint.ts";
import { hostBlocks, ipv6PoolOf } from "./subnet.ts";

export interface AllocatorDeps extends LoopDeps {
  readonly store: Pick<Store, "view" | "watch" | "batch">;
}

/** What gets committed together; each is checked again against what the store holds by then. */
type Grant =
  | { readonly kind: "network"; readonly id: NetworkId; readonly state: NetworkState }
  | {
      readonly kind: "service";
      readonly id: ServiceId;
      readonly specVersion: number;
      readonly endpoint: ServiceEndpoint;
    }
  | { readonly kind: "task"; readonly id: TaskId; readonly networks: readonly NetworkAttachment[] }
  | { readonly kind: "refusal"; readonly id: TaskId; readonly reason: string }
  | {
      readonly kind: "attachment";
      readonly id: AttachmentId;
      readonly asked: Pick<Attachment, "asked" | "askedIpv6">;
      readonly given: Pick<Attachment, "address" | "ipv6"> | Pick<Attachment, "refusal">;
    };

/** A new cluster's networks wait no longer than this for the first node to say what its host has of its own. */
const firstNodeMs = 10_000;
/** Tasks that are looked at in one go; other work of the main thread gets its turn before the next ones. */
const passLimit = 1_000;

/**
 * Gives overlays their subnet, services their virtual IPs and published ports, and tasks their addresses, and lets a task
 * on to the scheduler once it has them. Ends when `signal` aborts; never rejects.
 */
export function runAllocator(deps: AllocatorDeps, signal: AbortSignal): Promise<void> {
  return runLoop(deps, "allocator", (ended) => allocate(deps, ended), signal);
}

async function allocate({ store, log, clock }: AllocatorDeps, signal: AbortSignal): Promise<void> {
  using watch = store.watch(["tasks", "networks", "services", "attachments", "nodes"], signal);
  let isFirstNodeAwaited = true;
  const stopAwaiting = clock.after(firstNodeMs, () => {
    isFirstNodeAwaited = false;
    watch.poke();
  });
  let book = new AllocationBook();
  const waitingNetworks = new Set<NetworkId>();
  const waitingServices = new Set<ServiceId>();
  const refusedServices = new Map<ServiceId, string>();
  const waitingTasks = new Set<TaskId>();
  /** Tasks that were refused wait here until something is freed or a network changes. */
  const stuckTasks = new Set<TaskId>();
  const waitingAttachments = new Set<AttachmentId>();
  try {
    store.view(rebuild);
    for (;;) {
      await grant(store.view(decide));
      if (waitingTasks.size === 0 && !(await watch.ready())) return;
      if (signal.aborted) return;
      store.view((view) => note(view, watch.take()));
    }
  } finally {
    stopAwaiting();
  }

  function rebuild(view: StoreView): void {
    book = new AllocationBook();
    for (const set of [waitingNetworks, waitingServices, refusedServices, waitingTasks, stuckTasks])
      set.clear();
    waitingAttachments.clear();
    noteNetworks(view);
    for (const service of view.services
      .list()
      .toSorted((a, b) => a.meta.createdVersion - b.meta.createdVersion)) {
      if (!book.claimService(service))
        log.error({ service: service.id }, "service shares an address or port with another");
      noteService(view, service);
    }
    // Should two tasks have one address, it stays with the older.
    for (const task of view.tasks.list().toSorted((a, b) => a.meta.createdVersion - b.meta.createdVersion)) {
      if (task.status.state === "new") noteTask(task);
      else if (!book.claimTask(task)) log.error({ task: task.id }, "task shares an address with another");
    }
    for (const attachment of view.attachments
      .list()
      .toSorted((a, b) => a.meta.createdVersion - b.meta.createdVersion)) {
      if (!book.claimAttachment(attachment))
        log.error({ attachment: attachment.id }, "container shares an address with another");
      noteAttachment(attachment);
    }
  }

  function noteNetworks(view: StoreView): void {
    for (const network of view.networks.list()) noteNetwork(network);
  }

  function noteNetwork(network: Network): void {
    if (network.state !== undefined) book.claimNetwork(network);
    else if (isAllocated(network)) waitingNetworks.add(network.id);
  }

  function noteService(view: StoreView, service: Service): void {
    const wanted = virtualNetworks(service.spec, view.networks);
    if (wanted === undefined || !isReachable(service, wanted)) waitingServices.add(service.id);
    else refusedServices.delete(service.id);
    for (const id of stuckTasks) if (view.tasks.get(id)?.serviceId === service.id) retry(id);
  }

  function noteTask(task: Task): void {
    if (task.status.state === "new" && isWanted(task)) {
      if (!stuckTasks.has(task.id)) waitingTasks.add(task.id);
    } else if (isTerminal(task)) {
      forget(task.id);
    }
  }

  /** One that has no address is new, or asks for another than it had. */
  function noteAttachment({ id, address, refusal }: Attachment): void {
    if (address !== undefined || refusal !== undefined) return;
    if (book.releaseAttachment(id)) retryStuck();
    waitingAttachments.add(id);
  }

  function forget(id: TaskId): void {
    waitingTasks.delete(id);
    stuckTasks.delete(id);
    if (book.releaseTask(id)) retryStuck();
  }

  function retry(id: TaskId): void {
    stuckTasks.delete(id);
    waitingTasks.add(id);
  }

  function retryStuck(): void {
    for (const id of refusedServices.keys()) waitingServices.add(id);
    for (const id of stuckTasks) retry(id);
  }

  function note(view: StoreView, events: readonly StoreEvent[]): void {
    for (const event of events) {
      if (event.kind === "resync") return rebuild(view);
      if (event.table === "tasks") {
        const task = event.kind === "removed" ? undefined : view.tasks.get(event.object.id);
        if (task === undefined) forget(event.object.id);
        else noteTask(task);
      }
      if (event.table === "services") {
        const service = event.kind === "removed" ? undefined : view.services.get(event.object.id);
        if (service !== undefined) {
          noteService(view, service);
        } else {
          waitingServices.delete(event.object.id);
          refusedServices.delete(event.object.id);
          if (book.settleService(event.object.id, undefined)) retryStuck();
        }
      }
      if (event.table === "attachments") {
        const attachment = view.attachments.get(event.object.id);
        if (attachment !== undefined) noteAttachment(attachment);
        else if (book.releaseAttachment(event.object.id)) retryStuck();
      }
      if (event.table === "nodes") {
        const before = event.kind === "updated" ? subnetsSaid(event.previous) : "";
        // What was refused for the sake of a host may have it now.
        if (event.kind === "removed" || subnetsSaid(event.object) !== before) noteNetworks(view);
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
    const nodes = waitingNetworks.size === 0 ? [] : view.nodes.list();
    const from = {
      pools: pools.length > 0 ? pools : defaultAddressPools,
      bits: view.cluster?.subnetBits ?? defaultSubnetBits,
      ipv6Pool: ipv6PoolOf(view.cluster?.id ?? ""),
      hosts: hostBlocks(nodes),
    };
    // The subnet that a network has, it keeps: it is not chosen before the cluster's first node was heard.
    const isTooEarly =
      isFirstNodeAwaited && nodes.length > 0 && nodes.every(({ description }) => description === undefined);
    for (const id of isTooEarly ? [] : waitingNetworks) {
      const network = view.networks.get(id);
      if (network === undefined || network.state !== undefined) continue;
      const outcome = book.allocateNetwork(network, from);
      if (outcome.kind === "allocated") grants.push({ kind: "network", id, state: outcome.value });
      else log.warn({ network: network.spec.name, reason: outcome.reason }, "network gets no subnet");
    }
    if (!isTooEarly) waitingNetworks.clear();
    const scene = sceneOf(view);
    for (const id of waitingServices) {
      const service = view.services.get(id);
      if (service === undefined) continue;
      const wanted = virtualNetworks(service.spec, view.networks);
      const outcome =
        wanted === undefined
          ? ({ kind: "refused", reason: noIngressText } as const)
          : book.allocateService(service, wanted, scene);
      if (outcome.kind === "allocated") {
        refusedServices.delete(id);
        grants.push({ kind: "service", id, specVersion: service.specVersion, endpoint: outcome.value });
      } else {
        refusedServices.set(id, outcome.reason);
      }
    }
    waitingServices.clear();
    for (const id of waitingAttachments) {
      const attachment = view.attachments.get(id);
      if (attachment === undefined || attachment.address !== undefined) continue;
      const outcome = book.allocateAttachment(attachment, view.networks.get(attachment.networkId));
      const given = outcome.kind === "allocated" ? outcome.value : { refusal: outcome.reason };
      grants.push({ kind: "attachment", id, asked: attachment, given });
    }
    waitingAttachments.clear();
    let looked = 0;
    for (const id of waitingTasks) {
      if (looked >= passLimit) break;
      looked += 1;
      waitingTasks.delete(id);
      const task = view.tasks.get(id);
      if (task === undefined || task.status.state !== "new" || !isWanted(task)) continue;
      const outcome = allocateTask(view, task);
      if (outcome === undefined) {
        stuckTasks.add(id);
        continue;
      }
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

  /** @returns undefined while its service is about to get what it lacks. */
  function allocateTask(view: StoreView, task: Task): Outcome<readonly NetworkAttachment[]> | undefined {
    const service = view.services.get(task.serviceId);
    const wanted = service && virtualNetworks(service.spec, view.networks);
    if (service !== undefined && (wanted === undefined || !isReachable(service, wanted))) {
      const reason = refusedServices.get(service.id);
      return reason === undefined ? undefined : { kind: "refused", reason };
    }
    const revision = revisionOfTask(view, task);
    const references = revision === undefined ? [] : attachmentsOf(revision, view.networks);
    return book.allocateTask(task.id, references, (networkId) => view.networks.get(networkId));
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
      if (item.kind === "service") waitingServices.add(item.id);
      if (item.kind === "task") forget(item.id);
      if (item.kind === "network") book.releaseNetwork(item.id);
      if (item.kind === "attachment") book.releaseAttachment(item.id);
    }
    store.view((view) => {
      for (const item of grants) {
        if (item.kind !== "service") continue;
        if (book.settleService(item.id, view.services.get(item.id)?.endpoint)) retryStuck();
      }
    });
  }
}

function subnetsSaid({ description }: Node): string {
  return description?.subnets?.join() ?? "";
}

/** Host ports are gathered when one is first asked about, once per pass. */
function sceneOf(view: StoreView): AllocationScene {
  let ports: ReadonlySet<string> | undefined;
  return {
    network: (id) => view.networks.get(id),
    hostPorts: () =>
      (ports ??= new Set(
        view.services
          .list()
          .flatMap(({ spec }) => spec.endpoint.ports.filter(({ publishMode }) => publishMode === "host"))
          .map(portKey),
      )),
  };
}

/** Whether a port that was chosen for the service has meanwhile become another's on its own hosts. */
function isOpenOnHosts(tx: Transaction, { id, spec }: Service, { ports }: ServiceEndpoint): boolean {
  const chosen = ports.filter((_, index) => spec.endpoint.ports[index]?.publishedPort === 0).map(portKey);
  if (chosen.length === 0) return false;
  return tx.services
    .list()
    .some(
      (other) =>
        other.id !== id &&
        other.spec.endpoint.ports.some(
          (port) => port.publishMode === "host" && chosen.includes(portKey(port)),
        ),
    );
}

/** @returns False when the object has moved on and the grant is void. */
function carryOut(tx: Transaction, item: Grant): boolean {
  if (item.kind === "network") {
    const network = tx.networks.get(item.id);
    if (network === undefined || network.state !== undefined) return false;
    tx.networks.update({ ...network, state: item.state });
    return true;
  }
  if (item.kind === "service") {
    const service = tx.services.get(item.id);
    // Asked for otherwise meanwhile: what was chosen may not be what it wants now.
    if (service === undefined || service.specVersion !== item.specVersion) return false;
    if (isOpenOnHosts(tx, service, item.endpoint)) return false;
    tx.services.update({ ...service, endpoint: item.endpoint });
    return true;
  }
  if (item.kind === "attachment") {
    const attachment = tx.attachments.get(item.id);
    if (attachment === undefined || attachment.address !== undefined) return false;
    const { asked, askedIpv6 } = item.asked;
    if (attachment.asked !== asked || attachment.askedIpv6 !== askedIpv6) return false;
    tx.attachments.update({ ...attachment, ...item.given });
    return true;
  }
  const task = tx.tasks.get(item.id);
  if (task === undefined || task.status.state !== "new" || !isWanted(task)) return false;
  if (item.kind === "refusal") {
    tx.tasks.update({ ...task, status: { ...task.status, error: item.reason } });
    return true;
  }
  tx.tasks.update({ ...task, networks: item.networks, status: pending(tx) });
  return true;
}
