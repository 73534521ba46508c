/** Reads the routes of this host as `/proc/net` has them. */
import { readFile } from "node:fs/promises";

import { contains, parseCidr as parseAny, parseIp, printIp, unusableIpv6 } from "../../model/address.ts";
import { blockText, parseCidr } from "./addresses.ts";

export type RouteFile = "route" | "ipv6_route";

export interface Route {
  /** CIDR, its length always said. */
  readonly block: string;
  /** "*" where it leads nowhere. */
  readonly device: string;
}

/** @returns the file's text; empty for IPv6 where there is none. */
export async function readRouteFile(file: RouteFile): Promise<string> {
  try {
    return await readFile(`/proc/net/${file}`, "utf8");
  } catch (error) {
    if (file === "ipv6_route" && (error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

/** No routes that a network could cut off: every link has them, or the host itself. */
const ownScopes = unusableIpv6.flatMap((text) => parseAny(text) ?? []);

/** Routes in the form of `/proc/net/ipv6_route`; those of the loopback device are the host's own and the unreachable ones. */
export function parseIpv6Routes(text: string): Route[] {
  return text.split("\n").flatMap((line) => {
    const [destination = "", bits = "", , , , , , , , device = ""] = line.trim().split(/\s+/);
    const ip = parseIp((destination.match(/.{4}/g) ?? []).join(":"));
    const prefixBits = Number.parseInt(bits, 16);
    if (ip === undefined || !(prefixBits > 0) || device === "lo") return [];
    if (ownScopes.some((scope) => contains(scope, ip))) return [];
    return [{ block: `${printIp(ip)}/${prefixBits}`, device }];
  });
}

/**
 * Routes in the form of `/proc/net/route`; the default route meets nothing.
 *
 * @param isMeant - By device: others are passed over unread, which matters among thousands of tasks.
 */
export function parseRoutes(text: string, isMeant: (device: string) => boolean = () => true): Route[] {
  return text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      if (!isMeant(line.slice(0, line.indexOf("\t")))) return [];
      const [device = "", destination = "", , , , , , mask = ""] = line.trim().split(/\s+/);
      if (!/^[0-9A-F]{8}$/i.test(mask)) return [];
      const prefixBits = Number.parseInt(mask, 16).toString(2).replaceAll("0", "").length;
      if (prefixBits === 0) return [];
      const block = blockText(parseCidr(`${littleEndian(destination)}/${prefixBits}`));
      return [{ block: prefixBits === 32 ? `${block}/32` : block, device }];
    });
}

function littleEndian(hex: string): string {
  return [6, 4, 2, 0].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)).join(".");
}
