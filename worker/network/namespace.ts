/**
 * Namespaces of tasks: bind mounts in `<runDir>/netns`, which outlive every process of ours and hold
 * a task's devices until its container has joined.
 */
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { isIpv6, withoutPrefix } from "../../model/address.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import { mountPoints } from "../mounts/mountinfo.ts";
import { blockText, parseBlock, parseCidr, taskMac } from "./addresses.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import { outwardAddress } from "./network.ts";
import type { AttachedAddress } from "./network.ts";
import { deviceGroup, portName } from "./objects.ts";
import type { TaskId } from "../../model/ids.ts";

/** Routing tables inside a task's namespace, one for each network where there are several. */
const firstTable = 100;

export interface NamespaceLink extends AttachedAddress {
  readonly mtu: number;
}

export class Namespaces {
  readonly #run: Run;
  readonly #directory: string;
  /** The host's own namespace, named so that a process in another one can put a device there. */
  readonly #hostNamespace: string;

  constructor({ run, directory, hostNamespace }: { run: Run; directory: string; hostNamespace: string }) {
    this.#run = run;
    this.#directory = directory;
    this.#hostNamespace = hostNamespace;
  }

  path(taskId: TaskId): string {
    return join(this.#directory, taskId);
  }

  /**
   * Makes the directory a shared mount of its own: a containerd whose mount namespace is a slave of
   * ours then sees namespaces made after it was started.
   */
  async open(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o755 });
    if ((await this.#mounts()).has(this.#directory)) return;
    const doing = `make ${this.#directory} a mount that containerd shares`;
    await must(this.#run, doing, ["mount", "--bind", this.#directory, this.#directory]);
    await must(this.#run, doing, ["mount", "--make-shared", this.#directory]);
  }

  /** One process makes the namespace, then turns into the one that fills it. */
  async create(taskId: TaskId, links: readonly NamespaceLink[]): Promise<void> {
    const path = this.path(taskId);
    await writeFile(path, "");
    // The device default is set before any device but `lo` exists; a kernel without IPv6 has no such file.
    const script = "echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6; ";
    const { argv, input } = batch(
      { ipv4: namespaceLines(taskId, links, this.#hostNamespace), ...changeIpv6([], links) },
      { before: script },
    );
    const doing = `make the network namespace of task ${taskId}`;
    await must(this.#run, doing, ["unshare", `--net=${path}`, ...argv], input);
  }

  /** Makes one of a task's links again, in the namespace it has: with one end of a link the other goes too. */
  async relink(taskId: TaskId, links: readonly NamespaceLink[], bridge: string): Promise<void> {
    const ipv4 = relinkLines(taskId, links, { hostNamespace: this.#hostNamespace, bridge });
    const { argv, input } = batch({ ipv4, ...relinkIpv6(links, bridge) }, { flags: "-force " });
    const doing = `connect task ${taskId} again`;
    await must(this.#run, doing, ["nsenter", `--net=${this.path(taskId)}`, ...argv], input);
  }

  /** Makes the links that are new; the host's ends of those that go are the host's to remove. */
  async change(
    taskId: TaskId,
    before: readonly NamespaceLink[],
    after: readonly NamespaceLink[],
  ): Promise<void> {
    const ipv4 = changeLines(taskId, before, after, this.#hostNamespace);
    const other = changeIpv6(before, after);
    if (ipv4 === "" && other.ipv6 === "") return;
    const { argv, input } = batch({ ipv4, ...other });
    const doing = `change the network namespace of task ${taskId}`;
    await must(this.#run, doing, ["nsenter", `--net=${this.path(taskId)}`, ...argv], input);
  }

  /** Of namespaces that are not there, removes nothing. Processes inside keep theirs until they end. */
  async remove(taskIds: readonly TaskId[]): Promise<void> {
    if (taskIds.length === 0) return;
    const mounted = await this.#mounts();
    const paths = taskIds.map((taskId) => this.path(taskId));
    const targets = paths.flatMap((path) => Array.from({ length: mounted.get(path) ?? 0 }, () => path));
    if (targets.length > 0) {
      await must(this.#run, "remove the network namespaces of ended tasks", ["umount", "--lazy", ...targets]);
    }
    for (const path of paths) {
      try {
        await rm(path, { force: true });
      } catch (cause) {
        throw new ClusterError("internal", `cannot remove ${path}: ${errorText(cause)}`, { cause });
      }
    }
  }

  /** Tasks that have a file here, with or without a namespace mounted on it. */
  async list(): Promise<{ readonly taskId: TaskId; readonly mounted: boolean }[]> {
    const mounted = await this.#mounts();
    const names = await readdir(this.#directory);
    return names.map((name) => ({
      taskId: name as TaskId, // Whatever else lies here is removed as a task nobody knows.
      mounted: mounted.has(join(this.#directory, name)),
    }));
  }

  /** How often each path is mounted on. */
  async #mounts(): Promise<ReadonlyMap<string, number>> {
    const counts = new Map<string, number>();
    for (const path of await mountPoints()) {
      if (path.startsWith(this.#directory)) counts.set(path, (counts.get(path) ?? 0) + 1);
    }
    return counts;
  }
}

/** What is to be done inside a namespace. */
interface NamespaceWork extends Ipv6Work {
  /** Lines for `ip`. */
  readonly ipv4: string;
}

interface Ipv6Work {
  /** Lines for `ip -6`, after those of IPv4. */
  readonly ipv6: string;
  /** Devices that IPv6 is to be on, made by the lines of IPv4. */
  readonly devices: readonly string[];
}

/**
 * Waits for no other to dispute an address, since nobody else gives any on the link; makes none by itself, so that containers
 * of one bridge meet in the host's IP stack alone; takes no routes from others.
 */
const ipv6Settings = "echo 0 >accept_dad; echo 0 >accept_ra; echo 1 >addr_gen_mode; echo 0 >disable_ipv6";

/** Two processes of `ip` where there is IPv6, since one reads lines of one family only; else one. */
function batch(
  { ipv4, ipv6, devices }: NamespaceWork,
  { before = "", flags = "" }: { readonly before?: string; readonly flags?: string } = {},
): { readonly argv: readonly string[]; readonly input: string } {
  if (ipv6 === "") return { argv: ["sh", "-c", `${before}exec ip ${flags}-batch -`], input: ipv4 };
  const script = [
    `${before}ip ${flags}-batch -; code=$?`,
    "lines=$1; shift",
    `for device; do (cd "/proc/sys/net/ipv6/conf/$device" && ${ipv6Settings}) || code=1; done`,
    `printf %s "$lines" | ip -6 ${flags}-batch - || code=$?`,
    "exit $code",
  ].join("\n");
  return { argv: ["sh", "-c", script, "sh", ipv6, ...devices], input: ipv4 };
}

/**
 * What to tell `ip` inside a new namespace. One link carries the default route; every subnet
 * is routed by its gateway, never asked for on the link.
 */
export function namespaceLines(
  taskId: TaskId,
  links: readonly NamespaceLink[],
  hostNamespace: string,
): string {
  return `link set lo up\n${changeLines(taskId, [], links, hostNamespace)}`;
}

/** What to tell `ip` inside a namespace that has some links already. Those that go, go with the host's end of them. */
export function changeLines(
  taskId: TaskId,
  before: readonly NamespaceLink[],
  after: readonly NamespaceLink[],
  hostNamespace: string,
): string {
  return changedLines(before, after, outwardAddress, (link) => linkLines(taskId, link, hostNamespace));
}

/** As `changeLines`, for what the links have of IPv6. */
export function changeIpv6(before: readonly NamespaceLink[], after: readonly NamespaceLink[]): Ipv6Work {
  const [had, has] = [before.flatMap(ipv6Place), after.flatMap(ipv6Place)];
  const ipv6 = changedLines(had, has, outwardPlace, ipv6Lines);
  return { ipv6, devices: has.filter((place) => isNewTo(had, place)).map(({ device }) => device) };
}

/** What to tell `ip` inside a namespace that has lost its link to a bridge; rules do not go with a link. */
export function relinkLines(
  taskId: TaskId,
  links: readonly NamespaceLink[],
  { hostNamespace, bridge }: { readonly hostNamespace: string; readonly bridge: string },
): string {
  return relinkedLines(links, bridge, outwardAddress, (link) => linkLines(taskId, link, hostNamespace));
}

/** As `relinkLines`, for what the link has of IPv6. */
export function relinkIpv6(links: readonly NamespaceLink[], bridge: string): Ipv6Work {
  const places = links.flatMap(ipv6Place);
  const lost = places.filter((place) => place.bridge === bridge);
  return {
    ipv6: relinkedLines(places, bridge, outwardPlace, ipv6Lines),
    devices: lost.map(({ device }) => device),
  };
}

/** A link in one of its families. */
type Place = Pick<NamespaceLink, "device" | "bridge" | "address" | "gateway" | "further" | "outward">;

/** A link in its IPv6. */
interface Ipv6Place extends Place {
  readonly gatewayMac: string;
}

function ipv6Place(link: NamespaceLink): Ipv6Place[] {
  const { device, bridge, gateway, gatewayMac = taskMac(gateway), further = [], ipv6 } = link;
  if (ipv6 === undefined) return [];
  return [{ device, bridge, gatewayMac, further: further.filter(isIpv6), ...ipv6 }];
}

function outwardPlace<Each extends Place>(places: readonly Each[]): Each | undefined {
  return places.find(({ outward }) => outward === true);
}

function isNewTo(before: readonly Place[], { device, address }: Place): boolean {
  return !before.some((place) => place.device === device && place.address === address);
}

function changedLines<Each extends Place>(
  before: readonly Each[],
  after: readonly Each[],
  outwardOf: (places: readonly Each[]) => Place | undefined,
  linesOf: (place: Each) => readonly string[],
): string {
  const gone = before.filter((place) => isNewTo(after, place));
  const ruled = before.length < 2 ? [] : after.length < 2 ? before : gone;
  const lines = [
    ...ruled.map((place) => `rule delete ${ruleOf(place)}`),
    ...after.filter((place) => isNewTo(before, place)).flatMap(linesOf),
  ];
  const outward = outwardOf(after);
  const outwardBefore = outwardOf(before);
  if (outward !== undefined && (isNewTo(before, outward) || outward.device !== outwardBefore?.device)) {
    lines.push(`route replace default via ${outward.gateway} dev ${outward.device}`);
  }
  // Whoever asked on a network, from wherever, is answered on it: no other takes packets from this address.
  const tabled = after.length < 2 ? [] : after.filter((place) => before.length < 2 || isNewTo(before, place));
  for (const place of tabled) lines.push(tableLine(place), `rule add ${ruleOf(place)}`);
  return joined(lines);
}

function relinkedLines<Each extends Place>(
  places: readonly Each[],
  bridge: string,
  outwardOf: (places: readonly Each[]) => Place | undefined,
  linesOf: (place: Each) => readonly string[],
): string {
  const outward = outwardOf(places);
  const lines = places
    .filter((place) => place.bridge === bridge)
    .flatMap((place) => [
      ...linesOf(place),
      ...(place.device === outward?.device
        ? [`route replace default via ${place.gateway} dev ${place.device}`]
        : []),
      ...(places.length > 1 ? [tableLine(place)] : []),
    ]);
  return joined(lines);
}

function linkLines(
  taskId: TaskId,
  { device, address, gateway, gatewayMac, further = [], mac, mtu, bridge }: NamespaceLink,
  hostNamespace: string,
): string[] {
  const block = parseCidr(address);
  const others = further.filter((subnet) => !isIpv6(subnet));
  return [
    `link add ${device} address ${mac} mtu ${mtu} up type veth ` +
      `peer name ${portName(taskId, bridge)} mtu ${mtu} group ${deviceGroup} netns ${hostNamespace}`,
    `address add ${address} dev ${device} noprefixroute`,
    // Known beforehand, so that no other task can claim to be the gateway.
    `neighbour add ${gateway} lladdr ${gatewayMac ?? taskMac(gateway)} dev ${device} nud permanent`,
    `route add ${gateway}/32 dev ${device} scope link`,
    ...[blockText(block), ...others].map(
      (subnet) => `route add ${subnet} via ${gateway} dev ${device} src ${block.address}`,
    ),
  ];
}

/** Once the device is there and IPv6 is on. */
function ipv6Lines({ device, address, gateway, gatewayMac, further = [] }: Ipv6Place): string[] {
  const block = parseBlock(address);
  return [
    `address add ${address} dev ${device} noprefixroute nodad`,
    `neighbour add ${gateway} lladdr ${gatewayMac} dev ${device} nud permanent`,
    `route add ${gateway}/128 dev ${device}`,
    ...[blockText(block), ...further].map(
      (subnet) => `route add ${subnet} via ${gateway} dev ${device} src ${block.address}`,
    ),
  ];
}

function joined(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}

function tableLine(place: Place): string {
  return `route replace default via ${place.gateway} dev ${place.device} onlink table ${tableOf(place)}`;
}

function ruleOf(place: Place): string {
  return `from ${withoutPrefix(place.address)} lookup ${tableOf(place)}`;
}

/** By the number in the device's name, which it keeps while others come and go. */
function tableOf({ device }: Pick<Place, "device">): number {
  return firstTable + Number(device.replace(/^eth/, ""));
}
