/** What `ip -j` and `bridge -j` print → the objects of ours among it. */
import { addressValue } from "./addresses.ts";
import { deviceGroup, ipv6Rule, markMask, objectId, routeProtocol, vxlanPort } from "./objects.ts";
import type { KernelObject, Observed } from "./objects.ts";

/** For one process of `ip -j -d -batch`, which prints one line for each. */
export const observeLines = [
  "address show",
  "nexthop show",
  "neighbour show nud permanent",
  `route show table all proto ${routeProtocol}`,
  "rule show",
] as const;
/** A process of its own: one lists rules of one family. */
export const observeIpv6Rules = ["ip", "-6", "-j", "-d", "rule", "show"] as const;
export const observeForwards = ["bridge", "-j", "fdb", "show"] as const;

/** Names only we give; a device that has one and not our group is somebody else's. */
const ourName = /^(?:ov|vx)\d{4,8}$|^sv-[0-9a-z]{12}$/;

type Row = Readonly<Record<string, unknown>>;

/**
 * @param outputs - As printed for `observeLines`, and then for `observeForwards` and `observeIpv6Rules`; an empty text means
 *   nothing is there.
 */
export function parseObserved(outputs: readonly string[]): Observed {
  const [links = [], nexthops = [], neighbours = [], routes = [], rules = [], forwards = [], ipv6Rules = []] =
    outputs.map(rows);
  const objects = new Map<string, KernelObject>();
  const devices = new Map<string, { device: string; mtu: number }>();
  const add = (object: KernelObject): void => void objects.set(objectId(object), object);
  const ours = new Set<string>();
  for (const link of links) {
    const device = text(link, "ifname");
    const mtu = Number(link["mtu"]);
    const kind = text(row(link["linkinfo"]), "info_kind");
    // A user may have chosen the name of a bridge.
    const named = kind === "bridge" || ourName.test(device);
    if (!named || text(link, "group") !== String(deviceGroup)) {
      for (const { local } of addresses(link)) devices.set(local, { device, mtu });
      continue;
    }
    ours.add(device);
    if (kind === "veth") {
      const hairpin = row(row(link["linkinfo"])["info_slave_data"])["hairpin"] === true;
      const up = flags(link).includes("UP");
      add({ kind: "port", key: device, value: hairpin && up ? text(link, "master") : "", device });
      continue;
    }
    const data = row(row(link["linkinfo"])["info_data"]);
    const isVxlan = kind === "vxlan";
    const tail = isVxlan ? ` ${mtu} ${String(data["id"])} ${text(data, "local") || "any"}` : "";
    const odd = (isVxlan ? isOddVxlan(data) : isOddBridge(data)) ? " odd" : "";
    const state = flags(link).includes("UP") ? "" : " down";
    add({
      kind: "link",
      key: device,
      value: `${kind} ${text(link, "address")}${tail}${odd}${state}`,
      device,
    });
    if (kind === "bridge") add({ kind: "mtu", key: device, value: String(mtu), device });
    for (const { local, prefixBits } of addresses(link)) {
      add({ kind: "address", key: `${device} ${local}/${prefixBits}`, value: "", device });
    }
  }
  const nexthopIds = new Set<number>();
  for (const hop of nexthops) {
    nexthopIds.add(Number(hop["id"]));
    const device = text(hop, "dev");
    if (!ours.has(device) || text(hop, "protocol") !== String(routeProtocol)) continue;
    add({ kind: "nexthop", key: `${device} ${text(hop, "gateway")}`, value: String(hop["id"]), device });
  }
  for (const neighbour of neighbours) {
    const device = text(neighbour, "dev");
    if (!ours.has(device) || addressValue(text(neighbour, "dst")) === undefined) continue;
    add({
      kind: "neighbour",
      key: `${device} ${text(neighbour, "dst")}`,
      value: text(neighbour, "lladdr"),
      device,
    });
  }
  for (const route of routes) {
    const isUnreachable = text(route, "type") === "unreachable";
    // The kernel has those of IPv6 on the loopback device.
    const device = isUnreachable ? "" : text(route, "dev");
    const hop = route["nhid"];
    const value = isUnreachable ? "unreachable" : typeof hop === "number" ? `nhid ${hop}` : `dev ${device}`;
    const table = text(route, "table");
    if (table !== "" && table !== "main") {
      if (text(route, "dst") === "default") add({ kind: "return", key: table, value, device });
      continue;
    }
    add({ kind: "route", key: text(route, "dst"), value, device });
  }
  const addRule = (rule: Row, keyOf: (mark: string) => string): void => {
    if (text(rule, "protocol") !== String(routeProtocol) || text(rule, "fwmask") !== markMask) return;
    const value = `${String(rule["priority"])} ${text(rule, "table")}`;
    add({ kind: "rule", key: keyOf(text(rule, "fwmark")), value, device: "" });
  };
  for (const rule of rules) addRule(rule, (mark) => mark);
  for (const rule of ipv6Rules) addRule(rule, ipv6Rule);
  for (const forward of forwards) {
    const device = text(forward, "ifname");
    if (!ours.has(device) || text(forward, "state") !== "static") continue;
    const remote = text(forward, "dst");
    const via = text(forward, "viaIf");
    add({
      kind: "forward",
      key: `${device} ${text(forward, "mac")}`,
      value: remote === "" ? "master" : `dst ${remote}${via === "" ? "" : ` via ${via}`} self`,
      device,
    });
  }
  return { objects, nexthopIds, devices };
}

function isOddVxlan(data: Row): boolean {
  return data["port"] !== vxlanPort || data["learning"] === true;
}

function isOddBridge(data: Row): boolean {
  return data["stp_state"] !== 0 || data["mcast_snooping"] !== 0;
}

function addresses(link: Row): { local: string; prefixBits: number }[] {
  const list = link["addr_info"];
  if (!Array.isArray(list)) return [];
  return (
    list
      .map(row)
      // Those that the kernel makes for privacy are for what the host asks itself, and are others tomorrow.
      .filter((entry) => entry["temporary"] !== true)
      .map((entry) => ({ local: text(entry, "local"), prefixBits: Number(entry["prefixlen"]) }))
      // Link-local ones of IPv6 are the kernel's own.
      .filter(({ local }) => addressValue(local) !== undefined && !local.startsWith("fe80:"))
  );
}

function flags(link: Row): readonly unknown[] {
  const list = link["flags"];
  return Array.isArray(list) ? list : [];
}

function rows(output: string): Row[] {
  if (output.trim() === "") return [];
  const parsed: unknown = JSON.parse(output);
  return Array.isArray(parsed) ? parsed.map(row) : [];
}

function row(value: unknown): Row {
  return typeof value === "object" && value !== null ? (value as Row) : {};
}

function text(from: Row, key: string): string {
  const value = from[key];
  return typeof value === "string" ? value : "";
}
