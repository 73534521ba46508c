/** What this host has of its own among the addresses there are: no network of ours may cover it, and managers are told. */
import { networkInterfaces } from "node:os";

import { ownSubnetLimit } from "../../model/node.ts";
import { type Block, blockText, contains, parseBlock } from "./addresses.ts";
import type { BridgeNetwork } from "./network.ts";
import { parseIpv6Routes, parseRoutes, readRouteFile, type Route } from "./routes.ts";

export interface OwnBlock extends Block {
  /** Canonical CIDR. */
  readonly text: string;
  /** By which the host has it. */
  readonly device: string;
}

/** Addresses with their prefix, and routes but for default ones; those of our own devices may be among them. */
export interface HostRoutes {
  readonly addresses: readonly Route[];
  readonly routes: readonly Route[];
}

/** Devices of ours; bridges of users have names of their choice. */
const ourDevice = /^(?:ov|vx)\d{4,8}$|^sv-[0-9a-z]{12}$|^shoal0$|^shoal-wg[01]$/;
/** Wider ones are default routes in parts, as VPNs set them (0.0.0.0/1 and 128.0.0.0/1, 2000::/3). */
const leastPrefixBits = 8;
/** What every host has for itself, on each link, or for groups. */
const nobodys = [
  "127.0.0.0/8",
  "169.254.0.0/16",
  "224.0.0.0/3",
  "0.0.0.0/8",
  "::/8",
  "fe80::/10",
  "ff00::/8",
].map(parseBlock);

/** @throws what reading the routes throws. */
export async function readHostRoutes(): Promise<HostRoutes> {
  const [ipv4, ipv6] = await Promise.all([readRouteFile("route"), readRouteFile("ipv6_route")]);
  const addresses = Object.entries(networkInterfaces()).flatMap(([device, list = []]) =>
    list.flatMap(({ cidr }) => (cidr === null ? [] : [{ block: cidr, device }])),
  );
  return {
    addresses,
    routes: [...parseRoutes(ipv4, (device) => !ourDevice.test(device)), ...parseIpv6Routes(ipv6)],
  };
}

/**
 * The host's own blocks, none inside another, in order.
 *
 * @param bridges - Devices of ours beside those that only we name so.
 */
export function ownBlocks({ addresses, routes }: HostRoutes, bridges: ReadonlySet<string>): OwnBlock[] {
  const found = [...addresses, ...routes].flatMap(({ block: given, device }): OwnBlock[] => {
    if (device === "*" || ourDevice.test(device) || bridges.has(device)) return [];
    const block = parseBlock(given);
    if (block.prefixBits < leastPrefixBits || nobodys.some((each) => contains(each, block.first))) return [];
    const text = blockText(block);
    return [{ ...block, text: text.includes("/") ? text : `${text}/${block.prefixBits}`, device }];
  });
  return disjoint(found);
}

/** Without those inside another; numbers come before big ones. */
export function disjoint<Item extends Block>(blocks: readonly Item[]): Item[] {
  const rank = ({ first }: Block): number => (typeof first === "bigint" ? 1 : 0);
  const sorted = blocks.toSorted(
    (a, b) =>
      rank(a) - rank(b) || (a.first < b.first ? -1 : a.first > b.first ? 1 : a.prefixBits - b.prefixBits),
  );
  const kept: Item[] = [];
  for (const block of sorted) {
    const before = kept.at(-1);
    if (before === undefined || !contains(before, block.first)) kept.push(block);
  }
  return kept;
}

export class HostSubnets {
  readonly #read: () => Promise<HostRoutes>;
  #blocks: readonly OwnBlock[] = [];
  readonly #listeners = new Set<() => void>();

  constructor(read: () => Promise<HostRoutes> = readHostRoutes) {
    this.#read = read;
  }

  /** As of the last look; the same array for as long as nothing changed. */
  get blocks(): readonly OwnBlock[] {
    return this.#blocks;
  }

  /** What managers are told: of more than they take, the widest. */
  get told(): readonly string[] {
    const most =
      this.#blocks.length <= ownSubnetLimit
        ? this.#blocks
        : this.#blocks.toSorted((a, b) => a.prefixBits - b.prefixBits).slice(0, ownSubnetLimit);
    return most.map(({ text }) => text);
  }

  /** @throws what reading the host's routes throws; then what was known stays. */
  async look(bridges: readonly BridgeNetwork[]): Promise<void> {
    const blocks = ownBlocks(await this.#read(), new Set(bridges.map(({ device }) => device)));
    const said = (list: readonly OwnBlock[]): string =>
      list.map(({ text, device }) => `${text} ${device}`).join();
    if (said(blocks) === said(this.#blocks)) return;
    this.#blocks = blocks;
    for (const listener of this.#listeners) listener();
  }

  /** Calls back after each change. @returns a function that ends the watching. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
