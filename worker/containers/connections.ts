/** A container's place on networks: attached at its start, changed while it runs, given back at its end. */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NetworkId, TaskId } from "../../model/ids.ts";
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

export interface ConnectionsDeps {
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly networks: LocalNetworks;
  /** Whether it is a network of the cluster, as far as this host can tell. */
  readonly isShared: (term: string) => Promise<boolean>;
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
      const request = await this.#requestOf(record, endpointsOf(record), "started");
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
    const { network } = this.#deps;
    const wasAttached = (await network.list()).some(({ taskId }) => taskId === record.id);
    await network.detach(record.id as TaskId, signal);
    if (!wasAttached) return;
    for (const each of this.#networksOf(record)) this.#emit("disconnect", record.id, each);
  }

  /**
   * @param isRunning - Whether it is to be there at once, or from its next start on.
   * @returns its networks from now on.
   * @throws {ClusterError} `permission-denied` when it is on it already; `invalid-argument`; what `HostNetwork.change` throws.
   */
  async connect(
    record: LocalRecord,
    network: NamedNetwork,
    endpoint: EndpointRequest,
    { isRunning, signal }: { readonly isRunning: boolean; readonly signal: AbortSignal },
  ): Promise<Endpoints> {
    const { NetworkMode } = record.hostConfig;
    if (isShared(NetworkMode)) throw invalid(sharedText);
    if (network.name === "host") {
      throw invalid(
        "cannot connect container to host network - container must be created in host network mode",
      );
    }
    if (NetworkMode === "none" || network.name === "none") {
      throw invalid(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
      );
    }
    this.#check(network, endpoint);
    const before = endpointsOf(record);
    if (isRunning && this.#nameIn(before, network) !== undefined) {
      throw new ClusterError(
        "permission-denied",
        `endpoint with name ${record.name} already exists in network ${network.name}`,
      );
    }
    const after = { ...this.#without(before, network), [network.name]: endpoint };
    if (isRunning) await this.#change(record, before, after, signal);
    if (isRunning) this.#emit("connect", record.id, network);
    return after;
  }

  /** As `connect`. @throws {ClusterError} `internal` when it is not on it. */
  async disconnect(
    record: LocalRecord,
    network: NamedNetwork,
    { isRunning, signal }: { readonly isRunning: boolean; readonly signal: AbortSignal },
  ): Promise<Endpoints> {
    if (network.name === "host") {
      throw invalid(
        "cannot disconnect container from host network - container was created in host network mode",
      );
    }
    const before = endpointsOf(record);
    if (this.#nameIn(before, network) === undefined) {
      const where = isRunning ? `network ${network.name}` : `the network ${network.name}`;
      throw new ClusterError("internal", `container ${record.id} is not connected to ${where}`);
    }
    const after = this.#without(before, network);
    if (isRunning) await this.#change(record, before, after, signal);
    if (isRunning) this.#emit("disconnect", record.id, network);
    return after;
  }

  /** Its new name is known on its networks. */
  async rename(record: LocalRecord, signal: AbortSignal): Promise<void> {
    const isAttached = (await this.#deps.network.list()).some(
      ({ taskId, attached }) => taskId === record.id && attached.kind === "namespace",
    );
    if (!isAttached) return;
    await this.#deps.network.change(await this.#requestOf(record, endpointsOf(record)), signal);
  }

  /** What cannot be joined leaves everything as it was. */
  async #change(
    record: LocalRecord,
    before: Endpoints,
    after: Endpoints,
    signal: AbortSignal,
  ): Promise<void> {
    const { network } = this.#deps;
    const request = await this.#requestOf(record, after);
    try {
      await network.change(request, signal);
    } catch (error) {
      await network.change(await this.#requestOf(record, before), signal);
      throw withDockersCode(error);
    }
  }

  async #requestOf(
    { id, name, config, hostConfig }: LocalRecord,
    endpoints: Endpoints,
    occasion?: "started",
  ): Promise<AttachRequest> {
    const { NetworkMode, Dns, DnsSearch, DnsOptions } = hostConfig;
    const hasDns = Dns.length + DnsSearch.length + DnsOptions.length > 0;
    const isHost = NetworkMode === "host";
    const none = !isHost && (config.NetworkDisabled || Object.keys(endpoints).length === 0);
    const identity = { id, name, hostname: config.Hostname };
    const networks: AttachNetwork[] = [];
    if (!isHost && !none) {
      const ranks = ranksOf(endpoints);
      for (const [term, endpoint] of Object.entries(endpoints)) {
        const network = await this.#find(term);
        this.#check(network, endpoint);
        const links = [...endpoint.Links, ...(network.name === "bridge" ? (hostConfig.Links ?? []) : [])];
        networks.push({
          networkId: network.bridgeId,
          address: endpoint.IPv4Address,
          aliases: network.name === "bridge" ? [] : namesOn(identity, endpoint),
          priority: ranks.get(term) ?? 0,
          ...(endpoint.MacAddress !== "" && { mac: endpoint.MacAddress.toLowerCase() }),
          ...(links.length > 0 && { links: await this.#links(links, name, network, occasion) }),
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
      name,
      ...(hasDns && { dns: { nameservers: Dns, search: DnsSearch, options: DnsOptions } }),
      extraHosts: extraHosts(hostConfig),
    };
  }

  /** On the host's own bridge, where there are no names, the other must run and is known by its name as well. */
  async #links(
    texts: readonly string[],
    name: string,
    network: NamedNetwork,
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
      if (network.name !== "bridge") return [link];
      if (found.status.state !== "running" && occasion === "started") {
        throw new ClusterError(
          "internal",
          `Cannot link to a non running container: /${found.name} AS /${name}/${alias}`,
        );
      }
      return [link, { alias: found.name, containerId: found.id }];
    });
  }

  #check(network: NamedNetwork, endpoint: EndpointRequest): void {
    checkEndpoint(network.name, endpoint, this.#deps.networks.find(network.id));
  }

  async #find(term: string): Promise<NamedNetwork & { readonly bridgeId: NetworkId }> {
    const network = this.#deps.networks.resolve(term);
    if (network === undefined) throw await this.notFound(term);
    // The host's own bridge has no id there.
    return { ...network, bridgeId: (network.name === "bridge" ? "" : network.id) as NetworkId };
  }

  /** What to say of a network that is none of this host's. */
  async notFound(term: string): Promise<ClusterError> {
    if (!(await this.#deps.isShared(term))) return new ClusterError("not-found", `network ${term} not found`);
    return new ClusterError(
      "unimplemented",
      `could not attach to network ${term}: containers that are no tasks of a service cannot be on the swarm's networks yet`,
    );
  }

  /** Those that it is on, as far as they are still there. */
  #networksOf(record: LocalRecord): NamedNetwork[] {
    const { NetworkMode } = record.hostConfig;
    const own = NetworkMode === "host" || NetworkMode === "none" ? [NetworkMode] : [];
    const terms = [...own, ...Object.keys(endpointsOf(record))];
    return terms.flatMap((term) => this.#deps.networks.resolve(term) ?? []);
  }

  #nameIn(endpoints: Endpoints, network: NamedNetwork): string | undefined {
    return Object.keys(endpoints).find((term) => this.#deps.networks.resolve(term)?.id === network.id);
  }

  #without(endpoints: Endpoints, network: NamedNetwork): Endpoints {
    const name = this.#nameIn(endpoints, network);
    return Object.fromEntries(Object.entries(endpoints).filter(([term]) => term !== name));
  }

  #emit(action: "connect" | "disconnect", containerId: string, network: NamedNetwork): void {
    this.#deps.emit({ action, containerId, network });
  }
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
