/** Bridge networks of the host: its own, and what those of users must be. Pure. */
import { ClusterError } from "../../model/errors.ts";
import { addressNumber, addressText, blockText, contains, parseCidr } from "./addresses.ts";
import type { BridgeNetwork } from "./network.ts";
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
    const { name, device, subnet, gateway, range } = bridge;
    const block = parseCidr(subnet);
    if (!contains(block, addressNumber(gateway) ?? -1)) {
      throw invalid(`network ${name}: the gateway ${gateway} is not in ${subnet}`);
    }
    if (range !== undefined) parseCidr(range);
    if (!deviceForm.test(device)) throw invalid(`network ${name}: no device can be called "${device}"`);
    const other = seen.find((each) => each.device === device || overlap(each.subnet, subnet));
    if (other !== undefined) {
      throw invalid(
        `network ${name} (${device}, ${subnet}) and ${other.name} (${other.device}, ${other.subnet})`,
      );
    }
    seen.push(bridge);
  }
}

export function overlap(a: string, b: string): boolean {
  const [first, second] = [parseCidr(a), parseCidr(b)];
  return first.first <= second.last && second.first <= first.last;
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
