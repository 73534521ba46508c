/** Kernel settings of devices, written through /proc/sys of the namespace this process is in. */
import { readdir, readFile, writeFile } from "node:fs/promises";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { KernelObject } from "./objects.ts";

const root = "/proc/sys/net";

type Setting = readonly [path: string, value: string];

/** Of a device, what decides its settings. */
export type SettledLink = Pick<KernelObject, "value" | "device" | "ipv6">;

/** The host forwards between tasks and the outside, and never tells a task of a shorter way. */
const hostSettings: readonly Setting[] = [
  ["ipv4/ip_forward", "1"],
  ["ipv4/conf/all/send_redirects", "0"],
];

/** IPv6 is forwarded by every device or by none. */
const ipv6Forwarding: Setting = ["ipv6/conf/all/forwarding", "1"];

/**
 * - `rp_filter` 2: a task on two networks may be answered by either.
 * - `proxy_arp_pvlan`: a program that asks the link for another task is answered with the gateway.
 * - A tunnel carries packets of this host alone.
 * - IPv6 is on where the network has it. Its addresses are known beforehand, so none is asked for, and no router's word is taken.
 * - `route_localnet`: published ports work under localhost; `rules.ts` keeps tasks from using it.
 */
function deviceSettings({ value, device, ipv6 }: SettledLink): Setting[] {
  const conf = `ipv4/conf/${device}`;
  if (value === "tunnel") {
    return [
      [`${conf}/rp_filter`, "2"],
      [`${conf}/send_redirects`, "0"],
      [`ipv6/conf/${device}/disable_ipv6`, "1"],
    ];
  }
  const both: Setting[] = [
    [`${conf}/rp_filter`, "2"],
    [`${conf}/send_redirects`, "0"],
    [`${conf}/route_localnet`, "1"],
    [`${conf}/forwarding`, "1"],
    ...(ipv6 === true ? ipv6Settings(device) : [[`ipv6/conf/${device}/disable_ipv6`, "1"] as const]),
  ];
  const bridge: Setting[] = [
    [`${conf}/proxy_arp`, "1"],
    [`${conf}/proxy_arp_pvlan`, "1"],
    [`ipv4/neigh/${device}/proxy_delay`, "0"],
  ];
  return value.startsWith("bridge ") ? [...both, ...bridge] : both;
}

function ipv6Settings(device: string): Setting[] {
  const conf = `ipv6/conf/${device}`;
  return [
    [`${conf}/accept_dad`, "0"],
    [`${conf}/accept_ra`, "0"],
    [`${conf}/forwarding`, "1"],
    [`${conf}/disable_ipv6`, "0"],
  ];
}

/**
 * A host that forwards takes no more routes from routers, which may be all that it reaches others by: where it took them, it is
 * told to go on.
 */
async function keepRoutes(): Promise<Setting[]> {
  const read = async (path: string): Promise<string> =>
    (await readFile(`${root}/${path}`, "utf8").catch(() => "")).trim(); // It went meanwhile, or there is no IPv6.
  if ((await read(ipv6Forwarding[0])) !== "0") return [];
  const devices = await readdir(`${root}/ipv6/conf`);
  const settings: Setting[] = [];
  for (const device of devices) {
    const path = `ipv6/conf/${device}/accept_ra`;
    if (device !== "all" && (await read(path)) === "1") settings.push([path, "2"]);
  }
  return settings;
}

/**
 * Writes what differs, and nothing else.
 *
 * @returns what differed, in words.
 * @throws {ClusterError} `internal` when the kernel refuses one of them.
 */
export async function settle(links: readonly SettledLink[]): Promise<string[]> {
  const found: string[] = [];
  const hasIpv6 = links.some(({ ipv6 }) => ipv6 === true);
  const forwarding = hasIpv6 ? [...(await keepRoutes()), ipv6Forwarding] : [];
  for (const [path, value] of [...hostSettings, ...forwarding, ...links.flatMap(deviceSettings)]) {
    const file = `${root}/${path}`;
    try {
      const seen = (await readFile(file, "utf8")).trim();
      if (seen === value) continue;
      await writeFile(file, value);
      found.push(`net.${path.replaceAll("/", ".")} was ${seen}`);
    } catch (cause) {
      // A kernel without IPv6, or a device that somebody took away since: the next look makes it anew.
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") continue;
      throw new ClusterError("internal", `cannot write ${value} to ${file}: ${errorText(cause)}`, { cause });
    }
  }
  return found;
}
