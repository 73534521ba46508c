/** The networks that users made on this host: records, and the kernel's side by `../network`. */
import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";

import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import { ownBridge } from "../network/bridges.ts";
import type { AttachedAddress, BridgeNetwork, HostNetwork } from "../network/network.ts";
import { parseIpv6Routes, parseRoutes, readRouteFile, type RouteFile } from "../network/routes.ts";
import { bridgeOf, bridgeOptions, type LocalNetwork, type LocalSubnet } from "./record.ts";
import { parseRequest, type SubnetRequest } from "./request.ts";
import { NetworkStore } from "./store.ts";
import {
  checkFree,
  chooseSubnet,
  defaultPools,
  freeGateway,
  ipv6Pools,
  type TakenBlock,
  takenByRoute,
} from "./subnet.ts";

export interface LocalNetworksDeps {
  readonly clock: Clock;
  readonly random: Random;
  /** `HostSettings.stateDir` */
  readonly stateDir: string;
  readonly hostname: string;
  /** Subnet of the host's own bridge. */
  readonly bridgeSubnet: string;
  /** Routes of the host as in that file of `/proc/net`; default: the file, or nothing where there is no IPv6. */
  readonly readRoutes?: (file: RouteFile) => Promise<string>;
}

/** Any network of this host, those that every host has included. */
export interface NamedNetwork {
  readonly id: string;
  readonly name: string;
  readonly driver: string;
}

/** A container on a network. */
export interface NetworkUser {
  readonly containerId: string;
  readonly address: AttachedAddress;
}

export const predefinedNetworks = [
  { name: "bridge", driver: "bridge" },
  { name: "host", driver: "host" },
  { name: "none", driver: "null" },
] as const;

/** More would be more than the kernel's rules are read well with. */
const networkLimit = 1_000;
const restoreMs = 60_000;
const globalIdBytes = 5;

export class LocalNetworks {
  readonly #deps: LocalNetworksDeps;
  readonly #store: NetworkStore;
  #networks: readonly LocalNetwork[];
  #network: HostNetwork | undefined;
  #predefinedAtMs = 0;
  /** Changes happen one after another: each looks at all there are. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(deps: LocalNetworksDeps, store: NetworkStore, networks: readonly LocalNetwork[]) {
    this.#deps = deps;
    this.#store = store;
    this.#networks = networks;
    const { stateDir, hostname } = deps;
    this.predefined = predefinedNetworks.map((network) => ({
      ...network,
      id: createHash("sha256").update(`${stateDir}\n${hostname}\n${network.name}`).digest("hex"),
    }));
  }

  /** Reads the records; `use` is due before anything is changed. */
  static async open(deps: LocalNetworksDeps): Promise<LocalNetworks> {
    const store = new NetworkStore(`${deps.stateDir}/networks`);
    const networks = new LocalNetworks(deps, store, await store.load());
    const { birthtimeMs, ctimeMs } = await stat(deps.stateDir);
    networks.#predefinedAtMs = birthtimeMs > 0 ? birthtimeMs : ctimeMs;
    return networks;
  }

  /** Those that every host has. */
  readonly predefined: readonly NamedNetwork[];

  /** Since when there are those: as long as the host's state. */
  get predefinedAtMs(): number {
    return this.#predefinedAtMs;
  }

  /** What the host's network is to be opened with. */
  get bridges(): BridgeNetwork[] {
    return this.#networks.map(bridgeOf);
  }

  /** The host's network, opened with `bridges`. */
  use(network: HostNetwork): void {
    this.#network = network;
  }

  list(): readonly LocalNetwork[] {
    return this.#networks;
  }

  find(id: string): LocalNetwork | undefined {
    return this.#networks.find((network) => network.id === id);
  }

  /**
   * By id, then name, then unique prefix of an id.
   *
   * @throws {ClusterError} `invalid-argument` for a prefix of several.
   */
  resolve(term: string): NamedNetwork | undefined {
    const own = this.#networks.map(({ id, name }) => ({ id, name, driver: "bridge" }));
    const all = [...this.predefined, ...own];
    const exact = all.find(({ id }) => id === term) ?? all.find(({ name }) => name === term);
    if (exact !== undefined || term === "") return exact;
    const found = all.filter(({ id }) => id.startsWith(term));
    if (found.length > 1) {
      throw new ClusterError(
        "invalid-argument",
        `network ${term} is ambiguous (${found.length} matches found based on ID prefix)`,
      );
    }
    return found[0];
  }

  /**
   * @param others - Names and blocks that others have: networks of the cluster.
   * @throws {ClusterError} `name-conflict`; `permission-denied` for a subnet that is taken; `invalid-argument`.
   */
  create(body: unknown, others: readonly TakenBlock[], signal: AbortSignal): Promise<LocalNetwork> {
    return this.#next(async () => {
      const { clock, random } = this.#deps;
      const request = parseRequest(body);
      const { name } = request;
      if (this.#networks.some((network) => network.name === name)) throw nameTaken(name);
      if (this.#networks.length >= networkLimit) {
        throw new ClusterError("resource-exhausted", `a host has at most ${networkLimit} networks`);
      }
      const taken = [...others, ...(await this.#taken())]; // A route of the host may be that of such a network.
      const { ipv6, ...ipv4 } = request;
      const network: LocalNetwork = {
        ...ipv4,
        id: newContainerId(random), // Networks have ids of the same form.
        createdAtMs: clock.now(),
        ...complete(ipv4, taken, defaultPools()),
        ...(ipv6 !== undefined && { ipv6: complete(ipv6, taken, ipv6Pools(this.#globalId())) }),
      };
      const { device } = bridgeOf(network);
      const same = this.#networks.find((each) => bridgeOf(each).device === device);
      if (same !== undefined || device === ownBridge(this.#deps.bridgeSubnet).device) {
        const holder = same?.name ?? "bridge";
        throw new ClusterError(
          "permission-denied",
          `cannot create network ${network.id} (${device}): conflicts with network ${holder} (${device}): networks have same bridge name`,
        );
      }
      await this.#put([...this.#networks, network], signal, { id: network.id, device });
      try {
        await this.#store.save(network);
      } catch (error) {
        await this.#restore(this.#networks.filter(({ id }) => id !== network.id));
        throw error;
      }
      return network;
    });
  }

  /** @throws {ClusterError} `permission-denied` while containers are on it. */
  remove(network: LocalNetwork, containerName: (id: string) => string, signal: AbortSignal): Promise<void> {
    return this.#next(async () => {
      const users = await this.users(network.id);
      if (users.length > 0) {
        const list = users.map(
          ({ containerId }) =>
            `name:${JSON.stringify(containerName(containerId))} id:"${containerId.slice(0, 12)}"`,
        );
        throw new ClusterError(
          "permission-denied",
          `error while removing network: network ${network.name} has active endpoints (${list.join(", ")})`,
        );
      }
      const before = this.#networks;
      await this.#put(
        before.filter(({ id }) => id !== network.id),
        signal,
      );
      try {
        await this.#store.remove(network.id);
      } catch (error) {
        await this.#restore(before);
        throw error;
      }
    });
  }

  /** Containers and tasks that are on a network now. @param id - Empty for the host's own bridge. */
  async users(id: string): Promise<NetworkUser[]> {
    const records = await this.#kernel().list();
    return records.flatMap(({ containerId, attached }) => {
      const address =
        attached.kind === "namespace"
          ? attached.addresses.find(({ networkId }) => networkId === id)
          : undefined;
      return address === undefined ? [] : [{ containerId, address }];
    });
  }

  /** All or nothing: after a failure the former ones are in force. @param added - Whose failure undoes it. */
  async #put(
    networks: readonly LocalNetwork[],
    signal: AbortSignal,
    added?: { readonly id: string; readonly device: string },
  ): Promise<void> {
    const before = this.#networks;
    try {
      const failures = await this.#kernel().applyBridges(networks.map(bridgeOf), signal);
      const failure = added === undefined ? undefined : failures.get(added.id);
      if (added !== undefined && failure !== undefined) throw notMade(added, failure);
    } catch (error) {
      await this.#restore(before);
      throw error;
    }
    this.#networks = networks;
  }

  /**
   * Also for a caller that gave up. What the kernel refuses of it, the host's network tries again by itself: the failure that
   * led here says more.
   */
  async #restore(networks: readonly LocalNetwork[]): Promise<void> {
    this.#networks = networks;
    await this.#kernel()
      .applyBridges(networks.map(bridgeOf), AbortSignal.timeout(restoreMs))
      .catch(() => undefined);
  }

  async #taken(): Promise<TakenBlock[]> {
    const { bridgeSubnet, readRoutes = readRouteFile } = this.#deps;
    return [
      { block: ownBridge(bridgeSubnet).subnet, by: "network bridge" },
      ...this.#networks.flatMap(({ subnet, ipv6, name }) =>
        [subnet, ...(ipv6 === undefined ? [] : [ipv6.subnet])].map((block) => ({
          block,
          by: `network ${name}`,
        })),
      ),
      ...parseRoutes(await readRoutes("route")).map(takenByRoute),
      ...parseIpv6Routes(await readRoutes("ipv6_route")).map(takenByRoute),
    ];
  }

  /** The same for as long as the host has its state. */
  #globalId(): bigint {
    const { stateDir, hostname } = this.#deps;
    const digest = createHash("sha256").update(`${stateDir}\n${hostname}`).digest();
    return BigInt(`0x${digest.subarray(0, globalIdBytes).toString("hex")}`);
  }

  #kernel(): HostNetwork {
    if (this.#network === undefined) throw new Error("assertion failed: networks before the host's network");
    return this.#network;
  }

  #next<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#turn.then(work, work);
    this.#turn = done.catch(() => undefined);
    return done;
  }
}

/** What was asked for, and what was left open. @throws {ClusterError} as `checkFree` and `chooseSubnet`. */
function complete(
  { subnet: asked, gateway, range, auxiliary }: SubnetRequest,
  taken: readonly TakenBlock[],
  pools: Generator<string>,
): LocalSubnet {
  if (asked !== undefined) checkFree(asked, taken);
  const subnet = asked ?? chooseSubnet(taken, pools);
  return {
    subnet,
    gateway: gateway ?? freeGateway(subnet, range, Object.values(auxiliary)),
    ownSubnet: asked !== undefined,
    ...(range !== undefined && { range }),
    auxiliary,
  };
}

/** What the kernel says of a name that is taken is no failure of ours: somebody else has made a device of it. */
function notMade(
  { id, device }: { readonly id: string; readonly device: string },
  failure: string,
): ClusterError {
  if (!failure.includes("File exists"))
    return new ClusterError("internal", `cannot create the network: ${failure}`);
  return new ClusterError(
    "permission-denied",
    `cannot create network ${id} (${device}): this host has a device ${device} that is no network's; choose another ${bridgeOptions.device}`,
  );
}

export function nameTaken(name: string): ClusterError {
  return new ClusterError("name-conflict", `network with name ${name} already exists`);
}
