/** Kernel settings of devices, written through /proc/sys of the namespace this process is in. */
import { writeFile } from "node:fs/promises";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { KernelObject } from "./objects.ts";

const root = "/proc/sys/net";

/** The host forwards between tasks and the outside, and never tells a task of a shorter way. */
export async function writeHostSettings(): Promise<void> {
  await writeAll([
    ["ipv4/ip_forward", "1"],
    ["ipv4/conf/all/send_redirects", "0"],
  ]);
}

/**
 * - `rp_filter` 2: a task on two networks may be answered by either.
 * - `proxy_arp_pvlan`: a program that asks the link for another task is answered with the gateway.
 * - `route_localnet`: published ports work under localhost; `rules.ts` keeps tasks from using it.
 */
export async function writeDeviceSettings({ value, device }: KernelObject): Promise<void> {
  const conf = `ipv4/conf/${device}`;
  const both: Setting[] = [
    [`${conf}/rp_filter`, "2"],
    [`${conf}/send_redirects`, "0"],
    [`${conf}/route_localnet`, "1"],
    [`ipv6/conf/${device}/disable_ipv6`, "1"],
  ];
  const bridge: Setting[] = [
    [`${conf}/proxy_arp`, "1"],
    [`${conf}/proxy_arp_pvlan`, "1"],
    [`ipv4/neigh/${device}/proxy_delay`, "0"],
  ];
  await writeAll(value.startsWith("bridge ") ? [...both, ...bridge] : both);
}

type Setting = readonly [path: string, value: string];

async function writeAll(settings: readonly Setting[]): Promise<void> {
  for (const [path, value] of settings) {
    try {
      await writeFile(`${root}/${path}`, value);
    } catch (cause) {
      const isMissing = (cause as NodeJS.ErrnoException).code === "ENOENT";
      if (isMissing && path.startsWith("ipv6/")) continue; // A kernel without IPv6.
      throw new ClusterError("internal", `cannot write ${value} to ${root}/${path}: ${errorText(cause)}`, {
        cause,
      });
    }
  }
}
