/**
 * Namespaces of tasks: bind mounts in `<runDir>/netns`, which outlive every process of ours and hold
 * a task's devices until its container has joined.
 */
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import { mountPoints } from "../mounts/mountinfo.ts";
import { blockText, parseCidr, taskMac } from "./addresses.ts";
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
    const script = "echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6; exec ip -batch -";
    await must(
      this.#run,
      `make the network namespace of task ${taskId}`,
      ["unshare", `--net=${path}`, "sh", "-c", script],
      namespaceLines(taskId, links, this.#hostNamespace),
    );
  }

  /** Makes one of a task's links again, in the namespace it has: with one end of a link the other goes too. */
  async relink(taskId: TaskId, links: readonly NamespaceLink[], bridge: string): Promise<void> {
    await must(
      this.#run,
      `connect task ${taskId} again`,
      ["nsenter", `--net=${this.path(taskId)}`, "ip", "-force", "-batch", "-"],
      relinkLines(taskId, links, { hostNamespace: this.#hostNamespace, bridge }),
    );
  }

  /** Makes the links that are new; the host's ends of those that go are the host's to remove. */
  async change(
    taskId: TaskId,
    before: readonly NamespaceLink[],
    after: readonly NamespaceLink[],
  ): Promise<void> {
    const lines = changeLines(taskId, before, after, this.#hostNamespace);
    if (lines === "") return;
    await must(
      this.#run,
      `change the network namespace of task ${taskId}`,
      ["nsenter", `--net=${this.path(taskId)}`, "ip", "-batch", "-"],
      lines,
    );
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
  const had = new Set(before.map(({ device, address }) => `${device} ${address}`));
  const isNew = ({ device, address }: AttachedAddress): boolean => !had.has(`${device} ${address}`);
  const stays = new Set(after.map(({ device, address }) => `${device} ${address}`));
  const gone = before.filter(({ device, address }) => !stays.has(`${device} ${address}`));
  const ruled = before.length < 2 ? [] : after.length < 2 ? before : gone;
  const lines = [
    ...ruled.map((link) => `rule delete ${ruleOf(link)}`),
    ...after.filter(isNew).flatMap((link) => linkLines(taskId, link, hostNamespace)),
  ];
  const outward = outwardAddress(after);
  const outwardBefore = outwardAddress(before);
  if (outward !== undefined && (isNew(outward) || outward.device !== outwardBefore?.device)) {
    lines.push(`route replace default via ${outward.gateway} dev ${outward.device}`);
  }
  // Whoever asked on a network, from wherever, is answered on it: no other takes packets from this address.
  const tabled = after.length < 2 ? [] : after.filter((link) => before.length < 2 || isNew(link));
  for (const link of tabled) {
    const { gateway, device } = link;
    lines.push(
      `route replace default via ${gateway} dev ${device} onlink table ${tableOf(link)}`,
      `rule add ${ruleOf(link)}`,
    );
  }
  return lines.map((line) => `${line}\n`).join("");
}

/** What to tell `ip` inside a namespace that has lost its link to a bridge; rules do not go with a link. */
export function relinkLines(
  taskId: TaskId,
  links: readonly NamespaceLink[],
  { hostNamespace, bridge }: { readonly hostNamespace: string; readonly bridge: string },
): string {
  const outward = outwardAddress(links);
  const lines = links
    .filter((link) => link.bridge === bridge)
    .flatMap((link) => {
      const { gateway, device } = link;
      return [
        ...linkLines(taskId, link, hostNamespace),
        ...(link.device === outward?.device ? [`route replace default via ${gateway} dev ${device}`] : []),
        ...(links.length > 1
          ? [`route replace default via ${gateway} dev ${device} onlink table ${tableOf(link)}`]
          : []),
      ];
    });
  return lines.map((line) => `${line}\n`).join("");
}

function linkLines(
  taskId: TaskId,
  { device, address, gateway, gatewayMac, further = [], mac, mtu, bridge }: NamespaceLink,
  hostNamespace: string,
): string[] {
  const block = parseCidr(address);
  return [
    `link add ${device} address ${mac} mtu ${mtu} up type veth ` +
      `peer name ${portName(taskId, bridge)} mtu ${mtu} group ${deviceGroup} netns ${hostNamespace}`,
    `address add ${address} dev ${device} noprefixroute`,
    // Known beforehand, so that no other task can claim to be the gateway.
    `neighbour add ${gateway} lladdr ${gatewayMac ?? taskMac(gateway)} dev ${device} nud permanent`,
    `route add ${gateway}/32 dev ${device} scope link`,
    ...[blockText(block), ...further].map(
      (subnet) => `route add ${subnet} via ${gateway} dev ${device} src ${block.address}`,
    ),
  ];
}

function ruleOf(link: NamespaceLink): string {
  return `from ${parseCidr(link.address).address} lookup ${tableOf(link)}`;
}

/** By the number in the device's name, which it keeps while others come and go. */
function tableOf({ device }: NamespaceLink): number {
  return firstTable + Number(device.replace(/^eth/, ""));
}
