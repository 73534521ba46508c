/**
 * The tunnels that carry encrypted networks between hosts: what there should be × what there is → commands. Pure.
 *
 * A WireGuard device for each of this host's keys, usually one. All of it is the underlay of encrypted networks: their VXLAN
 * goes from tunnel address to tunnel address, by these devices and no other (docs/decisions/0077).
 */
import type { TunnelKey } from "../../model/node.ts";
import { tunnelBlock, vxlanOverheadBytes } from "../../model/network.ts";
import { addressNumber, addressText, parseCidr } from "./addresses.ts";
import type { OverlayHost, OverlayNetwork, WantedNetworks } from "./network.ts";
import { deviceGroup, resolveNetwork, vxlanPort } from "./objects.ts";
import type { HookChain, Ruleset, Table } from "./ruleset.ts";

/** The port of a host's first slot; the second has the next one. */
export const tunnelPort = 51_822;
const slots = [0, 1] as const satisfies readonly TunnelKey["slot"][];
/** The table that keeps encrypted networks inside their tunnels. */
export const tunnelTable: Table = { family: "ip", name: "shoal_tunnel" };
/** Peers that one command line names. */
const peersAtOnce = 500;
/** It outlives us, whoever ends our group, and has no log, which would hold on to our pipes. */
const alone = ["env", "-u", "LOG_LEVEL", "-u", "WG_PROCESS_FOREGROUND", "setsid", "--wait"] as const;
/** A peer whose handshake is older has no session; in seconds (WireGuard, REJECT_AFTER_TIME). */
const sessionSeconds = 180;

export interface TunnelDevice {
  readonly name: string;
  /** Own address inside the tunnel, no prefix length. */
  readonly address: string;
  readonly port: number;
  readonly publicKey: string;
  readonly mtu: number;
}

export interface TunnelPeer {
  readonly publicKey: string;
  /** "192.0.2.1:51822" */
  readonly endpoint: string;
  /** Addresses inside the tunnel that are the peer's and nobody else's, as `wg` prints them. */
  readonly allowedIps: string;
}

export interface WantedTunnel {
  /** The one that packets leave by first. */
  readonly devices: readonly TunnelDevice[];
  /** The same on every device. */
  readonly peers: readonly TunnelPeer[];
}

export interface ObservedDevice extends TunnelDevice {
  readonly isUp: boolean;
  readonly isOurs: boolean;
  readonly peers: ReadonlyMap<string, TunnelPeer & { readonly handshakeAtSeconds: number }>;
}

/** How WireGuard runs on this host: in the kernel, or as a process for each device. */
export type TunnelMode = "kernel" | "process";

export interface TunnelStep {
  readonly argv: readonly string[];
  /** What is amiss before it, in words. */
  readonly finding: string;
}

export function tunnelDevice(slot: TunnelKey["slot"]): string {
  return `shoal-wg${slot}`;
}

export const tunnelDevices: readonly string[] = slots.map(tunnelDevice);

/** A host's address inside the tunnel; each slot has a half of the block. */
export function tunnelAddress(index: number, slot: TunnelKey["slot"]): string {
  return addressText(parseCidr(tunnelBlock).first + slot * 2 ** 16 + index);
}

/** Where a host is reached by tunnel; undefined while it is not known to have a key. */
export function tunnelAddressOf({
  index,
  tunnelKeys: [first] = [],
}: Pick<OverlayHost, "index" | "tunnelKeys">): string | undefined {
  return first === undefined ? undefined : tunnelAddress(index, first.slot);
}

export function encryptedNetworks(wanted: WantedNetworks | undefined): OverlayNetwork[] {
  return (wanted?.networks ?? []).filter(({ encrypted }) => encrypted === true);
}

/** @returns undefined where no network is encrypted, or the host's own number is not known yet. */
export function wantedTunnel(
  wanted: WantedNetworks | undefined,
  keys: readonly TunnelKey[],
  underlayMtu: number,
): WantedTunnel | undefined {
  const encrypted = encryptedNetworks(wanted);
  const { nodeIndex } = wanted?.self ?? {};
  if (wanted === undefined || nodeIndex === undefined || encrypted.length === 0) return undefined;
  const mtus = encrypted.map((network) => resolveNetwork(network, underlayMtu).mtu);
  const mtu = Math.max(...mtus) + vxlanOverheadBytes;
  return {
    devices: keys.map(({ publicKey, slot }) => ({
      name: tunnelDevice(slot),
      address: tunnelAddress(nodeIndex, slot),
      port: tunnelPort + slot,
      publicKey,
      mtu,
    })),
    peers: peersOf(tunnelHosts(wanted)),
  };
}

/** The other hosts that this one shares an encrypted network with. */
export function tunnelHosts(wanted: WantedNetworks): OverlayHost[] {
  const encrypted = encryptedNetworks(wanted);
  const ids = new Set(encrypted.map(({ id }) => id));
  const sharing = new Set(
    wanted.endpoints.flatMap(({ networkId, nodeId }) => (ids.has(networkId) ? [nodeId] : [])),
  );
  const everyone = encrypted.some(({ ingress }) => ingress);
  return wanted.hosts
    .filter(({ nodeId }) => nodeId !== wanted.self.nodeId && (everyone || sharing.has(nodeId)))
    .toSorted((a, b) => a.index - b.index);
}

/**
 * A host that left the cluster and joined again is two nodes until the old one is removed, perhaps with one key. A key that
 * two hosts claim is the first one's.
 */
function peersOf(hosts: readonly OverlayHost[]): TunnelPeer[] {
  const peers = new Map<string, { endpoint: string; addresses: string[] }>();
  for (const { index, address, tunnelKeys = [] } of hosts) {
    if (addressNumber(address) === undefined) continue; // As VXLAN, tunnels are for IPv4.
    for (const { publicKey, slot } of tunnelKeys) {
      const endpoint = `${address}:${tunnelPort + slot}`;
      const known = peers.get(publicKey);
      if (known === undefined) peers.set(publicKey, { endpoint, addresses: [tunnelAddress(index, slot)] });
      else if (known.endpoint === endpoint) known.addresses.push(tunnelAddress(index, slot));
    }
  }
  return [...peers].map(([publicKey, { endpoint, addresses }]) => {
    return { publicKey, endpoint, allowedIps: allowedText(addresses) };
  });
}

/**
 * What `wg` and `ip` are to do, in order. Devices that are wanted no more are left for `removalSteps`, once no VXLAN goes by them.
 *
 * @param observed - By name; devices that are not there are absent.
 * @param before - Peers as they were wanted when that was last brought about.
 * @param keyFile - Where the private key of a device is.
 * @param nowSeconds - Unix time.
 */
export function tunnelSteps(
  { devices, peers }: WantedTunnel,
  observed: ReadonlyMap<string, ObservedDevice>,
  at: {
    readonly mode: TunnelMode;
    readonly keyFile: (device: string) => string;
    readonly nowSeconds: number;
    readonly before: readonly TunnelPeer[];
  },
): TunnelStep[] {
  const earlier = new Map(at.before.map(({ publicKey, endpoint }) => [publicKey, endpoint]));
  const hasMoved = ({ publicKey, endpoint }: TunnelPeer): boolean =>
    (earlier.get(publicKey) ?? endpoint) !== endpoint;
  return devices.flatMap((device) => {
    const { name, mtu, address } = device;
    const present = observed.get(name);
    const steps: TunnelStep[] = [];
    const add = (finding: string, ...argv: readonly string[]): void => void steps.push({ argv, finding });
    if (present === undefined) {
      const make =
        at.mode === "kernel"
          ? ["ip", "link", "add", name, "mtu", String(mtu), "group", String(deviceGroup), "type", "wireguard"]
          : [...alone, "wireguard-go", name];
      add(`the device ${name} is gone`, ...make);
    }
    if (present?.publicKey !== device.publicKey || present.port !== device.port) {
      const key = ["private-key", at.keyFile(name), "listen-port", String(device.port)];
      add(`the key of ${name} was changed`, "wg", "set", name, ...key);
    }
    const changes = peerChanges(peers, present?.peers ?? new Map(), at.nowSeconds, hasMoved);
    for (let from = 0; from < changes.length; from += peersAtOnce) {
      const some = changes.slice(from, from + peersAtOnce);
      const named = some.map(({ text }) => text).join(", ");
      add(
        `the peers of ${name} were changed: ${named}`,
        "wg",
        "set",
        name,
        ...some.flatMap(({ args }) => args),
      );
    }
    if (present?.mtu !== mtu || !present.isUp || !present.isOurs) {
      const set = ["mtu", String(mtu), "group", String(deviceGroup), "up"];
      add(`the device ${name} was changed`, "ip", "link", "set", "dev", name, ...set);
    }
    if (present?.address !== address) {
      if (present !== undefined && present.address !== "") {
        add(`the address of ${name} was changed`, "ip", "address", "flush", "dev", name);
      }
      add(`the address of ${name} is gone`, "ip", "address", "replace", `${address}/32`, "dev", name);
    }
    // Others still have sessions with the device that was there before, which a new one cannot read: it speaks first.
    if (present?.publicKey !== device.publicKey) {
      for (const keepalive of ["25", "off"]) {
        for (let from = 0; from < peers.length; from += peersAtOnce) {
          const each = peers.slice(from, from + peersAtOnce);
          const spoken = each.flatMap(({ publicKey }) => [
            "peer",
            publicKey,
            "persistent-keepalive",
            keepalive,
          ]);
          add(`the key of ${name} was changed`, "wg", "set", name, ...spoken);
        }
      }
    }
    // A device that is made anew lacks all that is on it.
    return present === undefined
      ? steps.map((step) => ({ ...step, finding: steps[0]?.finding ?? "" }))
      : steps;
  });
}

/** Takes away devices that are not wanted; a process that runs one ends with it. */
export function removalSteps(
  wanted: WantedTunnel | undefined,
  observed: ReadonlyMap<string, ObservedDevice>,
): TunnelStep[] {
  const kept = new Set(wanted?.devices.map(({ name }) => name));
  return [...observed.keys()]
    .filter((name) => !kept.has(name))
    .map((name) => ({
      argv: ["ip", "link", "delete", "dev", name],
      finding: `the device ${name} is not wanted`,
    }));
}

function peerChanges(
  wanted: readonly TunnelPeer[],
  present: ObservedDevice["peers"],
  nowSeconds: number,
  hasMoved: (peer: TunnelPeer) => boolean,
): { readonly args: readonly string[]; readonly text: string }[] {
  const keys = new Set(wanted.map(({ publicKey }) => publicKey));
  const gone = [...present.keys()]
    .filter((key) => !keys.has(key))
    .map((key) => ({ args: ["peer", key, "remove"], text: `${key} is nobody's` }));
  const put = wanted.flatMap((peer) => {
    const { publicKey, endpoint, allowedIps } = peer;
    const known = present.get(publicKey);
    // A peer that is heard may answer from another of its addresses; only one that is not heard is put back, or whose host
    // has another address than when it was heard.
    const isHeard =
      known !== undefined && nowSeconds - known.handshakeAtSeconds < sessionSeconds && !hasMoved(peer);
    if (known?.allowedIps === allowedIps && (isHeard || known.endpoint === endpoint)) return [];
    const args = ["peer", publicKey, "endpoint", endpoint, "allowed-ips", allowedIps];
    return [{ args, text: known === undefined ? `${publicKey} is gone` : `${publicKey} was changed` }];
  });
  return [...gone, ...put];
}

/**
 * @param link - What `ip -j address show dev …` prints.
 * @param dump - What `wg show … dump` prints; empty when the device does not answer.
 */
export function parseDevice(name: string, link: string, dump: string): ObservedDevice | undefined {
  const parsed: unknown = JSON.parse(link);
  const [row] = Array.isArray(parsed) ? (parsed as readonly Readonly<Record<string, unknown>>[]) : [];
  if (row === undefined) return undefined;
  const [own = "", ...lines] = dump.trimEnd().split("\n");
  const [, publicKey = "", port = "0"] = own.split("\t");
  const list = (value: unknown): readonly Readonly<Record<string, unknown>>[] => {
    return Array.isArray(value) ? value : [];
  };
  const addresses = list(row["addr_info"]).filter(({ family }) => family === "inet");
  return {
    name,
    publicKey,
    port: Number(port),
    mtu: Number(row["mtu"]),
    isUp: Array.isArray(row["flags"]) && row["flags"].includes("UP"),
    isOurs: row["group"] === String(deviceGroup),
    address: addresses.map(({ local }) => String(local)).join(" "),
    peers: new Map(
      lines.map((line) => {
        const [key = "", , endpoint = "", allowed = "", handshake = "0"] = line.split("\t");
        const allowedIps = allowedText(allowed.split(",").map((block) => block.replace("/32", "")));
        return [key, { publicKey: key, endpoint, allowedIps, handshakeAtSeconds: Number(handshake) }];
      }),
    ),
  };
}

function allowedText(addresses: readonly string[]): string {
  return addresses
    .toSorted()
    .map((address) => `${address}/32`)
    .join(",");
}

/**
 * Keeps VXLAN of encrypted networks in the tunnels, whatever else goes wrong: what would leave by another device, or came by
 * one, is dropped; and nothing but VXLAN and the answers of a ping comes out of a tunnel. The kernel's own routes lead no task
 * into one.
 *
 * @param vnis - Of the encrypted networks.
 */
export function tunnelRules(vnis: readonly number[]): Ruleset {
  const inside = `{ ${tunnelDevices.map((name) => `"${name}"`).join(", ")} }`;
  const sealed = `{ ${vnis.toSorted((a, b) => a - b).join(", ")} }`;
  // The network identifier: 24 bits, 4 bytes behind the 8 of UDP's header (RFC 7348, section 5).
  const vxlan = `udp dport ${vxlanPort} @th,96,24 ${sealed} drop`;
  return {
    containers: new Map(),
    chains: new Map(),
    hooks: new Map([
      [
        "arriving",
        hook("prerouting", "raw", [
          `iifname != ${inside} ${vxlan}`,
          `iifname ${inside} meta l4proto != { icmp, udp } drop`,
          `iifname ${inside} udp dport != ${vxlanPort} drop`,
        ]),
      ],
      ["leaving", hook("output", "filter", [`oifname != ${inside} ${vxlan}`])],
      ["passing", hook("forward", "filter", [`iifname ${inside} drop`, `oifname ${inside} drop`])],
    ]),
  };
}

function hook(name: string, priority: string, rules: readonly string[]): HookChain {
  return { head: `type filter hook ${name} priority ${priority}; policy accept;`, rules };
}
