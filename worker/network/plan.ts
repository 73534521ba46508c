/** Wanted objects × those in the kernel → the lines that make one into the other. */
import { isIpv6 } from "../../model/address.ts";
import { unreachable } from "../../model/errors.ts";
import { deviceGroup, isIpv6Return, markMask, objectId, routeProtocol, vxlanPort } from "./objects.ts";
import type { KernelObject, ObjectKind } from "./objects.ts";

/** "ip -6" where only that tells the family: what is said by "ip" names an address that does. */
export type Tool = "ip" | "ip -6" | "bridge";

export interface Step {
  readonly action: "add" | "remove";
  readonly tool: Tool;
  /** For the tool's batch mode. */
  readonly line: string;
  readonly object: KernelObject;
}

/**
 * Each kind may refer to those before it. Neighbours end the batch of `ip`, because a refused
 * neighbour ends `ip` itself, whatever `-force` says (iproute2 6.1, `ipneigh_modify`).
 */
const order: readonly ObjectKind[] = [
  "link",
  "mtu",
  "address",
  "port",
  "nexthop",
  "route",
  "return",
  "rule",
  "neighbour",
  "forward",
];
const rank: ReadonlyMap<ObjectKind, number> = new Map(order.map((kind, index) => [kind, index]));

/**
 * Removals first, dependents before what they depend on; then additions the other way round. Routes
 * and neighbours that only change are replaced in place, so their traffic never meets a gap. Nothing
 * is removed that goes away with its device.
 */
export function plan(
  wanted: ReadonlyMap<string, KernelObject>,
  observed: ReadonlyMap<string, KernelObject>,
): Step[] {
  const gone = new Set<string>(); // Devices that are removed, for good or to be made anew.
  for (const [id, object] of observed) {
    if (object.kind !== "link" && object.kind !== "port") continue;
    const next = wanted.get(id);
    if (next === undefined || mustRemake(object, next)) gone.add(object.device);
  }
  const removed = [...observed].filter(([id, object]) => {
    if (object.kind === "link" || object.kind === "port") return gone.has(object.device);
    return !wanted.has(id) && !gone.has(object.device);
  });
  const added = [...wanted].filter(([id, object]) => {
    const present = observed.get(id);
    return present === undefined || present.value !== object.value || gone.has(object.device);
  });
  return [
    ...removed
      .map(([, object]) => object)
      .toSorted((a, b) => removalRank(b) - removalRank(a))
      .map((object) => removal(object)),
    ...added
      .map(([, object]) => object)
      .toSorted((a, b) => (rank.get(a.kind) ?? 0) - (rank.get(b.kind) ?? 0))
      .flatMap((object) => {
        const present = observed.get(objectId(object));
        // A route may lead by another device than it is to lead by, and goes away with that one.
        const device = (object.kind === "route" ? present?.device : undefined) ?? object.device;
        return additions(object, gone.has(device) ? undefined : present);
      }),
  ];
}

/**
 * What the steps say of a kernel that was left as wanted, in words. A device stands for all that was on it.
 *
 * @param observed - What the steps were planned for.
 */
export function findings(steps: readonly Step[], observed: ReadonlyMap<string, KernelObject>): string[] {
  const lost = new Set(
    steps.flatMap(({ action, object: { kind, device, key } }) =>
      action === "add" && kind === "link" && !observed.has(`link ${key}`) ? [device] : [],
    ),
  );
  const found = steps
    .filter(({ object: { kind, device } }) => kind === "link" || kind === "port" || !lost.has(device))
    .map(({ action, object }) => {
      const state =
        action === "remove" ? "is not ours" : observed.has(objectId(object)) ? "was changed" : "is gone";
      return `${title(object)} ${state}`;
    });
  return [...new Set(found)];
}

function title({ kind, key }: KernelObject): string {
  const [first = "", second = ""] = key.split(" ");
  switch (kind) {
    case "link":
      return `the device ${key}`;
    case "mtu":
      return `the MTU of ${key}`;
    case "port":
      return `the place of ${key} on its bridge`;
    case "address":
      return `the address ${second} of ${first}`;
    case "nexthop":
      return `the next hop ${second} on ${first}`;
    case "neighbour":
      return `the neighbour ${second} on ${first}`;
    case "route":
      return `the route to ${key}`;
    case "return":
      return `the way back in table ${key}`;
    case "rule":
      return `the routing rule for mark ${first}${second === "" ? "" : " of IPv6"}`;
    case "forward":
      return `the forwarding entry ${second} on ${first}`;
  }
  return unreachable(kind);
}

/** The reverse of additions, but for neighbours, which end the batch here too. */
function removalRank({ kind }: KernelObject): number {
  return kind === "neighbour" ? -1 : (rank.get(kind) ?? 0);
}

/** A bridge is changed in place, since its ports would not come back; of a VXLAN device, only the MTU can be. */
function mustRemake(present: KernelObject, wanted: KernelObject): boolean {
  if (present.kind !== "link") return false;
  const fixed = (value: string): string =>
    value.startsWith("bridge ") ? "bridge" : value.split(" ").toSpliced(2, 1).join(" ");
  return fixed(present.value) !== fixed(wanted.value);
}

function additions(object: KernelObject, present: KernelObject | undefined): Step[] {
  return lines(object, present).map((line) => ({
    action: "add",
    tool: toolOf(object),
    line,
    object,
  }));
}

function toolOf({ kind, key }: KernelObject): Tool {
  if (kind === "forward") return "bridge";
  return kind === "rule" && key.includes(" ") ? "ip -6" : "ip";
}

function lines({ kind, key, value, device }: KernelObject, present: KernelObject | undefined): string[] {
  const [first = "", second = ""] = key.split(" ");
  switch (kind) {
    case "link": {
      const [type = "", mac = "", mtu = "", vni = "", local = ""] = value.split(" ");
      const bridge = "bridge mcast_snooping 0 stp_state 0";
      if (present !== undefined && type === "vxlan") return [`link set dev ${device} mtu ${mtu}`];
      if (present !== undefined) {
        return [`link set dev ${device} address ${mac} up`, `link set dev ${device} type ${bridge}`];
      }
      const [size, options] =
        type === "vxlan"
          ? [
              ` mtu ${mtu}`,
              `vxlan id ${vni}${local === "any" ? "" : ` local ${local}`} dstport ${vxlanPort} nolearning`,
            ]
          : ["", bridge];
      // In one line: where it is refused, because the device is somebody else's, nothing more may be done to that.
      return [`link add ${device} address ${mac}${size} group ${deviceGroup} up type ${options}`];
    }
    case "mtu":
      return [`link set dev ${device} mtu ${value}`];
    case "address":
      return [`address replace ${second} dev ${first} noprefixroute${addressOptions(second)}`];
    case "port":
      return [
        `link set dev ${device} master ${value} up`,
        `link set dev ${device} type bridge_slave hairpin on`,
      ];
    case "nexthop":
      return [`nexthop replace id ${value} via ${second} dev ${first} onlink proto ${routeProtocol}`];
    case "neighbour":
      return [`neighbour replace ${second} lladdr ${value} dev ${first} nud permanent`];
    case "route": {
      // The kernel refuses one that is there already; replacing could take a route of the host's own away.
      const verb = present === undefined ? "add" : "replace";
      return [
        value === "unreachable"
          ? `route ${verb} unreachable ${key} proto ${routeProtocol}`
          : `route ${verb} ${key} ${value} proto ${routeProtocol}`,
      ];
    }
    case "return":
      return [`route replace ${everywhere(key)} ${value} table ${key} proto ${routeProtocol}`];
    case "rule": {
      const add = `rule add ${ruleText(first, value)}`;
      return present === undefined ? [add] : [`rule delete ${ruleText(first, present.value)}`, add];
    }
    case "forward":
      return [`fdb replace ${second} dev ${first} ${value} static`];
  }
  return unreachable(kind);
}

function addressOptions(address: string): string {
  if (isIpv6(address)) return " nodad"; // Its owner is decided: nobody is to be asked, and nothing waited for.
  return address.startsWith("169.254.") ? " scope link" : "";
}

function removal(object: KernelObject): Step {
  return {
    action: "remove",
    tool: toolOf(object),
    line: removalLine(object),
    object,
  };
}

function removalLine({ kind, key, value, device }: KernelObject): string {
  const [first = "", second = ""] = key.split(" ");
  switch (kind) {
    case "link":
    case "port":
    case "mtu": // It is there as long as its bridge.
      return `link delete dev ${device}`;
    case "address":
      return `address delete ${second} dev ${first}`;
    case "nexthop":
      return `nexthop delete id ${value}`;
    case "neighbour":
      return `neighbour delete ${second} dev ${first}`;
    case "route":
      return value === "unreachable"
        ? `route delete unreachable ${key} proto ${routeProtocol}`
        : `route delete ${key} proto ${routeProtocol}`;
    case "return":
      return `route delete ${everywhere(key)} table ${key} proto ${routeProtocol}`;
    case "rule":
      return `rule delete ${ruleText(first, value)}`;
    case "forward":
      return `fdb delete ${second} dev ${first} ${value}`;
  }
  return unreachable(kind);
}

/** "default" would be of IPv4. */
function everywhere(table: string): string {
  return isIpv6Return(table) ? "::/0" : "default";
}

function ruleText(mark: string, value: string): string {
  const [preference = "", table = ""] = value.split(" ");
  return `pref ${preference} fwmark ${mark}/${markMask} lookup ${table} protocol ${routeProtocol}`;
}
