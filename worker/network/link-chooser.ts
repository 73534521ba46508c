/** Remembers which address of a bridge was given last, so that one that was just given back is not the next to be given. */
import type { ClusterError } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import { withoutPrefix } from "../../model/address.ts";
import { addressValue } from "./addresses.ts";
import type { TaskRecord } from "./journal.ts";
import type { AttachRequest, BridgeNetwork, WantedNetworks } from "./network.ts";
import { prepareLinks, type PreparedLink } from "./prepare.ts";
import { takenOnBridge } from "./views.ts";

interface Host {
  readonly wanted: WantedNetworks | undefined;
  readonly underlayMtu: number;
  readonly tunnelProblem?: string;
  readonly refusal?: (networkId: string) => ClusterError | undefined;
  readonly bridges: readonly BridgeNetwork[];
  readonly records: ReadonlyMap<TaskId, TaskRecord>;
}

export class LinkChooser {
  /** By the bridge's device and the family. */
  readonly #lastPicked = new Map<string, number | bigint>();

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
        lastPicked: (device, family) => this.#lastPicked.get(`${device} ${family}`) ?? 0,
      },
      present,
    );
    for (const { address } of links) {
      const isNew = !present.some((link) => link.address.device === address.device);
      if (!isNew || !host.bridges.some(({ device }) => device === address.bridge)) continue;
      this.#remember(`${address.bridge} ipv4`, address.address);
      if (address.ipv6 !== undefined) this.#remember(`${address.bridge} ipv6`, address.ipv6.address);
    }
    return links;
  }

  #remember(key: string, address: string): void {
    this.#lastPicked.set(key, addressValue(withoutPrefix(address)) ?? 0);
  }
}
