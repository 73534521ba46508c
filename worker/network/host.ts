/**
 * The network of this host, over the kernel. One loop does all work: calls queue up, and whatever is
 * waiting when a round begins is carried out in that round, with one batch per tool for all of it.
 */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import { subnetsOf } from "../../model/network.ts";
import { parseBlock } from "./addresses.ts";
import { bridgeMtu, checkBridges, ownBridge } from "./bridges.ts";
import { NameServer } from "./dns.ts";
import { probesOf } from "./examine.ts";
import type { Finding, Peer } from "./examine.ts";
import { makeProbes } from "./examiner.ts";
import { checkId, newRecord, type TaskRecord } from "./journal.ts";
import { LinkChooser } from "./link-chooser.ts";
import type { NamespaceLink } from "./namespace.ts";
import type {
  Attached,
  AttachedRecord,
  AttachRequest,
  BridgeNetwork,
  HostNetwork,
  HostOffer,
  HostPort,
  WantedNetworks,
} from "./network.ts";
import { portName } from "./objects.ts";
import type { HostState, LocalPort } from "./objects.ts";
import { OverlayTroubles } from "./overlay-troubles.ts";
import type { HostParts } from "./parts.ts";
import { hostPorts, usesBridge } from "./prepare.ts";
import type { PreparedLink } from "./prepare.ts";
import { Program } from "./program.ts";
import { inParallel, Rounds } from "./rounds.ts";
import type { Job } from "./rounds.ts";
import { untilUnused } from "./flows.ts";
import { buildNames } from "./records.ts";
import type { Asker, NameTable } from "./records.ts";
import { bridgesProblem, overlapFindings, overlapRefusal, recordsWithout } from "./overlaps.ts";
import { requireSctp } from "./sctp.ts";
import { TaskTexts } from "./task-texts.ts";
import { failureOf, report, some, type Trouble, troubleTexts, troubleWithAll } from "./trouble.ts";
import { Upstream } from "./upstream.ts";
import {
  askersOf,
  drainOf,
  flowsTo,
  gatewaysOf,
  localNames,
  localPorts,
  namedNetworks,
  publishedTarget,
  withdrawnAddresses,
} from "./views.ts";

/** How many namespaces are made at the same time; more only queue at the kernel's one lock. */
const maxParallelNamespaces = 4;
/** How often the kernel is compared with what it should hold. */
const lookEveryMs = 5_000;

export class KernelNetwork implements HostNetwork {
  readonly #parts: HostParts;
  readonly #program: Program;
  readonly #upstream: Upstream;
  readonly #names: NameServer;
  readonly #texts: TaskTexts;
  readonly #links = new LinkChooser();
  readonly #troubles: OverlayTroubles;
  readonly #rounds = new Rounds((round) => this.#round(round));
  readonly #records = new Map<TaskId, TaskRecord>();
  readonly #own: BridgeNetwork;
  /** Once a task was on it, it stays: the next one is soon there. */
  #ownIsUsed = false;
  #bridges: readonly BridgeNetwork[] = [];
  /** The host's own, and those. */
  #all: readonly BridgeNetwork[] = [];
  #wanted: WantedNetworks | undefined;
  /** Built when somebody asks, dropped when something changed. */
  #table: NameTable | undefined;
  #askers: ReadonlyMap<string, Asker> = new Map();
  readonly #ending = new AbortController();
  #stopLooking = (): void => undefined;
  /** Settles once the kernel is in line with what was adopted; changes wait for it by themselves. */
  restored: Promise<void> = Promise.resolve();
  /** Of the last look; what it could not mend is said once. */
  #seen: { readonly found: readonly string[]; readonly unmended: string } = { found: [], unmended: "" };

  constructor(parts: HostParts, adopted: readonly TaskRecord[], wanted: WantedNetworks | undefined) {
    this.#parts = parts;
    this.#upstream = new Upstream({ ...parts, resolvConf: parts.settings.resolvConf });
    this.#troubles = new OverlayTroubles(parts);
    this.#names = new NameServer({
      clock: parts.clock,
      random: parts.random,
      upstream: this.#upstream,
      source: () => ({
        table: this.#nameTable(),
        asker: (gateway, address) => this.#askers.get(`${gateway} ${address}`),
      }),
    });
    this.#program = new Program({ ...parts, names: this.#names });
    this.#own = ownBridge(parts.settings.bridgeSubnet);
    const { gateway } = this.#own;
    this.#texts = new TaskTexts({ ...parts, upstream: this.#upstream, gateway });
    this.#useBridges(parts.settings.bridges);
    for (const record of adopted) this.#records.set(record.request.taskId, record);
    this.#wanted = wanted;
  }

  async open(): Promise<void> {
    await this.#program.open(this.#all);
    await this.#holdAgain();
    let looking = false;
    this.#stopLooking = this.#parts.clock.every(lookEveryMs, () => {
      if (looking) return;
      looking = true;
      this.#rounds
        .enqueue({ kind: "look" }, this.#ending.signal)
        .catch((reason: unknown) => this.#ending.signal.aborted || this.#parts.warn(errorText(reason)))
        .finally(() => (looking = false));
    });
    if (this.#wanted === undefined && this.#records.size + this.#bridges.length === 0) return;
    const what = "the network is not as it was before the restart";
    this.restored = this.#bringInLine().then((trouble) => report(this.#parts, what, trouble));
  }

  /** The rules still lead to the tasks; a port that another program took meanwhile stays the task's. */
  async #holdAgain(): Promise<void> {
    const { ports, warn } = this.#parts;
    for (const [taskId, { attached }] of this.#records) {
      for (const port of attached.publishedPorts) {
        const target = (): string | undefined => publishedTarget(this.#records, taskId);
        await ports.hold(port, target, this.#gateways).catch((reason: unknown) => warn(errorText(reason)));
      }
    }
  }

  async apply(wanted: WantedNetworks, signal: AbortSignal): Promise<void> {
    await this.#rounds.enqueue({ kind: "apply", wanted }, signal);
  }

  async applyBridges(
    bridges: readonly BridgeNetwork[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, string>> {
    checkBridges([this.#own, ...bridges]);
    const { failures } = await this.#rounds.enqueue({ kind: "bridges", bridges }, signal);
    return failures ?? new Map<string, string>();
  }

  async attach(request: AttachRequest, signal: AbortSignal): Promise<Attached> {
    return this.#enqueueOf("attach", request, signal);
  }

  async change(request: AttachRequest, signal: AbortSignal): Promise<Attached> {
    return this.#enqueueOf("change", request, signal);
  }

  async #enqueueOf(
    kind: "attach" | "change",
    request: AttachRequest,
    signal: AbortSignal,
  ): Promise<Attached> {
    checkId(request.taskId);
    const { attached } = await this.#rounds.enqueue({ kind, request }, signal);
    if (attached === undefined) throw new Error(`assertion failed: ${kind} without a result`);
    return attached;
  }

  async drained(taskId: TaskId, signal: AbortSignal): Promise<void> {
    await untilUnused(this.#parts, drainOf(this.#wanted, taskId), signal);
  }

  async detach(taskId: TaskId, signal: AbortSignal): Promise<void> {
    checkId(taskId);
    await this.#rounds.enqueue({ kind: "detach", taskId }, signal);
  }

  async list(): Promise<readonly AttachedRecord[]> {
    return [...this.#records.values()]
      .filter(({ state }) => state === "attached")
      .map(({ request: { taskId, containerId, networks }, attached }) => {
        return { taskId, containerId, attached, networks };
      });
  }

  async examine(peers: readonly Peer[], signal: AbortSignal): Promise<readonly Finding[]> {
    await this.#rounds.enqueue({ kind: "look" }, signal);
    const { found, unmended } = this.#seen;
    const kernel = { test: "kernel", peer: "", subject: "" } as const;
    const { wanted, underlayMtu } = await this.#state();
    const state = {
      wanted,
      records: [...this.#records.values()],
      underlayMtu,
      refusedPorts: this.#program.refusedPorts,
      tunnel: await this.#program.tunnelState(wanted, underlayMtu),
    };
    const probed = await makeProbes(this.#parts, probesOf(state, peers), signal);
    const missing = overlapFindings(this.#wanted, this.#program.overlaps(this.#wanted, this.#all));
    const broken = [...(unmended === "" ? [] : [unmended]), ...this.#troubles.texts].join("; ");
    if (broken !== "") return [{ ...kernel, state: "broken", text: broken }, ...missing, ...probed];
    const text = found.length === 0 ? "as it should be" : `was mended just now: ${some(found)}`;
    return [{ ...kernel, state: "ok", text }, ...missing, ...probed];
  }

  get namesHeldMs(): number {
    return this.#names.heldMs;
  }

  get offer(): HostOffer {
    return this.#program.offer;
  }

  watch(listener: () => void): () => void {
    return this.#program.watch(listener);
  }

  replaceTunnelKey(): void {
    this.#program.tunnel.replaceKey();
  }

  async close(): Promise<void> {
    this.#stopLooking();
    this.#ending.abort(new ClusterError("unavailable", "the host's network is shutting down"));
    await Promise.all([this.restored, this.#rounds.close()]);
    this.#names.close();
    this.#parts.ports.close();
    this.#program.close();
    this.#parts.launcher[Symbol.dispose]();
  }

  async #round(round: readonly Job[]): Promise<void> {
    await this.restored;
    const looks = round.filter(({ work }) => work.kind === "look");
    if (looks.length < round.length) await this.#work(round);
    if (looks.length > 0) await this.#look(); // At last: it takes long, and gives way to what comes meanwhile.
    for (const job of looks) job.done({});
  }

  async #work(round: readonly Job[]): Promise<void> {
    const applies = round.filter(({ work }) => work.kind === "apply" || work.kind === "bridges");
    for (const job of applies) await this.#take(job);
    const removed = new Map<Job, TaskRecord | undefined>();
    for (const job of round) {
      if (job.work.kind !== "detach") continue;
      removed.set(job, this.#records.get(job.work.taskId));
    }
    const gone = [...removed.values()].filter((record) => record !== undefined);
    await this.#parts.namespaces.remove(gone.map(({ request }) => request.taskId));
    // Not before: the record of a namespace that stays is how the next try finds ports and rules.
    for (const { request } of gone) this.#records.delete(request.taskId);
    const made: Job[] = [];
    const changed: Job[] = [];
    await inParallel(round, maxParallelNamespaces, async (job) => {
      if (job.work.kind === "attach" && (await this.#make(job, job.work.request))) made.push(job);
      if (job.work.kind === "change" && (await this.#remake(job, job.work.request))) changed.push(job);
    });
    const due = [...applies, ...made, ...changed];
    if (due.length + gone.length > 0) await this.#finish(due, gone);
    await this.#clear(gone);
    // Of a task without a record, an earlier detach may have failed half way.
    const unknown = [...removed].filter(([, record]) => record === undefined);
    await this.#removeTraces(unknown.flatMap(([{ work }]) => (work.kind === "detach" ? [work.taskId] : [])));
    for (const job of removed.keys()) if (!job.settled) job.done({});
    // A task nobody waits for any more, or that failed, leaves nothing behind.
    const failed = made.filter(
      ({ work }) => work.kind === "attach" && this.#isUnfinished(work.request.taskId),
    );
    await this.#abandon(failed.flatMap(({ work }) => (work.kind === "attach" ? [work.request.taskId] : [])));
  }

  /**
   * Compares the kernel with what it should hold, mends what differs, and says so. On a host without tasks and overlays
   * there is nothing to look at.
   */
  async #look(): Promise<void> {
    const { warn } = this.#parts;
    await this.#turnKeys().catch((reason: unknown) => warn(errorText(reason)));
    await this.#program.subnets.look(this.#all).catch((reason: unknown) => warn(errorText(reason)));
    if (this.#records.size + this.#bridges.length + (this.#wanted?.networks.length ?? 0) === 0) return;
    const trouble: string[] = [];
    const found: string[] = [];
    const unmade = [...this.#troubles.texts];
    try {
      for await (const seen of this.#program.look(await this.#state())) {
        found.push(...seen.found);
        trouble.push(...seen.trouble);
        for (const port of seen.lost) {
          await this.#relink(port).catch((reason: unknown) => trouble.push(errorText(reason)));
        }
        await this.#rounds.giveWay();
      }
      trouble.push(...troubleTexts(await this.#bringAbout(new Set())));
    } catch (reason) {
      trouble.push(errorText(reason));
    }
    const unmended = trouble.join("; ");
    const before = this.#seen.unmended;
    this.#seen = { found, unmended };
    if (unmended !== "" && unmended !== before) {
      this.#parts.warn(`the host's network is not as it should be, and cannot be mended: ${unmended}`);
    }
    unmade.push(...this.#troubles.texts);
    if (found.length === 0 || unmended !== "") return;
    if (unmade.length > 0) return; // What was never made is found to be gone by every look.
    this.#parts.warn(`the host's network was not as it was left, and is mended: ${some(found)}`);
  }

  async #relink({ taskId, bridge }: LocalPort): Promise<void> {
    const record = this.#records.get(taskId);
    if (record?.attached.kind !== "namespace") return;
    const { attached, mtus } = record;
    const links = attached.addresses.map((address, index) => ({ ...address, mtu: mtus[index] ?? bridgeMtu }));
    await this.#parts.namespaces.relink(taskId, links, bridge);
  }

  #isUnfinished(taskId: TaskId): boolean {
    return this.#records.get(taskId)?.state === "making";
  }

  /** Makes a wanted state the current one; one that makes no sense leaves the last in force. */
  async #take(job: Job): Promise<void> {
    if (job.work.kind === "bridges") {
      const overlays = this.#program.possible(this.#wanted, this.#all)?.networks ?? [];
      const problem = bridgesProblem(this.#records, this.#bridges, job.work.bridges, overlays);
      if (problem === undefined) this.#useBridges(job.work.bridges);
      else job.fail(problem);
    }
    if (job.work.kind !== "apply") return;
    try {
      const before = this.#wanted;
      const { networks } = job.work.wanted;
      for (const { subnet } of networks.flatMap(subnetsOf)) parseBlock(subnet);
      await this.#program.lookFor(networks, before?.networks, this.#all);
      this.#wanted = this.#parts.fit(job.work.wanted);
      this.#table = undefined;
      this.#names.withdraw(withdrawnAddresses(before, this.#wanted));
      await this.#parts.journal.writeWanted(job.work.wanted);
    } catch (reason) {
      job.fail(failureOf(reason));
    }
  }

  /** Everything of an attach that concerns no other task. @returns whether the host's side is due. */
  async #make(job: Job, request: AttachRequest): Promise<boolean> {
    const { taskId } = request;
    const known = this.#records.get(taskId);
    if (known?.state === "attached") {
      job.done({ attached: known.attached });
      return false;
    }
    // Left by a round that broke off: its ports would be in this one's way.
    if (known !== undefined) this.#parts.ports.release(known.attached.publishedPorts);
    let held: HostPort[] = [];
    try {
      await requireSctp(this.#parts.readText, request);
      const underlayMtu = await this.#program.underlayMtu(this.#wanted);
      const links = this.#prepare(request, underlayMtu);
      // Since it was prepared nothing has waited, so that no two tasks pick one address.
      this.#records.set(taskId, newRecord(request, this.#parts, links, []));
      const host = { wanted: this.#wanted, bridges: this.#all };
      const target = (): string | undefined => publishedTarget(this.#records, taskId);
      for (const port of hostPorts(request, links, host))
        held = [...held, await this.#parts.ports.hold(port, target, this.#gateways)];
      const record = newRecord(request, this.#parts, links, held);
      this.#records.set(taskId, record);
      await this.#parts.journal.write(record, await this.#texts.of(record));
      if (!request.host) {
        await this.#program.makeRoom(links.map(({ address }) => portName(taskId, address.bridge)));
        await this.#parts.namespaces.create(
          taskId,
          links.map(({ address, mtu }) => ({ ...address, mtu })),
        );
      }
      return true;
    } catch (reason) {
      this.#parts.ports.release(held);
      this.#records.delete(taskId);
      job.fail(failureOf(reason));
      await this.#removeTraces([taskId]);
      return false;
    }
  }

  get #gateways(): ReadonlySet<string> {
    return gatewaysOf({ wanted: this.#wanted, bridges: this.#all });
  }

  #useBridges(bridges: readonly BridgeNetwork[]): void {
    this.#bridges = bridges;
    this.#all = [this.#own, ...bridges];
  }

  #prepare(
    request: AttachRequest,
    underlayMtu: number,
    present: readonly PreparedLink[] = [],
  ): readonly PreparedLink[] {
    const tunnelProblem = this.#program.tunnelProblem(this.#wanted);
    const overlaps = this.#program.overlaps(this.#wanted, this.#all);
    const host = {
      wanted: this.#wanted,
      underlayMtu,
      bridges: this.#all,
      ...(tunnelProblem !== undefined && { tunnelProblem }),
      refusal: (networkId: string) =>
        overlapRefusal(overlaps, networkId) ?? this.#troubles.refusal(networkId),
    };
    return this.#links.choose(request, { ...host, records: this.#records }, present);
  }

  /** The task's side of joining and leaving networks. @returns whether the host's side is due. */
  async #remake(job: Job, request: AttachRequest): Promise<boolean> {
    const { taskId } = request;
    const known = this.#records.get(taskId);
    try {
      if (known?.state !== "attached" || known.attached.kind !== "namespace") {
        throw new ClusterError("failed-precondition", `task ${taskId} has no network that could be changed`);
      }
      const { attached } = known;
      const before = attached.addresses.map((address, index) => ({ address, mtu: known.mtus[index] ?? 0 }));
      const underlayMtu = await this.#program.underlayMtu(this.#wanted);
      const links = this.#prepare(request, underlayMtu, before);
      const next: TaskRecord = {
        ...known,
        request: {
          ...known.request,
          networks: request.networks,
          ...(request.name !== undefined && { name: request.name }),
        },
        attached: { ...attached, addresses: links.map(({ address }) => address) },
        mtus: links.map(({ mtu }) => mtu),
      };
      // So that nobody else picks an address of its new links; those it leaves are gone from the host in this round.
      this.#records.set(taskId, next);
      const namespaceLinks = (list: readonly PreparedLink[]): NamespaceLink[] =>
        list.map(({ address, mtu }) => ({ ...address, mtu }));
      await this.#parts.namespaces.change(taskId, namespaceLinks(before), namespaceLinks(links));
      await this.#parts.journal.write(next, await this.#texts.of(next));
      return true;
    } catch (reason) {
      if (known !== undefined) this.#records.set(taskId, known);
      job.fail(failureOf(reason));
      return false;
    }
  }

  /** The host's side of everything in the round. */
  async #finish(jobs: readonly Job[], gone: readonly TaskRecord[]): Promise<void> {
    const dying = localPorts(new Map(gone.map((record) => [record.request.taskId, record])));
    const trouble = await this.#bringInLine(
      new Set(dying.map(({ taskId, bridge }) => portName(taskId, bridge))),
    );
    // A task is gone even when the host's side of it is not: that is tried again in every round.
    if (gone.length > 0) report(this.#parts, "cannot take back all that ended tasks had", trouble);
    for (const job of jobs) {
      const { work } = job;
      if (job.settled) continue;
      if (work.kind === "apply") {
        if (trouble.all === undefined) job.done({});
        else job.fail(trouble.all);
      }
      if (work.kind === "bridges") {
        if (trouble.all === undefined) job.done({ failures: trouble.bridges });
        else job.fail(trouble.all);
      }
      if (work.kind === "attach" || work.kind === "change")
        await this.#finishAttach(job, work.request.taskId, trouble);
    }
  }

  async #finishAttach(job: Job, taskId: TaskId, trouble: Trouble): Promise<void> {
    const record = this.#records.get(taskId);
    const { attached } = record ?? {};
    const places = attached?.kind === "namespace" ? attached.addresses : [];
    // One that runs stays on networks that it was on before they had trouble, whatever else it joins and leaves.
    const overlays = record?.state === "attached" ? [] : places;
    const refused = trouble.tasks.get(taskId);
    const reason =
      trouble.all ??
      overlays.flatMap(({ networkId }) => this.#troubles.refusal(networkId) ?? [])[0] ??
      (refused === undefined
        ? places.flatMap(({ gateway, networkId }) =>
            trouble.overlays.has(networkId) ? [] : (trouble.gateways.get(gateway) ?? []),
          )[0]
        : new ClusterError("internal", `cannot connect task ${taskId}: ${refused}`));
    if (reason !== undefined || record === undefined) {
      return job.fail(reason ?? new ClusterError("internal", `the record of task ${taskId} is gone`));
    }
    try {
      const finished: TaskRecord = { ...record, state: "attached" };
      await this.#parts.journal.write(finished);
      this.#records.set(taskId, finished);
      job.done({ attached: finished.attached });
    } catch (cause) {
      job.fail(failureOf(cause));
    }
  }

  /** Tries everything; what failed is said by whom it concerns, and tried again in the next round. */
  async #bringInLine(dying: ReadonlySet<string> = new Set()): Promise<Trouble> {
    this.#table = undefined;
    this.#askers = askersOf({ wanted: this.#wanted, bridges: this.#all }, this.#records);
    return await this.#bringAbout(dying);
  }

  async #bringAbout(dying: ReadonlySet<string>): Promise<Trouble> {
    try {
      const state = await this.#state();
      const records = recordsWithout(this.#records, this.#program.overlaps(this.#wanted, this.#all));
      const at = { records, bridges: this.#bridges, dying };
      const trouble = await this.#program.bringAbout(state, at);
      if (trouble.all === undefined) this.#troubles.note(state.wanted?.networks ?? [], trouble.overlays);
      return trouble;
    } catch (reason) {
      return troubleWithAll(reason);
    }
  }

  async #turnKeys(): Promise<void> {
    const { self, networks = [] } = this.#wanted ?? {};
    const use = networks.some(({ encrypted }) => encrypted === true) ? "used" : "unused";
    await this.#program.tunnel.turn(self?.tunnelKeys ?? [], use);
  }

  async #state(): Promise<HostState> {
    const all = this.#all;
    this.#ownIsUsed ||= [...this.#records.values()].some(({ request }) => usesBridge(request, all));
    const underlayMtu = await this.#program.underlayMtu(this.#wanted);
    const wanted = this.#program.possible(this.#wanted, all);
    const overlaps = this.#program.overlaps(this.#wanted, all);
    return {
      wanted,
      ports: localPorts(recordsWithout(this.#records, overlaps)),
      bridges: this.#ownIsUsed ? all : this.#bridges,
      underlayMtu,
      ...this.#program.tunnelOf(wanted, underlayMtu),
    };
  }

  /** Takes away what detached tasks had; the kernel's objects of theirs are gone by now. */
  async #clear(records: readonly TaskRecord[]): Promise<void> {
    const ports = records.flatMap(({ attached }) => attached.publishedPorts);
    // Else a steady flow of datagrams goes to the removed task for as long as it lasts; 1: no flow was there.
    for (const argv of records.flatMap(({ attached }) => flowsTo(attached)))
      await this.#parts.run(argv).catch((reason: unknown) => this.#parts.warn(errorText(reason)));
    this.#parts.ports.release(ports);
    await this.#removeTraces(records.map(({ request }) => request.taskId));
  }

  async #removeTraces(taskIds: readonly TaskId[]): Promise<void> {
    await this.#parts.namespaces.remove(taskIds);
    for (const taskId of taskIds) await this.#parts.journal.remove(taskId);
  }

  async #abandon(taskIds: readonly TaskId[]): Promise<void> {
    const records = taskIds.flatMap((taskId) => this.#records.get(taskId) ?? []);
    if (records.length === 0) return;
    for (const taskId of taskIds) this.#records.delete(taskId);
    report(this.#parts, "cannot take back what failed tasks had", await this.#bringInLine());
    await this.#clear(records);
  }

  #nameTable(): NameTable {
    const { endpoints = [], services = [] } = this.#wanted ?? {};
    const bridges = this.#all;
    const networks = namedNetworks({ wanted: this.#wanted, bridges });
    this.#table ??= buildNames({ networks, endpoints, services }, localNames(this.#records, bridges));
    return this.#table;
  }
}
