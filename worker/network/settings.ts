/** Kernel settings of devices, written through /proc/sys of the namespace this process is in. */
import { readFile, writeFile } from "node:fs/promises";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { KernelObject } from "./objects.ts";

const root = "/proc/sys/net";

type Setting = readonly [path: string, value: string];

/** The host forwards between tasks and the outside, and never tells a task of a shorter way. */
const hostSettings: readonly Setting[] = [
  ["ipv4/ip_forward", "1"],
  ["ipv4/conf/all/send_redirects", "0"],
];

/**
 * - `rp_filter` 2: a task on two networks may be answered by either.
 * - `proxy_arp_pvlan`: a program that asks the link for another task is answered with the gateway.
 * - A tunnel carries packets of this host alone.
 * - `route_localnet`: published ports work under localhost; `rules.ts` keeps tasks from using it.
 */
function deviceSettings({ value, device }: KernelObject): Setting[] {
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
    [`ipv6/conf/${device}/disable_ipv6`, "1"],
  ];
  const bridge: Setting[] = [
    [`${conf}/proxy_arp`, "1"],
    [`${conf}/proxy_arp_pvlan`, "1"],
    [`ipv4/neigh/${device}/proxy_delay`, "0"],
  ];
  return value.startsWith("bridge ") ? [...both, ...bridge] : both;
}

/**
 * Writes what differs, and nothing else.
 *
 * @returns what differed, in words.
 * @throws {ClusterError} `internal` when the kernel refuses one of them.
 */
export async function settle(links: readonly KernelObject[]): Promise<string[]> {
  const found: string[] = [];
  for (const [path, value] of [...hostSettings, ...links.flatMap(deviceSettings)]) {
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
