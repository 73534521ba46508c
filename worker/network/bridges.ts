/** Bridge networks of the host: its own, and what those of users must be. Pure. */
import { isIpv6 } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import { addressText, addressValue, blockText, contains, parseBlock, parseCidr } from "./addresses.ts";
import type { BridgeBlock, BridgeNetwork } from "./network.ts";
import { hostBridge } from "./objects.ts";

export const bridgeMtu = 1500;
/** What the kernel takes as the name of a device. */
const deviceForm = /^[^\s/:.][^\s/:]{0,14}$/;

/** The one of tasks and containers without a network. @param subnet - CIDR, whose first address is the gateway's. */
export function ownBridge(subnet: string): BridgeNetwork {
  const block = parseCidr(subnet);
  return {
    id: "",
    name: "bridge",
    device: hostBridge,
    subnet: blockText(block),
    gateway: addressText(block.first + 1),
    reserved: [],
    internal: false,
    masquerade: true,
    mutual: true,
    hostAddress: "",
    mtu: bridgeMtu,
  };
}

/** @throws {ClusterError} `invalid-argument` for what no kernel could hold beside the rest. */
export function checkBridges(bridges: readonly BridgeNetwork[]): void {
  const seen: BridgeNetwork[] = [];
  for (const bridge of bridges) {
    const { name, device, subnet } = bridge;
    parseCidr(subnet);
    for (const { subnet: block, gateway, range } of blocksOf(bridge)) {
      if (!contains(parseBlock(block), addressValue(gateway) ?? -1)) {
        throw invalid(`network ${name}: the gateway ${gateway} is not in ${block}`);
      }
      if (range !== undefined) parseBlock(range);
    }
    if (!deviceForm.test(device)) throw invalid(`network ${name}: no device can be called "${device}"`);
    const other = seen.find((each) => each.device === device || meet(each, bridge));
    if (other !== undefined) {
      throw invalid(
        `network ${name} (${device}, ${subnet}) and ${other.name} (${other.device}, ${other.subnet})`,
      );
    }
    seen.push(bridge);
  }
}

function meet(a: BridgeNetwork, b: BridgeNetwork): boolean {
  return blocksOf(a).some((one) => blocksOf(b).some((other) => overlap(one.subnet, other.subnet)));
}

/** Of each of its families. */
export function blocksOf(bridge: BridgeNetwork): readonly BridgeBlock[] {
  return bridge.ipv6 === undefined ? [bridge] : [bridge, bridge.ipv6];
}

/** False for blocks of different families. */
export function overlap(a: string, b: string): boolean {
  const [first, second] = [parseBlock(a), parseBlock(b)];
  return isIpv6(a) === isIpv6(b) && first.first <= second.last && second.first <= first.last;
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
