/** Keeps the kernel's objects as wanted: remembers what it did, and reads them again when it is told to look. */
import { ClusterError } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import { addressNumber, blockText, parseBlock } from "./addresses.ts";
import type { Run } from "./command.ts";
import { objectId, ownAddress, portName, vxlanPort, wantedObjects } from "./objects.ts";
import type { HostState, KernelObject, LocalPort, Observed } from "./objects.ts";
import { findings, plan } from "./plan.ts";
import type { Step } from "./plan.ts";
import { settle } from "./settings.ts";
import { execute, observe } from "./vxlan.ts";
import type { StepFailure } from "./vxlan.ts";
import type { WantedNetworks } from "./network.ts";

/** The kernel takes the devices of a namespace that was removed away by itself, in this time at the longest. */
const dyingMs = 30_000;
/** Devices whose settings one look reads; the next look goes on with the next ones. */
const settledAtOnce = 32;
const defaultMtu = 1500;

export interface SyncFailures {
  readonly tasks: ReadonlyMap<TaskId, string>;
  /** By the bridge network's id. */
  readonly bridges: ReadonlyMap<string, string>;
  /** By the overlay's id: all that was refused. */
  readonly networks: ReadonlyMap<string, readonly string[]>;
  /** What is nobody's any more and could not be taken away. */
  readonly rest: readonly string[];
  /** Devices that could not be made. One of that name is somebody else's, and nothing may be done to it. */
  readonly absent: ReadonlySet<string>;
}

export class Fabric {
  readonly #clock: Clock;
  readonly #run: Run;
  readonly #settle: typeof settle;
  readonly #onObserved: (observed: Observed) => void;
  #observed: Observed | undefined;
  /** Whether what was observed was read since settings were last looked at. */
  #isUnsettled = false;
  /** By device, until when it may still be there although nobody wants it. */
  readonly #dying = new Map<string, number>();
  /** What was refused the last time, in words: while it is no more than that, one try is enough. */
  #refused: ReadonlySet<string> = new Set();
  #settledUpTo = 0;

  /** @param deps.onObserved - Told whatever is read of the kernel. */
  constructor(deps: {
    clock: Clock;
    run: Run;
    settle?: typeof settle;
    onObserved?: (observed: Observed) => void;
  }) {
    this.#clock = deps.clock;
    this.#onObserved = deps.onObserved ?? (() => undefined);
    this.#run = deps.run;
    this.#settle = deps.settle ?? settle;
  }

  async open(): Promise<void> {
    await this.#settle([]);
  }

  /** The MTU that VXLAN's packets must fit. 1500 when the data path's address is not of this host. */
  async underlayMtu(wanted: WantedNetworks | undefined): Promise<number> {
    if (wanted === undefined || wanted.networks.length === 0) return defaultMtu;
    return (await this.#current()).devices.get(ownAddress(wanted))?.mtu ?? defaultMtu;
  }

  /**
   * Settles once everything was tried. What the kernel refused is tried a second time after reading
   * the kernel anew, and reported if refused again.
   *
   * @param dying - Devices whose namespace was just removed. The kernel takes them away by itself, many
   *   at once, where each deletion of ours would hold its one lock for tens of milliseconds.
   * @throws {ClusterError} when nothing could be tried.
   */
  async sync(state: HostState, dying: ReadonlySet<string>): Promise<SyncFailures> {
    const nowMs = this.#clock.monotonic();
    for (const device of dying) this.#dying.set(device, nowMs + dyingMs);
    let problem = underlayProblem(state, await this.#current());
    if (problem !== undefined) {
      this.#observed = undefined; // The host may have been given the address since.
      problem = underlayProblem(state, await this.#current());
    }
    // Without a data path the overlays stay as they are, and the rest goes on.
    const possible = problem === undefined ? state : { ...state, wanted: undefined };
    let failures = await this.#attempt(possible);
    if (failures.some(({ text }) => !this.#refused.has(text))) failures = await this.#attempt(possible);
    this.#refused = new Set(failures.map(({ text }) => text));
    const overlays = problem === undefined ? [] : (state.wanted?.networks ?? []);
    return failuresBy(failures, new Map(overlays.map(({ id }) => [id, [problem ?? ""]])));
  }

  /**
   * Reads the kernel, whatever is remembered. What is not as it was left is put in order here (settings) or by the next
   * `sync` (all else).
   *
   * @returns that, in words, and tasks whose link is gone as a whole, to be made anew before the `sync`.
   */
  async look(state: HostState): Promise<{ readonly found: string[]; readonly lost: LocalPort[] }> {
    const observed = await this.#observe();
    this.#observed = observed;
    const possible = underlayProblem(state, observed) === undefined ? state : { ...state, wanted: undefined };
    const wanted = wantedOrKept(possible, observed);
    const links = presentLinks(wanted, observed);
    const from = this.#settledUpTo < links.length ? this.#settledUpTo : 0;
    this.#settledUpTo = from + settledAtOnce;
    const settings = await this.#settle(links.slice(from, from + settledAtOnce));
    return {
      found: [...settings, ...findings(this.#steps(wanted, observed), observed.objects)],
      lost: state.ports.filter(
        ({ taskId, bridge }) =>
          !observed.objects.has(objectId({ kind: "port", key: portName(taskId, bridge) })),
      ),
    };
  }

  /**
   * Takes away ends of links that are to be made anew under the same names: another container may have kept the namespace of a task
   * that starts again, and with it the link, or the kernel is not done with it yet. Nothing is done about those that are not there.
   *
   * @throws {ClusterError} `internal` when the kernel refuses.
   */
  async makeRoom(devices: readonly string[]): Promise<void> {
    const before = this.#observed;
    const ports = devices
      .map((device): KernelObject => ({ kind: "port", key: device, value: "", device }))
      .filter(
        (port) => before === undefined || before.objects.has(objectId(port)) || this.#dying.has(port.key),
      );
    if (ports.length === 0) return;
    // What is there is not to be taken for those that come.
    if (ports.some((port) => before?.objects.has(objectId(port)))) this.#observed = undefined;
    const left = new Map(ports.map((port) => [objectId(port), port]));
    const [failure] = await execute(this.#run, plan(new Map(), left));
    if (failure !== undefined) throw new ClusterError("internal", `cannot make room: ${failure.text}`);
    for (const { device } of ports) this.#dying.delete(device);
  }

  async #attempt(state: HostState): Promise<StepFailure[]> {
    const observed = await this.#current();
    const wanted = wantedOrKept(state, observed);
    const steps = this.#steps(wanted, observed);
    if (this.#isUnsettled) await this.#settle(presentLinks(wanted, observed));
    this.#isUnsettled = false;
    this.#observed = undefined; // Until all is done, what is there is not known.
    // Devices first: where one cannot be made, its name is that of a device which is not ours.
    const first = steps.filter(({ action, object }) => action === "remove" || object.kind === "link");
    const failures = await execute(this.#run, first); // Nothing to do costs nothing.
    const absent = unmade(failures);
    const made = first.filter(({ action, object }) => action === "add" && !absent.has(object.device));
    // Before there are addresses: of IPv6, a device takes none while that is off.
    if (made.length > 0) await this.#settle(made.map(({ object }) => object));
    const rest = steps.filter(({ action, object }) => action === "add" && object.kind !== "link");
    const deviceOf = ({ object }: Step): string => (object.kind === "port" ? object.value : object.device);
    failures.push(
      ...(await execute(
        this.#run,
        rest.filter((step) => !absent.has(deviceOf(step))),
      )),
    );
    for (const step of rest) {
      const { line, object } = step;
      if (object.taskId === undefined || !absent.has(deviceOf(step))) continue;
      failures.push({ line, object, text: `the device ${deviceOf(step)} could not be made` });
    }
    if (failures.length > 0) return failures;
    const numbers = [...wanted.values()]
      .filter(({ kind }) => kind === "nexthop")
      .map(({ value }) => Number(value));
    this.#observed = {
      objects: wanted,
      nexthopIds: new Set([...observed.nexthopIds, ...numbers]),
      devices: observed.devices,
    };
    return [];
  }

  #steps(wanted: ReadonlyMap<string, KernelObject>, observed: Observed): Step[] {
    const nowMs = this.#clock.monotonic();
    for (const [device, untilMs] of this.#dying) if (nowMs > untilMs) this.#dying.delete(device);
    return plan(wanted, observed.objects).filter(
      ({ action, object }) =>
        !(action === "remove" && object.kind === "port" && this.#dying.has(object.device)),
    );
  }

  async #observe(): Promise<Observed> {
    const observed = await observe(this.#run);
    this.#onObserved(observed);
    return observed;
  }

  /** Reads the kernel, unless what was read or done last still holds. */
  async #current(): Promise<Observed> {
    if (this.#observed === undefined) {
      this.#observed = await this.#observe();
      this.#isUnsettled = true;
    }
    return this.#observed;
  }
}

/** @param networks - What is known of overlays already; added to. */
function failuresBy(failures: readonly StepFailure[], networks: Map<string, string[]>): SyncFailures {
  const tasks = new Map<TaskId, string>();
  const bridges = new Map<string, string>();
  const rest: string[] = [];
  for (const { object, text } of failures) {
    const { taskId, bridgeId, networkIds = [] } = object;
    if (taskId !== undefined) tasks.set(taskId, text);
    else if (bridgeId !== undefined) bridges.set(bridgeId, text);
    else if (networkIds.length === 0) rest.push(text);
    for (const id of networkIds)
      networks.set(id, [...(networks.get(id) ?? []), `${text}${hint(object, text)}`]);
  }
  return { tasks, bridges, networks, rest, absent: unmade(failures) };
}

/** The kernel does not say whose it is: Docker's own swarm has its devices where nobody sees them. */
function hint({ kind, value, device }: KernelObject, text: string): string {
  const [type, , , vni] = value.split(" ");
  if (kind !== "link" || type !== "vxlan" || !text.includes("exists")) return "";
  return ` (another program on this host, such as Docker's own swarm, has VXLAN ${vni} at port ${vxlanPort} or a device ${device})`;
}

/** Devices that are there and are to stay. */
function presentLinks(wanted: ReadonlyMap<string, KernelObject>, { objects }: Observed): KernelObject[] {
  return [...wanted].filter(([id, { kind }]) => kind === "link" && objects.has(id)).map(([, link]) => link);
}

/** Devices that were to be made; one that could only not be changed is ours. */
function unmade(failures: readonly StepFailure[]): ReadonlySet<string> {
  return new Set(
    failures.flatMap(({ line, object }) => (line.startsWith("link add ") ? [object.device] : [])),
  );
}

/** Why this host can take part in no overlay, if so. */
function underlayProblem({ wanted }: HostState, { devices }: Observed): string | undefined {
  if (wanted === undefined || wanted.networks.length === 0) return undefined;
  const own = ownAddress(wanted);
  if (own !== "" && addressNumber(own) === undefined)
    return `overlay networks need an IPv4 address of the host on the data path: it is ${own}`;
  if (devices.has(own)) return undefined;
  const known = [...devices.keys()].join(", ");
  return own === ""
    ? "overlay networks need the host's address on the data path, and none is known"
    : `overlay networks need the data path address ${own} on this host: its addresses are ${known}`;
}

const overlayDevice = /^(?:ov|vx)\d+$|^shoal-wg[01]$/;

/** Before anybody said which overlays are wanted, those that are there stay, for the sake of running tasks. */
function wantedOrKept(state: HostState, observed: Observed): Map<string, KernelObject> {
  const wanted = wantedObjects(state, observed);
  if (state.wanted !== undefined) return wanted;
  const ports = new Set(state.ports.map(({ taskId, bridge }) => portName(taskId, bridge)));
  const subnets = new Set<string>();
  for (const { kind, key, device } of observed.objects.values()) {
    const [, block = ""] = key.split(" ");
    if (kind === "address" && overlayDevice.test(device)) subnets.add(blockText(parseBlock(block)));
  }
  const kept = [...observed.objects].filter(([, { kind, key, value, device }]) => {
    if (kind === "port") return ports.has(device);
    if (kind === "forward" && value === "master") return false;
    // Those of bridges are all known by now.
    return device === "" ? kind !== "route" || subnets.has(key) : overlayDevice.test(device);
  });
  return new Map([...kept, ...wanted]);
}
