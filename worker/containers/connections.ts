/** A container's place on networks: attached at its start, changed while it runs, given back at its end. */
import { canonicalIp } from "../../model/address.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NetworkId, TaskId } from "../../model/ids.ts";
import type { Attachments } from "../agent/attachments.ts";
import type { LocalNetworks, NamedNetwork } from "../bridges/networks.ts";
import type { Engine } from "../engine/engine.ts";
import type { Attached, AttachNetwork, AttachRequest, HostNetwork } from "../network/network.ts";
import {
  checkEndpoint,
  type EndpointRequest,
  type Endpoints,
  isShared,
  namesOn,
  parseLink,
  plainEndpoint,
} from "./endpoints.ts";
import { findRecord } from "./identity.ts";
import { portBindings } from "./ports.ts";
import { extraHosts } from "./sandbox.ts";
import type { LocalRecord } from "./store.ts";

/** Networks that all hosts of the cluster share; their managers say who has a place there. */
export type ClusterNetworks = Pick<Attachments, "isMember" | "attach" | "find" | "keep" | "adopt">;

export interface ConnectionsDeps {
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly networks: LocalNetworks;
  readonly cluster: ClusterNetworks;
  readonly emit: (event: ConnectionEvent) => void;
}

export interface ConnectionEvent {
  readonly action: "connect" | "disconnect";
  readonly containerId: string;
  readonly network: NamedNetwork;
}

/** Docker's, before whatever of it failed at a start. */
const startFailure = "failed to set up container networking";
const sharedText =
  "container sharing network namespace with another container or host cannot be connected to any other network";

/** Networks that it is to be on, by name. */
export function endpointsOf({ endpoints, hostConfig: { NetworkMode } }: LocalRecord): Endpoints {
  if (endpoints !== undefined) return endpoints;
  return isShared(NetworkMode) || NetworkMode === "none" ? {} : { [NetworkMode]: plainEndpoint };
}

export class Connections {
  readonly #deps: ConnectionsDeps;

  constructor(deps: ConnectionsDeps) {
    this.#deps = deps;
  }

  /** @throws {ClusterError} in Docker's words for a network, address or port that it cannot have. */
  async attach(record: LocalRecord, signal: AbortSignal): Promise<Attached> {
    try {
      const request = await this.#requestOf(record, endpointsOf(record), signal, "started");
      const attached = await this.#deps.network.attach(request, signal);
      for (const network of this.#networksOf(record)) this.#emit("connect", record.id, network);
      return attached;
    } catch (error) {
      signal.throwIfAborted();
      throw failedStart(record, error);
    }
  }

  /** Of a container that has no network, gives nothing back. */
  async detach(record: LocalRecord, signal: AbortSignal): Promise<void> {
    const { network, cluster } = this.#deps;
    const wasAttached = (await network.list()).some(({ taskId }) => taskId === record.id);
    const networks = wasAttached ? this.#networksOf(record) : [];
    await network.detach(record.id as TaskId, signal);
    cluster.keep(record.id, nowhere); // Not before: its addresses may be another's at once.
    for (const each of networks) this.#emit("disconnect", record.id, each);
  }

  /** What a container that runs on has of networks of the cluster is its own still. */
  adopt({ id, name, config }: LocalRecord, networks: readonly AttachNetwork[]): void {
    for (const { networkId, networkName, address, ipv6, aliases } of networks) {
      if (networkName === undefined) continue;
      const names =
        aliases.length > 0 ? aliases : namesOn({ id, name, hostname: config.Hostname }, plainEndpoint);
      const place = { networkId, networkName, address, ...(ipv6 !== undefined && { ipv6 }) };
      this.#deps.cluster.adopt(id, names, place);
    }
  }

  /**
   * @param term - Id or name of the network.
   * @param isRunning - Whether it is to be there at once, or from its next start on.
   * @returns its networks from now on.
   * @throws {ClusterError} `permission-denied` when it is on it already; `invalid-argument`; what `HostNetwork.change` throws.
   */
  async connect(
    record: LocalRecord,
    term: string,
    endpoint: EndpointRequest,
    { isRunning, signal }: { readonly isRunning: boolean; readonly signal: AbortSignal },
  ): Promise<Endpoints> {
    const { NetworkMode } = record.hostConfig;
    const network = this.find(record.id, term);
    const networkName = network?.name ?? term;
    if (isShared(NetworkMode)) throw invalid(sharedText);
    if (networkName === "host") {
      throw invalid(
        "cannot connect container to host network - container must be created in host network mode",
      );
    }
    if (NetworkMode === "none" || networkName === "none") {
      throw invalid(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
      );
    }
    this.#check(networkName, network, endpoint);
    const before = endpointsOf(record);
    if (isRunning && this.#nameIn(record, before, term) !== undefined) {
      throw new ClusterError(
        "permission-denied",
        `endpoint with name ${record.name} already exists in network ${networkName}`,
      );
    }
    const after = { ...this.#without(record, before, term), [networkName]: endpoint };
    if (!isRunning) return after;
    await this.#change(record, before, after, signal);
    const joined = this.find(record.id, term);
    if (joined === undefined) return after;
    this.#emit("connect", record.id, joined);
    // One of the cluster may have been asked for by its id.
    return { ...this.#without(record, after, term), [joined.name]: endpoint };
  }

  /** As `connect`. @throws {ClusterError} `internal` when it is not on it. */
  async disconnect(
    record: LocalRecord,
    term: string,
    { isRunning, signal }: { readonly isRunning: boolean; readonly signal: AbortSignal },
  ): Promise<Endpoints> {
    const network = this.find(record.id, term);
    if (network?.name === "host") {
      throw invalid(
        "cannot disconnect container from host network - container was created in host network mode",
      );
    }
    const before = endpointsOf(record);
    if (this.#nameIn(record, before, term) === undefined) {
      const where = isRunning ? `network ${network?.name ?? term}` : `the network ${network?.name ?? term}`;
      throw new ClusterError("internal", `container ${record.id} is not connected to ${where}`);
    }
    const after = this.#without(record, before, term);
    if (isRunning) await this.#change(record, before, after, signal);
    if (isRunning && network !== undefined) this.#emit("disconnect", record.id, network);
    return after;
  }

  /** It has lost its places on networks of the cluster: on these, or on all. */
  async leave(
    record: LocalRecord,
    networkIds: ReadonlySet<string> | "all",
    signal: AbortSignal,
  ): Promise<void> {
    const { network } = this.#deps;
    const attached = (await network.list()).find(({ taskId }) => taskId === record.id);
    const gone = (attached?.networks ?? []).filter(
      ({ networkId, networkName }) =>
        networkName !== undefined && (networkIds === "all" || networkIds.has(networkId)),
    );
    if (gone.length === 0) return;
    let after = endpointsOf(record);
    for (const { networkId, networkName = "" } of gone) {
      after = this.#without(record, this.#without(record, after, networkId), networkName);
    }
    const request = await this.#requestOf(record, after, signal);
    await network.change(request, signal);
    this.#deps.cluster.keep(record.id, idsOf(request));
    for (const { networkId: id, networkName: name = "" } of gone)
      this.#emit("disconnect", record.id, { id, name, driver: "overlay" });
  }

  /** Its new name is known on its networks. */
  async rename(record: LocalRecord, signal: AbortSignal): Promise<void> {
    const isAttached = (await this.#deps.network.list()).some(
      ({ taskId, attached }) => taskId === record.id && attached.kind === "namespace",
    );
    if (!isAttached) return;
    await this.#deps.network.change(await this.#requestOf(record, endpointsOf(record), signal), signal);
  }

  /** A network of this host, or one of the cluster that the container is on. @param term - Id or name. */
  find(containerId: string, term: string): NamedNetwork | undefined {
    const { networks, cluster } = this.#deps;
    const own = networks.resolve(term);
    const place = own === undefined ? cluster.find(containerId, term) : undefined;
    return place === undefined ? own : { id: place.networkId, name: place.networkName, driver: "overlay" };
  }

  /** What cannot be joined leaves everything as it was. */
  async #change(
    record: LocalRecord,
    before: Endpoints,
    after: Endpoints,
    signal: AbortSignal,
  ): Promise<void> {
    const { network, cluster } = this.#deps;
    let request: AttachRequest | undefined;
    try {
      request = await this.#requestOf(record, after, signal);
      await network.change(request, signal);
    } catch (error) {
      request = await this.#requestOf(record, before, signal);
      await network.change(request, signal);
      throw withDockersCode(error);
    } finally {
      if (request !== undefined) cluster.keep(record.id, idsOf(request));
    }
  }

  async #requestOf(
    record: LocalRecord,
    endpoints: Endpoints,
    signal: AbortSignal,
    occasion?: "started",
  ): Promise<AttachRequest> {
    const { id, name, config, hostConfig } = record;
    const { NetworkMode, Dns, DnsSearch, DnsOptions } = hostConfig;
    const hasDns = Dns.length + DnsSearch.length + DnsOptions.length > 0;
    const isHost = NetworkMode === "host";
    const none = !isHost && (config.NetworkDisabled || Object.keys(endpoints).length === 0);
    const identity = { id, name, hostname: config.Hostname };
    const networks: AttachNetwork[] = [];
    if (!isHost && !none) {
      const ranks = ranksOf(endpoints);
      for (const [term, endpoint] of Object.entries(endpoints)) {
        const priority = ranks.get(term) ?? 0;
        const mac = endpoint.MacAddress === "" ? {} : { mac: endpoint.MacAddress.toLowerCase() };
        const network = this.#deps.networks.resolve(term);
        this.#check(network?.name ?? term, network, endpoint);
        const isOwn = network?.name === "bridge";
        const texts = [...endpoint.Links, ...(isOwn ? (hostConfig.Links ?? []) : [])];
        const links = texts.length === 0 ? {} : { links: await this.#links(texts, name, network, occasion) };
        const names = isOwn ? [] : namesOn(identity, endpoint);
        if (network === undefined) {
          const { IPv4Address: address, IPv6Address } = endpoint;
          const ipv6 = IPv6Address === "" ? {} : { ipv6: canonicalIp(IPv6Address) };
          const wish = { containerId: id, network: term, names, address, ...ipv6 };
          const place = await this.#deps.cluster.attach(wish, signal);
          networks.push({ ...place, aliases: names, priority, ...mac, ...links });
          continue;
        }
        networks.push({
          networkId: (isOwn ? "" : network.id) as NetworkId, // The host's own bridge has no id there.
          address: endpoint.IPv4Address,
          ...(endpoint.IPv6Address !== "" && { ipv6: endpoint.IPv6Address }),
          aliases: names,
          priority,
          ...mac,
          ...links,
        });
      }
    }
    return {
      taskId: id as TaskId, // The network's word for whoever it serves; equal ids tell them apart.
      containerId: id,
      networks,
      host: isHost,
      none,
      ports: portBindings(config, hostConfig),
      hostname: config.Hostname,
      ...(config.Domainname !== "" && { domainname: config.Domainname }),
      name,
      ...(hasDns && { dns: { nameservers: Dns, search: DnsSearch, options: DnsOptions } }),
      extraHosts: extraHosts(hostConfig),
    };
  }

  /** On the host's own bridge, where there are no names, the other must run and is known by its name as well. */
  async #links(
    texts: readonly string[],
    name: string,
    network: NamedNetwork | undefined,
    occasion: "started" | undefined,
  ): Promise<{ alias: string; containerId: string }[]> {
    const records = await this.#deps.engine.list();
    return texts.map(parseLink).flatMap(({ name: other, alias }) => {
      const found = findRecord(records, other);
      if (found === undefined) {
        throw new ClusterError(
          "not-found",
          `could not get container for ${other}: No such container: ${other}`,
        );
      }
      const link = { alias, containerId: found.id };
      if (network?.name !== "bridge") return [link];
      if (found.status.state !== "running" && occasion === "started") {
        throw new ClusterError(
          "internal",
          `Cannot link to a non running container: /${found.name} AS /${name}/${alias}`,
        );
      }
      return [link, { alias: found.name, containerId: found.id }];
    });
  }

  #check(name: string, network: NamedNetwork | undefined, endpoint: EndpointRequest): void {
    checkEndpoint(name, endpoint, network === undefined ? undefined : this.#deps.networks.find(network.id));
  }

  /** Those that it is on, as far as they are still there. */
  #networksOf(record: LocalRecord): NamedNetwork[] {
    const { NetworkMode } = record.hostConfig;
    const own = NetworkMode === "host" || NetworkMode === "none" ? [NetworkMode] : [];
    const terms = [...own, ...Object.keys(endpointsOf(record))];
    return terms.flatMap((term) => this.find(record.id, term) ?? []);
  }

  #nameIn({ id }: LocalRecord, endpoints: Endpoints, term: string): string | undefined {
    const wanted = this.find(id, term)?.id;
    return Object.keys(endpoints).find(
      (name) => name === term || (wanted !== undefined && this.find(id, name)?.id === wanted),
    );
  }

  #without(record: LocalRecord, endpoints: Endpoints, term: string): Endpoints {
    const name = this.#nameIn(record, endpoints, term);
    return Object.fromEntries(Object.entries(endpoints).filter(([each]) => each !== name));
  }

  #emit(action: "connect" | "disconnect", containerId: string, network: NamedNetwork): void {
    this.#deps.emit({ action, containerId, network });
  }
}

const nowhere: ReadonlySet<string> = new Set();

function idsOf({ networks }: AttachRequest): ReadonlySet<string> {
  return new Set(networks.map(({ networkId }) => networkId));
}

/** The highest takes what is for nowhere else: by the priority asked for, then by name. */
export function ranksOf(endpoints: Endpoints): ReadonlyMap<string, number> {
  const order = Object.entries(endpoints).toSorted(
    ([a, first], [b, second]) => second.GwPriority - first.GwPriority || (a < b ? -1 : 1),
  );
  return new Map(order.map(([term], index) => [term, order.length - index]));
}

/** The codes that Docker answers with, which are not those of the host's network. */
function withDockersCode(error: unknown): unknown {
  if (!(error instanceof ClusterError) || error.code !== "conflict") return error;
  const code = error.message === "Address already in use" ? "permission-denied" : "internal";
  return new ClusterError(code, error.message, { cause: error });
}

function failedStart({ name, id }: LocalRecord, error: unknown): unknown {
  const known = withDockersCode(error);
  if (!(known instanceof ClusterError)) return error;
  const isPort = /^(Bind for|failed to bind host port) /.test(known.message);
  const text = isPort
    ? `driver failed programming external connectivity on endpoint ${name} (${id}): ${known.message}`
    : errorText(known);
  const code = known.code === "failed-precondition" || isPort ? "internal" : known.code;
  return new ClusterError(code, `${startFailure}: ${text}`, { cause: error });
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
