import { isIpv6, parseCidr, printCidr, type CidrBlock, type IpAddress } from "../../model/address.ts";
import type { Attachment } from "../../model/attachment.ts";
import { assert, errorText } from "../../model/errors.ts";
import type { AttachmentId, NetworkId, ServiceId, TaskId } from "../../model/ids.ts";
import { type Network, type NetworkState, type Subnet, subnetsOf } from "../../model/network.ts";
import type {
  NetworkReference,
  PortProtocol,
  PortSpec,
  Service,
  ServiceEndpoint,
  VirtualIp,
} from "../../model/service.ts";
import { isTerminal, type NetworkAttachment, type Task } from "../../model/task.ts";
import { NetworkPool } from "./address.ts";
import { earlierPort } from "./endpoint.ts";
import { PortBook } from "./port.ts";
import { chooseSubnets, type SubnetRequest } from "./subnet.ts";
import { pickVni } from "./vni.ts";

/** A decision that the caller commits, or the reason why there is none. */
export type Outcome<T> =
  | { readonly kind: "allocated"; readonly value: T }
  | { readonly kind: "refused"; readonly reason: string };

/** Where a task, a service or a container is on a network, in CIDR form. */
export interface Place {
  /** Empty on a host's own networks. */
  readonly address: string;
  /** Absent on networks without IPv6. */
  readonly ipv6?: string;
}

/** What else there is when a service is given what it lacks. */
export interface AllocationScene {
  readonly network: (id: NetworkId) => Network | undefined;
  /** Keys of all ports that services open on their own hosts. */
  readonly hostPorts: () => ReadonlySet<string>;
}

interface KnownNetwork {
  readonly network: Network;
  readonly blocks: readonly CidrBlock[];
  readonly state: NetworkState;
  readonly pool: NetworkPool;
}

const nothing: ServiceEndpoint = { ports: [], virtualIps: [] };

/**
 * What is given out: subnets, network identifiers, addresses and published ports. Rebuilt from the store by every leader;
 * everything stored is claimed before anything new is given.
 */
export class AllocationBook {
  readonly #networks = new Map<NetworkId, KnownNetwork>();
  /** Networks that need an address of ours and have no subnet yet, with the reason. */
  readonly #refused = new Map<NetworkId, string>();
  readonly #tasks = new Map<TaskId, readonly NetworkAttachment[]>();
  readonly #services = new Map<ServiceId, ServiceEndpoint>();
  readonly #attachments = new Map<AttachmentId, VirtualIp>();
  readonly #ports = new PortBook<ServiceId>();

  /** Takes note of a network that has its subnet. */
  claimNetwork(network: Network): void {
    const { state } = network;
    if (state === undefined || this.#networks.has(network.id)) return;
    const subnets = subnetsOf(state);
    const blocks = subnets.flatMap(({ subnet }) => parseCidr(subnet) ?? []);
    assert(blocks.length === subnets.length, `stored subnets of network ${network.id} cannot be parsed`);
    const pool = new NetworkPool(subnets.map((subnet) => ({ ...subnet, ...rangeOf(network, subnet) })));
    this.#networks.set(network.id, { network, blocks, state, pool });
    this.#refused.delete(network.id);
  }

  /**
   * Takes note of a task's stored addresses.
   * @returns Whether all of them were free; if not, another task has one of them.
   */
  claimTask(task: Task): boolean {
    if (this.#tasks.has(task.id) || task.networks.length === 0 || isTerminal(task)) return true;
    const claimed = task.networks.filter((place) => place.address === "" || this.#claim(place));
    this.#tasks.set(task.id, claimed);
    return claimed.length === task.networks.length;
  }

  /**
   * Takes note of a service's stored virtual IPs and ports.
   * @returns Whether all of them were free; if not, another service has one of them.
   */
  claimService({ id, endpoint }: Service): boolean {
    if (endpoint === undefined || this.#services.has(id)) return true;
    const virtualIps = endpoint.virtualIps.filter((place) => this.#claim(place));
    const ports = endpoint.ports.filter(
      ({ publishMode, protocol, publishedPort }) =>
        publishMode === "host" || this.#ports.claim(protocol, publishedPort, id),
    );
    this.#services.set(id, { ports, virtualIps });
    return virtualIps.length === endpoint.virtualIps.length && ports.length === endpoint.ports.length;
  }

  /** As `claimTask`, for the container of an attachment. */
  claimAttachment({ id, networkId, address, ipv6 }: Attachment): boolean {
    if (this.#attachments.has(id) || address === undefined) return true;
    const place = { networkId, address, ...(ipv6 !== undefined && { ipv6 }) };
    if (!this.#claim(place)) return false;
    this.#attachments.set(id, place);
    return true;
  }

  /** Chooses subnet, gateway and identifier for an overlay and holds them. */
  allocateNetwork(
    network: Network,
    from: Pick<SubnetRequest, "pools" | "bits" | "ipv6Pool" | "hosts">,
  ): Outcome<NetworkState> {
    const known = [...this.#networks.values()];
    try {
      const taken = known.flatMap(({ blocks }) => blocks);
      const chosen = chooseSubnets(network.spec, { ...from, taken, ingress: network.spec.ingress });
      const vni = pickVni(network.spec.driverOptions, new Set(known.map(({ state }) => state.vni)));
      const state: NetworkState = { ...chosen, vni };
      this.claimNetwork({ ...network, state });
      return { kind: "allocated", value: state };
    } catch (error) {
      const reason = errorText(error);
      this.#refused.set(network.id, reason);
      return { kind: "refused", reason };
    }
  }

  /**
   * Chooses what a service lacks of virtual IPs and published ports, and keeps what it has; all or none. What it no longer
   * asks for stays its own until `settleService`: the choice may never be stored, and then it has that still.
   *
   * @param wanted - Where it is to have a virtual IP.
   */
  allocateService(
    service: Service,
    wanted: readonly NetworkId[],
    { network: find, hostPorts }: AllocationScene,
  ): Outcome<ServiceEndpoint> {
    const held = this.#services.get(service.id) ?? nothing;
    const made: VirtualIp[] = [];
    const virtualIps: VirtualIp[] = [];
    for (const networkId of wanted) {
      const known = held.virtualIps.find((each) => each.networkId === networkId);
      if (known !== undefined) {
        virtualIps.push(known);
        continue;
      }
      const place = this.#allocatePlace(networkId, find(networkId));
      if (place.kind === "refused") {
        this.#releaseAll(made);
        return place;
      }
      const virtualIp = { networkId, ...place.value };
      made.push(virtualIp);
      virtualIps.push(virtualIp);
    }
    const ports = this.#allocatePorts(service, hostPorts);
    if (ports.kind === "refused") {
      this.#releaseAll(made);
      return ports;
    }
    this.#services.set(service.id, {
      ports: [...held.ports, ...ports.value],
      virtualIps: [...held.virtualIps, ...made],
    });
    return { kind: "allocated", value: { ports: ports.value, virtualIps } };
  }

  /**
   * Releases whatever the service holds beside what is stored.
   *
   * @param stored - Absent when the service is gone.
   * @returns Whether there was anything to release.
   */
  settleService(id: ServiceId, stored: ServiceEndpoint | undefined): boolean {
    const held = this.#services.get(id);
    if (held === undefined) return false;
    const { ports, virtualIps } = stored ?? nothing;
    const unusedIps = held.virtualIps.filter(
      ({ networkId, address }) =>
        !virtualIps.some((each) => each.networkId === networkId && each.address === address),
    );
    this.#releaseAll(unusedIps);
    const unusedPorts = this.#releasePorts(id, held.ports, ports);
    if (stored === undefined) this.#services.delete(id);
    else this.#services.set(id, stored);
    return unusedIps.length + unusedPorts > 0;
  }

  /** Chooses an address on each network a task is attached to, and holds them; all or none. */
  allocateTask(
    id: TaskId,
    references: readonly NetworkReference[],
    find: (id: NetworkId) => Network | undefined,
  ): Outcome<readonly NetworkAttachment[]> {
    const attachments: NetworkAttachment[] = [];
    for (const { networkId, aliases } of references) {
      const place = this.#allocatePlace(networkId, find(networkId));
      if (place.kind === "refused") {
        this.#releaseAll(attachments);
        return place;
      }
      attachments.push({ networkId, ...place.value, aliases });
    }
    this.#tasks.set(id, attachments);
    return { kind: "allocated", value: attachments };
  }

  /** Holds the addresses that an attachment asks for, or some that are free. */
  allocateAttachment(
    { id, networkId, asked, askedIpv6 = "" }: Attachment,
    network: Network | undefined,
  ): Outcome<Place> {
    const place = this.#allocatePlace(networkId, network, [asked, askedIpv6]);
    if (place.kind === "allocated") this.#attachments.set(id, { networkId, ...place.value });
    return place;
  }

  releaseNetwork(id: NetworkId): void {
    this.#networks.delete(id);
    this.#refused.delete(id);
  }

  /** @returns Whether there was anything to release. */
  releaseTask(id: TaskId): boolean {
    const held = this.#tasks.get(id);
    if (held === undefined) return false;
    this.#tasks.delete(id);
    this.#releaseAll(held);
    return held.length > 0;
  }

  /** @returns Whether there was anything to release. */
  releaseAttachment(id: AttachmentId): boolean {
    const held = this.#attachments.get(id);
    if (held === undefined) return false;
    this.#attachments.delete(id);
    this.#releaseAll([held]);
    return true;
  }

  /** @returns whether all of it was free. What only half was stays taken, as somebody has it. */
  #claim({ networkId, ...place }: Place & { readonly networkId: NetworkId }): boolean {
    const pool = this.#networks.get(networkId)?.pool;
    return addressesOf(place).filter((address) => pool?.claim(address) === false).length === 0;
  }

  /**
   * An address of each of the network's families, or of none.
   *
   * @param asked - No prefix length, IPv4 first; empty for any.
   */
  #allocatePlace(
    id: NetworkId,
    network: Network | undefined,
    asked: readonly [ipv4: string, ipv6: string] = ["", ""],
  ): Outcome<Place> {
    if (network !== undefined && !isAllocated(network)) return { kind: "allocated", value: { address: "" } };
    const known = this.#known(id, network);
    if (known.kind === "refused") return known;
    const { pool } = known.value;
    const address = allocateAddress(known.value, 32, asked[0]);
    if (address.kind === "refused") return address;
    const place = { address: address.value };
    if (!pool.has(128) && asked[1] === "") return { kind: "allocated", value: place };
    const ipv6 = allocateAddress(known.value, 128, asked[1]);
    if (ipv6.kind === "allocated") return { kind: "allocated", value: { ...place, ipv6: ipv6.value } };
    pool.release(address.value);
    return ipv6;
  }

  #known(id: NetworkId, network: Network | undefined): Outcome<KnownNetwork> {
    if (network === undefined) return { kind: "refused", reason: `network ${id} not found` };
    const known = this.#networks.get(id);
    if (known !== undefined) return { kind: "allocated", value: known };
    const why = this.#refused.get(id) ?? "it has no subnet yet";
    return { kind: "refused", reason: `network ${network.spec.name} cannot be used: ${why}` };
  }

  #allocatePorts(
    { id, spec, endpoint }: Service,
    hostPorts: AllocationScene["hostPorts"],
  ): Outcome<readonly PortSpec[]> {
    const { ports } = spec.endpoint;
    const given = new Map<number, PortSpec>();
    const refuse = (reason: string): Outcome<readonly PortSpec[]> => {
      this.#releasePorts(id, [...given.values()], this.#services.get(id)?.ports ?? []);
      return { kind: "refused", reason };
    };
    const onIngress = [...ports.entries()].filter(([, { publishMode }]) => publishMode === "ingress");
    // First those with a number, so that none of them is chosen for another of the service's ports.
    for (const [index, port] of onIngress.toSorted(([, a], [, b]) => isChosen(a) - isChosen(b))) {
      const { protocol } = port;
      const isFree = (number: number): boolean => !hasPort([...given.values()], protocol, number);
      const asked =
        port.publishedPort ||
        earlierPort(endpoint, port, isFree) ||
        this.#ports.pick(protocol, id, hostPorts());
      if (asked === undefined) return refuse(`no ${protocol} port is left to publish ${port.targetPort} on`);
      if (!this.#ports.claim(protocol, asked, id)) {
        const holder = this.#ports.ownerOf(protocol, asked);
        return refuse(`port ${asked}/${protocol} is already published by service ${holder}`);
      }
      given.set(index, { ...port, publishedPort: asked });
    }
    return { kind: "allocated", value: ports.map((port, index) => given.get(index) ?? port) };
  }

  /** @returns How many there were to release. */
  #releasePorts(id: ServiceId, ports: readonly PortSpec[], kept: readonly PortSpec[]): number {
    const unused = ports.filter(
      ({ publishMode, protocol, publishedPort }) =>
        publishMode === "ingress" && !hasPort(kept, protocol, publishedPort),
    );
    for (const { protocol, publishedPort } of unused) this.#ports.release(protocol, publishedPort, id);
    return unused.length;
  }

  #releaseAll(places: readonly (Place & { readonly networkId: NetworkId })[]): void {
    for (const { networkId, ...place } of places) {
      for (const address of addressesOf(place)) this.#networks.get(networkId)?.pool.release(address);
    }
  }
}

/** Those there are, in CIDR form. */
function addressesOf({ address, ipv6 = "" }: Place): string[] {
  return [address, ipv6].filter((each) => each !== "");
}

function allocateAddress(
  { pool, state, network: { spec } }: KnownNetwork,
  bits: IpAddress["bits"],
  asked: string,
): Outcome<string> {
  if (asked !== "") {
    if (!pool.holds(asked)) {
      const reason = `no configured subnet or ip-range contain the IP address ${asked}`;
      return { kind: "refused", reason };
    }
    const taken = pool.take(asked);
    return taken === undefined
      ? { kind: "refused", reason: "Address already in use" }
      : { kind: "allocated", value: taken };
  }
  const address = pool.allocate(bits);
  if (address !== undefined) return { kind: "allocated", value: address };
  const full = subnetsOf(state).filter(({ subnet }) => isIpv6(subnet) === (bits === 128));
  const blocks = full.map(({ subnet }) => subnet).join(", ");
  return {
    kind: "refused",
    reason: `no address is left on network ${spec.name}: all of ${blocks} are taken`,
  };
}

/** The part of a subnet that its network's spec wants addresses from. */
function rangeOf({ spec }: Network, { subnet }: Subnet): { readonly range?: string } {
  const config = spec.ipam.find((each) => {
    const block = parseCidr(each.subnet);
    return block !== undefined && printCidr(block) === subnet;
  });
  return config?.range === undefined ? {} : { range: config.range };
}

/** Only overlays get addresses from the managers; a host's own networks give theirs themselves. */
export function isAllocated(network: Network): boolean {
  return network.spec.driver === "overlay";
}

/** 1 for a port whose number is left to us. */
function isChosen({ publishedPort }: PortSpec): 0 | 1 {
  return publishedPort === 0 ? 1 : 0;
}

function hasPort(ports: readonly PortSpec[], protocol: PortProtocol, publishedPort: number): boolean {
  return ports.some(
    (each) =>
      each.publishMode === "ingress" && each.protocol === protocol && each.publishedPort === publishedPort,
  );
}
