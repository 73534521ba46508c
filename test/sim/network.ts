import { ClusterError } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { TunnelKey } from "../../model/node.ts";
import { portKey, type PublishedPort } from "../../model/task.ts";
import type { Finding } from "../../worker/network/examine.ts";
import type { HostSettings } from "../../proto/host.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemRandom } from "../../runtime/random.ts";
import { LocalNetworks } from "../../worker/bridges/networks.ts";
import type {
  Attached,
  AttachedRecord,
  AttachRequest,
  BridgeNetwork,
  HostNetwork,
  HostOffer,
  WantedNetworks,
} from "../../worker/network/network.ts";

/** The networks of a host over such a network. */
export async function fakeNetworks(
  network: HostNetwork,
  settings: Pick<HostSettings, "stateDir" | "hostname" | "bridgeSubnet">,
): Promise<LocalNetworks> {
  const networks = await LocalNetworks.open({
    clock: systemClock,
    random: systemRandom,
    readRoutes: async () => "",
    ...settings,
  });
  networks.use(network);
  return networks;
}

const firstEphemeralPort = 49_152;

/** A host's network without a kernel: it remembers what was asked and refuses what the real one would. */
export class FakeNetwork implements HostNetwork {
  wanted: WantedNetworks | undefined;
  bridges: readonly BridgeNetwork[] = [];
  applied = 0;
  tunnelKeys: readonly TunnelKey[] = [];
  ipv6Addresses: readonly string[] = [];
  namesHeldMs = 0;
  subnets: readonly string[] = [];
  /** How often its key was to be replaced. */
  replaced = 0;
  readonly #listeners = new Set<() => void>();
  closed = false;
  /** Consulted before every attach; what it returns is thrown. */
  refuse: (request: AttachRequest) => ClusterError | undefined = () => undefined;
  /** What keeps it from being brought to any state. */
  trouble: ClusterError | undefined;
  readonly #attached = new Map<TaskId, AttachedRecord>();

  /** Tasks left over from a former process, as after a restart. */
  constructor(leftovers: readonly AttachedRecord[] = []) {
    for (const record of leftovers) this.#attached.set(record.taskId, record);
  }

  async apply(wanted: WantedNetworks, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.trouble !== undefined) throw this.trouble;
    this.wanted = wanted;
    this.applied += 1;
  }

  /** All of them are in place at once. */
  async applyBridges(
    bridges: readonly BridgeNetwork[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, string>> {
    signal.throwIfAborted();
    this.bridges = bridges;
    return new Map();
  }

  async attach(request: AttachRequest, signal: AbortSignal): Promise<Attached> {
    signal.throwIfAborted();
    const known = this.#attached.get(request.taskId);
    if (known !== undefined) return known.attached;
    const refusal = this.refuse(request);
    if (refusal !== undefined) throw refusal;
    for (const { networkId, address } of request.networks) {
      if (address === "" || this.wanted?.networks.some(({ id }) => id === networkId)) continue;
      throw new ClusterError("failed-precondition", `network ${networkId} is not known on this host`);
    }
    const files = {
      hosts: `/fake/${request.taskId}/hosts`,
      resolvConf: `/fake/${request.taskId}/resolv.conf`,
      hostname: `/fake/${request.taskId}/hostname`,
    };
    const attached: Attached = request.host
      ? { kind: "host", publishedPorts: [], files }
      : {
          kind: "namespace",
          path: `/fake/netns/${request.taskId}`,
          addresses: request.networks.map(({ networkId, address }, index) => ({
            networkId: address === "" ? "" : networkId,
            bridge: address === "" ? "shoal0" : "ov4096",
            device: `eth${index}`,
            address: address === "" ? "172.20.0.2/16" : address,
            gateway: "172.20.0.1",
            mac: "02:42:ac:14:00:02",
          })),
          publishedPorts: this.#publish(request),
          files,
        };
    this.#attached.set(request.taskId, {
      taskId: request.taskId,
      containerId: request.containerId,
      attached,
      networks: request.networks,
    });
    return attached;
  }

  async change(request: AttachRequest, signal: AbortSignal): Promise<Attached> {
    await this.detach(request.taskId, signal);
    return this.attach(request, signal);
  }

  /** Nobody is ever connected to it. */
  async drained(_taskId: TaskId, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
  }

  async detach(taskId: TaskId, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.#attached.delete(taskId);
  }

  async list(): Promise<readonly AttachedRecord[]> {
    return [...this.#attached.values()];
  }

  async examine(): Promise<readonly Finding[]> {
    return [];
  }

  /** None, unless a test offers some. */
  get offer(): HostOffer {
    const problem = this.tunnelKeys.length === 0 && { problem: "a kernel is missing" };
    const { ipv6Addresses, subnets } = this;
    return { tunnel: { keys: this.tunnelKeys, ...problem }, ipv6Addresses, subnets };
  }

  watch(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  replaceTunnelKey(): void {
    this.replaced += 1;
  }

  /** As after a step of replacing its key. */
  offerKeys(keys: readonly TunnelKey[]): void {
    this.tunnelKeys = keys;
    for (const listener of this.#listeners) listener();
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  #publish(request: AttachRequest): PublishedPort[] {
    const taken = new Set(
      [...this.#attached.values()].flatMap(({ attached }) => attached.publishedPorts.map(portKey)),
    );
    return request.ports
      .filter(({ publishMode }) => publishMode === "host")
      .map(({ protocol, targetPort, publishedPort }) => {
        let port = { protocol, targetPort, publishedPort: publishedPort || firstEphemeralPort };
        while (taken.has(portKey(port))) {
          if (publishedPort !== 0) {
            throw new ClusterError(
              "conflict",
              `Bind for 0.0.0.0:${publishedPort} failed: port is already allocated`,
            );
          }
          port = { ...port, publishedPort: port.publishedPort + 1 };
        }
        taken.add(portKey(port));
        return port;
      });
  }
}
