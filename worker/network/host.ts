/**
 * The network of this host, over the kernel. One loop does all work: calls queue up, and whatever is
 * waiting when a round begins is carried out in that round, with one batch per tool for all of it.
 */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { PublishedPort } from "../../model/task.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import { addressNumber, addressText, blockText, parseCidr } from "./addresses.ts";
import { Coexistence } from "./coexist.ts";
import type { Run } from "./command.ts";
import { NameServer } from "./dns.ts";
import { probesOf } from "./examine.ts";
import type { Finding, Peer } from "./examine.ts";
import { makeProbes } from "./examiner.ts";
import { Fabric } from "./fabric.ts";
import { hostsText, resolvConfText, sharedHostsText } from "./files.ts";
import type { FileTexts, Journal, TaskRecord } from "./journal.ts";
import type { Namespaces } from "./namespace.ts";
import type { Attached, AttachedRecord, AttachRequest, HostNetwork, WantedNetworks } from "./network.ts";
import { Rules } from "./nftables.ts";
import { hostBridge, portName } from "./objects.ts";
import type { HostState, LocalPort } from "./objects.ts";
import type { PublishedPorts } from "./ports.ts";
import { hostPorts, prepareLinks, usesBridge } from "./prepare.ts";
import type { BridgeSettings } from "./prepare.ts";
import { inParallel, Rounds } from "./rounds.ts";
import type { Job } from "./rounds.ts";
import { Flows, untilUnused } from "./flows.ts";
import { MeshPorts } from "./mesh.ts";
import { buildNames } from "./records.ts";
import type { Asker, NameTable } from "./records.ts";
import { rulesetOf } from "./rules.ts";
import { Upstream } from "./upstream.ts";
import {
  askersOf,
  drainAddresses,
  gatewaysOf,
  localNames,
  localPorts,
  meshPorts,
  rulesOf,
  takenOnBridge,
} from "./views.ts";

export interface HostNetworkSettings {
  /** `HostSettings.runDir` */
  readonly runDir: string;
  /** CIDR of the host's own bridge, whose first address is the gateway. */
  readonly bridgeSubnet: string;
  /** Default "/etc/resolv.conf". */
  readonly resolvConf?: string;
  /** Default "/etc/hosts". */
  readonly hosts?: string;
}

export interface HostParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly run: Run;
  /** Trouble that fails no call, for the log. */
  readonly warn: (text: string) => void;
  readonly settings: Required<HostNetworkSettings>;
  readonly readText: (path: string) => Promise<string>;
  readonly journal: Journal;
  readonly namespaces: Namespaces;
  readonly ports: PublishedPorts;
}

/** How many namespaces are made at the same time; more only queue at the kernel's one lock. */
const maxParallelNamespaces = 4;
const bridgeMtu = 1500;
/** How often the kernel is compared with what it should hold. */
const lookEveryMs = 5_000;
/** Findings named in one line of the log. */
const mostFindings = 10;

/** What a round could not do. */
interface Trouble {
  /** Concerns everything. */
  readonly all?: ClusterError;
  readonly overlay?: ClusterError;
  readonly tasks: ReadonlyMap<TaskId, string>;
  /** Addresses on which no names are answered. */
  readonly gateways: ReadonlyMap<string, ClusterError>;
}

export class KernelNetwork implements HostNetwork {
  readonly #parts: HostParts;
  readonly #fabric: Fabric;
  readonly #rules: Rules;
  readonly #upstream: Upstream;
  readonly #names: NameServer;
  readonly #coexistence: Coexistence;
  readonly #mesh: MeshPorts;
  readonly #flows: Flows;
  readonly #rounds = new Rounds((round) => this.#round(round));
  readonly #records = new Map<TaskId, TaskRecord>();
  readonly #bridge: BridgeSettings;
  #wanted: WantedNetworks | undefined;
  #lastOnBridge = 0;
  /** Built when somebody asks, dropped when something changed. */
  #table: NameTable | undefined;
  #askers: ReadonlyMap<string, Asker> = new Map();
  readonly #ending = new AbortController();
  #stopLooking = (): void => undefined;
  /** Of the last look; what it could not mend is said once. */
  #seen: { readonly found: readonly string[]; readonly unmended: string } = { found: [], unmended: "" };

  constructor(parts: HostParts, adopted: readonly TaskRecord[], wanted: WantedNetworks | undefined) {
    this.#parts = parts;
    this.#fabric = new Fabric(parts);
    this.#rules = new Rules({
      clock: parts.clock,
      run: parts.run,
      file: `${parts.settings.runDir}/network/rules.nft`,
    });
    this.#coexistence = new Coexistence(parts);
    this.#mesh = new MeshPorts(parts);
    this.#flows = new Flows(parts);
    this.#upstream = new Upstream({ ...parts, resolvConf: parts.settings.resolvConf });
    this.#names = new NameServer({
      random: parts.random,
      upstream: this.#upstream,
      source: () => ({
        table: this.#nameTable(),
        asker: (gateway, address) => this.#askers.get(`${gateway} ${address}`),
      }),
    });
    const block = parseCidr(parts.settings.bridgeSubnet);
    this.#bridge = { subnet: blockText(block), gateway: addressText(block.first + 1), mtu: bridgeMtu };
    for (const record of adopted) this.#records.set(record.request.taskId, record);
    this.#wanted = wanted;
  }

  /** Brings the kernel in line with what was adopted; without it nothing is wrong yet, only old. */
  async open(): Promise<void> {
    await this.#fabric.open();
    let looking = false;
    this.#stopLooking = this.#parts.clock.every(lookEveryMs, () => {
      if (looking) return;
      looking = true;
      this.#rounds
        .enqueue({ kind: "look" }, this.#ending.signal)
        .catch((reason: unknown) => this.#ending.signal.aborted || this.#parts.warn(errorText(reason)))
        .finally(() => (looking = false));
    });
    if (this.#wanted === undefined && this.#records.size === 0) return;
    this.#report("the network is not as it was before the restart", await this.#bringInLine());
  }

  async apply(wanted: WantedNetworks, signal: AbortSignal): Promise<void> {
    await this.#rounds.enqueue({ kind: "apply", wanted }, signal);
  }

  async attach(request: AttachRequest, signal: AbortSignal): Promise<Attached> {
    checkId(request.taskId);
    const attached = await this.#rounds.enqueue({ kind: "attach", request }, signal);
    if (attached === undefined) throw new Error("assertion failed: an attach without a result");
    return attached;
  }

  async drained(taskId: TaskId, signal: AbortSignal): Promise<void> {
    const addresses = drainAddresses(this.#wanted, taskId);
    if (addresses.length > 0) await untilUnused(this.#parts, addresses, signal);
  }

  async detach(taskId: TaskId, signal: AbortSignal): Promise<void> {
    checkId(taskId);
    await this.#rounds.enqueue({ kind: "detach", taskId }, signal);
  }

  async list(): Promise<readonly AttachedRecord[]> {
    return [...this.#records.values()]
      .filter(({ state }) => state === "attached")
      .map(({ request: { taskId, containerId }, attached }) => ({ taskId, containerId, attached }));
  }

  async examine(peers: readonly Peer[], signal: AbortSignal): Promise<readonly Finding[]> {
    await this.#rounds.enqueue({ kind: "look" }, signal);
    const { found, unmended } = this.#seen;
    const kernel = { test: "kernel", peer: "", subject: "" } as const;
    const state = {
      wanted: this.#wanted,
      records: [...this.#records.values()],
      underlayMtu: await this.#fabric.underlayMtu(this.#wanted),
      refusedPorts: this.#mesh.refused,
    };
    const probed = await makeProbes(this.#parts, probesOf(state, peers), signal);
    if (unmended !== "") return [{ ...kernel, state: "broken", text: unmended }, ...probed];
    const text = found.length === 0 ? "as it should be" : `was mended just now: ${some(found)}`;
    return [{ ...kernel, state: "ok", text }, ...probed];
  }

  async close(): Promise<void> {
    this.#stopLooking();
    this.#ending.abort(new ClusterError("unavailable", "the host's network is shutting down"));
    await this.#rounds.close();
    this.#names.close();
    this.#parts.ports.close();
  }

  async #round(round: readonly Job[]): Promise<void> {
    const looks = round.filter(({ work }) => work.kind === "look");
    if (looks.length > 0) await this.#look(); // First, while all should be as the last round left it.
    for (const job of looks) job.done(undefined);
    const applies = round.filter(({ work }) => work.kind === "apply");
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
    await inParallel(round, maxParallelNamespaces, async (job) => {
      if (job.work.kind === "attach" && (await this.#make(job, job.work.request))) made.push(job);
    });
    if (applies.length + made.length + gone.length > 0) await this.#finish([...applies, ...made], gone);
    await this.#clear(gone);
    // Of a task without a record, an earlier detach may have failed half way.
    const unknown = [...removed].filter(([, record]) => record === undefined);
    await this.#removeTraces(unknown.flatMap(([{ work }]) => (work.kind === "detach" ? [work.taskId] : [])));
    for (const job of removed.keys()) if (!job.settled) job.done(undefined);
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
    if (this.#records.size === 0 && (this.#wanted?.networks.length ?? 0) === 0) return;
    const trouble: string[] = [];
    let found: string[] = [];
    try {
      const state = await this.#state();
      const fabric = await this.#fabric.look(state);
      found = [...fabric.found, ...(await this.#rules.look())];
      found.push(...(await this.#coexistence.admit(this.#rules.foreign)));
      for (const port of fabric.lost) {
        await this.#relink(port).catch((reason: unknown) => trouble.push(errorText(reason)));
      }
      const { all, overlay, tasks } = await this.#program(new Set());
      trouble.push(
        ...[all?.message, overlay?.message, ...tasks.values()].filter((text) => text !== undefined),
      );
    } catch (reason) {
      trouble.push(errorText(reason));
    }
    const unmended = trouble.join("; ");
    const before = this.#seen.unmended;
    this.#seen = { found, unmended };
    if (unmended !== "" && unmended !== before) {
      this.#parts.warn(`the host's network is not as it should be, and cannot be mended: ${unmended}`);
    }
    if (found.length === 0 || unmended !== "") return;
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
    if (job.work.kind !== "apply") return;
    try {
      for (const { subnet } of job.work.wanted.networks) parseCidr(subnet);
      this.#wanted = job.work.wanted;
      this.#table = undefined;
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
      job.done(known.attached);
      return false;
    }
    // Left by a round that broke off: its ports would be in this one's way.
    if (known !== undefined) this.#parts.ports.release(known.attached.publishedPorts);
    let held: PublishedPort[] = [];
    try {
      const underlayMtu = await this.#fabric.underlayMtu(this.#wanted);
      const links = prepareLinks(request, {
        wanted: this.#wanted,
        underlayMtu,
        bridge: this.#bridge,
        takenOnBridge: takenOnBridge(this.#records, this.#bridge.gateway),
        lastOnBridge: this.#lastOnBridge,
      });
      // From here to `#records.set` nothing waits, so that no two tasks pick one address.
      const placeholder = recordOf(request, this.#parts, links, []);
      this.#records.set(taskId, placeholder);
      const onBridge = links.find(({ address }) => address.bridge === hostBridge);
      if (onBridge !== undefined) {
        this.#lastOnBridge = addressNumber(parseCidr(onBridge.address.address).address) ?? 0;
      }
      for (const port of hostPorts(request)) held = [...held, await this.#parts.ports.hold(port)];
      const record = recordOf(request, this.#parts, links, held);
      this.#records.set(taskId, record);
      await this.#parts.journal.write(record, await this.#texts(record));
      if (!request.host) {
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

  /** The host's side of everything in the round. */
  async #finish(jobs: readonly Job[], gone: readonly TaskRecord[]): Promise<void> {
    const dying = localPorts(new Map(gone.map((record) => [record.request.taskId, record])));
    const trouble = await this.#bringInLine(
      new Set(dying.map(({ taskId, bridge }) => portName(taskId, bridge))),
    );
    // A task is gone even when the host's side of it is not: that is tried again in every round.
    if (gone.length > 0) this.#report("cannot take back all that ended tasks had", trouble);
    for (const job of jobs) {
      const { work } = job;
      if (job.settled) continue;
      if (work.kind === "apply") {
        const reason = trouble.all ?? trouble.overlay;
        if (reason === undefined) job.done(undefined);
        else job.fail(reason);
      }
      if (work.kind === "attach") await this.#finishAttach(job, work.request.taskId, trouble);
    }
  }

  async #finishAttach(job: Job, taskId: TaskId, { all, overlay, tasks, gateways }: Trouble): Promise<void> {
    const record = this.#records.get(taskId);
    const { attached } = record ?? {};
    const own = attached?.kind === "namespace" ? attached.addresses.map(({ gateway }) => gateway) : [];
    const refused = tasks.get(taskId);
    const reason =
      all ??
      (refused === undefined
        ? own.flatMap((gateway) => gateways.get(gateway) ?? [])[0]
        : new ClusterError(
            "internal",
            `cannot connect task ${taskId}: ${[refused, ...(overlay === undefined ? [] : [overlay.message])].join("; ")}`,
          ));
    if (reason !== undefined || record === undefined) {
      return job.fail(reason ?? new ClusterError("internal", `the record of task ${taskId} is gone`));
    }
    try {
      const finished: TaskRecord = { ...record, state: "attached" };
      await this.#parts.journal.write(finished);
      this.#records.set(taskId, finished);
      job.done(finished.attached);
    } catch (cause) {
      job.fail(failureOf(cause));
    }
  }

  /** Tries everything; what failed is said by whom it concerns, and tried again in the next round. */
  async #bringInLine(dying: ReadonlySet<string> = new Set()): Promise<Trouble> {
    this.#table = undefined;
    this.#askers = askersOf(this.#wanted, this.#records);
    return await this.#program(dying);
  }

  async #program(dying: ReadonlySet<string>): Promise<Trouble> {
    try {
      const state = await this.#state();
      const { tasks, overlay } = await this.#fabric.sync(state, dying);
      const mesh = await this.#mesh.hold(meshPorts(this.#wanted));
      const rules = rulesOf(state, this.#records, mesh);
      await this.#rules.load(rulesetOf(rules));
      await this.#flows.follow(rules);
      const gateways = await this.#names.listen(gatewaysOf(state));
      const texts = [...overlay, ...[...gateways.values()].map(({ message }) => message)];
      if (texts.length === 0) return { tasks, gateways };
      const text = `cannot set up the overlay networks: ${texts.join("; ")}`;
      return { tasks, gateways, overlay: new ClusterError("internal", text) };
    } catch (reason) {
      return { all: failureOf(reason), tasks: new Map(), gateways: new Map() };
    }
  }

  async #state(): Promise<HostState> {
    return {
      wanted: this.#wanted,
      ports: localPorts(this.#records),
      bridge: [...this.#records.values()].some(({ request }) => usesBridge(request))
        ? this.#bridge
        : undefined,
      underlayMtu: await this.#fabric.underlayMtu(this.#wanted),
    };
  }

  async #texts({ request, attached }: TaskRecord): Promise<FileTexts> {
    const { settings, readText } = this.#parts;
    if (attached.kind === "host") {
      const shared = request.dns === undefined;
      return {
        hosts: sharedHostsText(await readText(settings.hosts), request),
        resolvConf: shared
          ? await readText(settings.resolvConf)
          : resolvConfText(request, await this.#upstream.conf(), undefined),
        hostname: `${request.hostname}\n`,
      };
    }
    const addresses = attached.addresses.map(({ address }) => parseCidr(address).address);
    return {
      hosts: hostsText(request, addresses),
      resolvConf: resolvConfText(request, await this.#upstream.conf(), attached.addresses[0]?.gateway),
      hostname: `${request.hostname}\n`,
    };
  }

  /** Takes away what detached tasks had; the kernel's objects of theirs are gone by now. */
  async #clear(records: readonly TaskRecord[]): Promise<void> {
    const ports = records.flatMap(({ attached }) => attached.publishedPorts);
    for (const { protocol, publishedPort } of ports) {
      if (protocol !== "udp") continue;
      // Else a steady flow of datagrams goes to the removed task for as long as it lasts; 1: no flow was there.
      const argv = ["conntrack", "-D", "-p", "udp", "--orig-port-dst", String(publishedPort)];
      await this.#parts.run(argv).catch((reason: unknown) => this.#parts.warn(errorText(reason)));
    }
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
    this.#report("cannot take back what failed tasks had", await this.#bringInLine());
    await this.#clear(records);
  }

  #report(what: string, { all, overlay, tasks }: Trouble): void {
    const texts = [all?.message, overlay?.message, ...tasks.values()].filter((text) => text !== undefined);
    if (texts.length > 0) this.#parts.warn(`${what}: ${texts.join("; ")}`);
  }

  #nameTable(): NameTable {
    const none = { networks: [], endpoints: [], services: [] };
    this.#table ??= buildNames(this.#wanted ?? none, localNames(this.#records));
    return this.#table;
  }
}

function recordOf(
  request: AttachRequest,
  { journal, namespaces }: HostParts,
  links: ReturnType<typeof prepareLinks>,
  publishedPorts: readonly PublishedPort[],
): TaskRecord {
  const shared = { publishedPorts, files: journal.files(request.taskId) };
  const attached: Attached = request.host
    ? { kind: "host", ...shared }
    : {
        kind: "namespace",
        path: namespaces.path(request.taskId),
        addresses: links.map(({ address }) => address),
        ...shared,
      };
  return { state: "making", request, attached, mtus: links.map(({ mtu }) => mtu) };
}

function some(found: readonly string[]): string {
  const rest = found.length - mostFindings;
  return [...found.slice(0, mostFindings), ...(rest > 0 ? [`and ${rest} more`] : [])].join(", ");
}

/** Ids name files here. */
function checkId(taskId: TaskId): void {
  if (!/^[\w-]+$/.test(taskId)) throw new ClusterError("invalid-argument", `not a task's id: "${taskId}"`);
}

function failureOf(reason: unknown): ClusterError {
  if (reason instanceof ClusterError) return reason;
  return new ClusterError("internal", `cannot change the host's network: ${errorText(reason)}`, {
    cause: reason,
  });
}
