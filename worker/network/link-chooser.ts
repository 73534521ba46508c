/** Remembers which address of a bridge was given last, so that one that was just given back is not the next to be given. */
import type { TaskId } from "../../model/ids.ts";
import { addressNumber, parseCidr } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import type { AttachRequest, BridgeNetwork, WantedNetworks } from "./network.ts";
import { prepareLinks, type PreparedLink } from "./prepare.ts";
import { takenOnBridge } from "./views.ts";

interface Host {
  readonly wanted: WantedNetworks | undefined;
  readonly underlayMtu: number;
  readonly tunnelProblem?: string;
  readonly bridges: readonly BridgeNetwork[];
  readonly records: ReadonlyMap<TaskId, TaskRecord>;
}

export class LinkChooser {
  /** By the bridge's device. */
  readonly #lastPicked = new Map<string, number>();

  /** As `prepareLinks`. Whoever calls records the links before anybody else's are chosen. */
  choose(
    request: AttachRequest,
    { records, ...host }: Host,
    present: readonly PreparedLink[],
  ): readonly PreparedLink[] {
    const links = prepareLinks(
      request,
      {
        ...host,
        taken: (device) => takenOnBridge(records, device),
        lastPicked: (device) => this.#lastPicked.get(device) ?? 0,
      },
      present,
    );
    for (const { address } of links) {
      const isNew = !present.some((link) => link.address.device === address.device);
      if (!isNew || !host.bridges.some(({ device }) => device === address.bridge)) continue;
      this.#lastPicked.set(address.bridge, addressNumber(parseCidr(address.address).address) ?? 0);
    }
    return links;
  }
}
