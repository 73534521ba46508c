/**
 * Holds the port on which tasks ask this host for names at all other addresses of the host: those of gateways stay free for
 * that, whether somebody listens there yet or not. A socket for all addresses would be in the way of every gateway's.
 */
import { readFile } from "node:fs/promises";
import { endianness, networkInterfaces } from "node:os";

import { isIpv6 } from "../../model/address.ts";

export interface PortHolder {
  close(): unknown;
}

export interface OwnPortDeps {
  /** Of the host, IPv4. */
  readonly addresses: () => readonly string[];
  readonly readText: (path: string) => Promise<string>;
}

export const ownPortDeps: OwnPortDeps = {
  addresses: () =>
    Object.values(networkInterfaces())
      .flatMap((list = []) => list.map(({ address }) => address))
      .filter((address) => !isIpv6(address)),
  readText: (path) => readFile(path, "utf8"),
};

/** The state of a socket of TCP that waits for callers, as `/proc/net/tcp` has it. */
const listening = "0A";

/**
 * An address that the host gets later is not held, and its port there may become another program's.
 *
 * @param open - Binds one address, for it alone.
 * @param spared - Addresses on which names are asked for.
 * @throws what `open` does; an error with the code "EADDRINUSE" where a program listens on an address that no device has,
 *   such as systemd-resolved on 127.0.0.53: the rules that translate the port would take it away.
 */
export async function holdOwn(
  protocol: "tcp" | "udp",
  port: number,
  {
    open,
    spared,
    deps,
  }: {
    readonly open: (address: string) => Promise<PortHolder>;
    readonly spared: ReadonlySet<string>;
    readonly deps: OwnPortDeps;
  },
): Promise<PortHolder> {
  const addresses = new Set(deps.addresses().filter((address) => !spared.has(address)));
  const holders: PortHolder[] = [];
  const close = (): void => {
    for (const holder of holders) holder.close();
  };
  try {
    for (const address of addresses) holders.push(await open(address));
    const users = usersOf(await deps.readText(`/proc/net/${protocol}`), port, protocol);
    const other = users.find((address) => !addresses.has(address) && !spared.has(address));
    if (other !== undefined) throw Object.assign(new Error(`${other} is in use`), { code: "EADDRINUSE" });
  } catch (cause) {
    close();
    throw cause;
  }
  return { close };
}

/** Addresses at which some socket has the port. @param table - `/proc/net/tcp` or `/proc/net/udp` */
export function usersOf(table: string, port: number, protocol: "tcp" | "udp"): string[] {
  return table.split("\n").flatMap((line) => {
    const [, local = "", , state = ""] = line.trim().split(/\s+/);
    const match = /^([0-9A-F]{8}):([0-9A-F]{4})$/.exec(local);
    if (match === null || Number.parseInt(match[2] ?? "", 16) !== port) return [];
    if (protocol === "tcp" && state !== listening) return [];
    const bytes = Buffer.from(match[1] ?? "", "hex");
    return [[...(endianness() === "LE" ? bytes.toReversed() : bytes)].join(".")];
  });
}
