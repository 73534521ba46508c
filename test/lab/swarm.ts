import { call } from "./api.ts";
import type { Host } from "./host.ts";
import { waitFor } from "./shell.ts";

/** The part of a node object that the lab reads. */
export interface NodeSummary {
  readonly ID: string;
  readonly CreatedAt: string;
  readonly Spec: { readonly Role: string; readonly Availability: string };
  readonly Description: { readonly Hostname: string };
  readonly Status: { readonly State: string; readonly Addr?: string };
  readonly ManagerStatus?: {
    readonly Leader?: boolean;
    readonly Reachability: string;
    readonly Addr: string;
  };
}

/** The node that a host is now: a host that left and joined again is listed under each node it has been. */
export function nodeOfHost<N extends NodeSummary>(nodes: readonly N[], hostname: string): N | undefined {
  const own = nodes.filter((node) => node.Description.Hostname === hostname);
  const newestFirst = own.toSorted((a, b) => Date.parse(b.CreatedAt) - Date.parse(a.CreatedAt));
  return newestFirst.find((node) => node.Status.State === "ready") ?? newestFirst[0];
}

/** Makes a swarm of hosts whose sockets answer: the first manager begins it, the others join it. */
export async function formSwarm(hosts: readonly Host[]): Promise<void> {
  const [first, ...others] = hosts;
  if (first === undefined) return;
  const own = (host: Host): object => ({ ListenAddr: "0.0.0.0:2377", AdvertiseAddr: `${host.addr}:2377` });
  await call(first.socket, "POST", "/swarm/init", { body: own(first) });
  const { JoinTokens } = await call<{ JoinTokens: { Manager: string; Worker: string } }>(
    first.socket,
    "GET",
    "/swarm",
  );
  await Promise.all(
    others.map((host) =>
      call(host.socket, "POST", "/swarm/join", {
        body: {
          ...own(host),
          RemoteAddrs: [`${first.addr}:2377`],
          JoinToken: host.role === "manager" ? JoinTokens.Manager : JoinTokens.Worker,
        },
      }),
    ),
  );
}

/** Waits until every host is a ready node and every manager is reachable; says which are missing. */
export async function waitForNodes(hosts: readonly Host[], timeoutMs: number): Promise<void> {
  const first = hosts[0];
  if (first === undefined) return;
  let missing = "all";
  const what = `ready nodes`;
  await waitFor(what, { timeoutMs }, async () => {
    const nodes = await call<NodeSummary[]>(first.socket, "GET", "/nodes", { timeoutMs: 5_000 });
    const absent = hosts.filter((host) => !nodes.some((node) => isReady(node, host)));
    missing = absent.map((host) => host.name).join(", ");
    return absent.length === 0;
  }).catch((error: unknown) => {
    throw new Error(`cannot form the swarm: ${missing} not ready within ${timeoutMs} ms`, { cause: error });
  });
}

function isReady(node: NodeSummary, host: Host): boolean {
  if (node.Description.Hostname !== host.name || node.Status.State !== "ready") return false;
  return host.role === "worker" || node.ManagerStatus?.Reachability === "reachable";
}
