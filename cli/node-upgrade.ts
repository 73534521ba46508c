import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import type { ApiNode, ApiTask } from "./api-types.ts";
import { ApiError, type Client, filters } from "./client.ts";
import { write } from "./print.ts";

export interface UpgradeOptions {
  /** Shell command that upgrades the host; without it the user does that. */
  readonly run?: string;
  /** Longest wait for the node to be empty, and again for it to be ready. */
  readonly timeoutMs: number;
  /** Also where the managers would lose their majority meanwhile. */
  readonly force: boolean;
}

const pollMs = 500;
const shownTasks = 5;
const liveStates: ReadonlySet<string> = new Set([
  "assigned",
  "accepted",
  "preparing",
  "ready",
  "starting",
  "running",
]);

/**
 * Empties a node (tasks of start-first services run elsewhere before they end), runs the command, waits until
 * the node is ready again and opens it for what it was open for before. Whatever fails leaves the node drained.
 *
 * @throws {Error} saying what was seen and how to go on.
 */
export async function upgradeNode(client: Client, name: string, options: UpgradeOptions): Promise<void> {
  const node = await getNode(client, name);
  const host = node.Description.Hostname;
  const before = node.Spec.Availability;
  const back = before === "drain" ? "active" : before;
  const goOn = `shoal node update --availability ${back} ${host}`;
  const problem = quorumProblem(await client.get<ApiNode[]>("/nodes"), node.ID);
  if (problem !== undefined && !options.force) throw new Error(`${host}: ${problem}; --force goes on`);
  if (before !== "drain") await setAvailability(client, node.ID, "drain");
  write(`${host}: drained, its tasks move`);
  await waitUntil(options.timeoutMs, async () => {
    const tasks = await client.get<ApiTask[]>("/tasks", { filters: filters({ node: [node.ID] }) });
    const left = tasks.filter(({ Status: { State: state } }) => liveStates.has(state));
    if (left.length === 0) return undefined;
    const shown = left.slice(0, shownTasks).map(({ ID: id }) => `shoal why ${id}`);
    return `${host}: ${left.length} tasks are still there; ask ${shown.join(", ")}; to give up: ${goOn}`;
  });
  write(`${host}: empty`);
  if (options.run === undefined) {
    return write(`Upgrade ${host} now; when it is back: ${goOn}`);
  }
  const code = await runCommand(options.run, {
    SHOAL_NODE_ID: node.ID,
    SHOAL_NODE_HOSTNAME: host,
    SHOAL_NODE_ADDR: node.Status.Addr ?? "",
  });
  if (code !== 0) {
    throw new Error(`${host}: the command ended with ${code}; the node stays drained; to open it: ${goOn}`);
  }
  const isManager = node.ManagerStatus !== undefined;
  await waitUntil(options.timeoutMs, async () => {
    const state = await stateOf(client, node.ID, isManager);
    return state === "ready"
      ? undefined
      : `${host}: not ready again but ${state}; it stays drained; then: ${goOn}`;
  });
  await setAvailability(client, node.ID, back);
  const { Engine: engine } = (await getNode(client, node.ID)).Description;
  return write(`${host}: ready with ${engine.EngineVersion ?? "an unknown version"}, ${back} again`);
}

/**
 * {@link upgradeNode} for several, one after another. One that fails ends it: the next would take more away from a cluster
 * that is not well.
 *
 * @throws {Error} saying what was seen and how to go on.
 */
export async function upgradeNodes(
  client: Client,
  names: readonly string[],
  options: UpgradeOptions,
): Promise<void> {
  const left = await Promise.all(names.map(async (name) => ({ name, id: (await getNode(client, name)).ID })));
  while (left.length > 0) {
    const nodes = await client.get<ApiNode[]>("/nodes");
    const id = nextToUpgrade(
      nodes,
      left.map((node) => node.id),
    );
    const [next] = left.splice(
      left.findIndex((node) => node.id === id),
      1,
    );
    if (next !== undefined) await upgradeNode(client, next.name, options);
  }
}

/**
 * Managers before workers, and the leader last of them, whoever leads by then: what a later version writes, an earlier one
 * need not be able to read (docs/upgrading.md). Otherwise as they were given.
 *
 * @param ids - Of those that are left, at least one.
 */
export function nextToUpgrade(nodes: readonly ApiNode[], ids: readonly string[]): string | undefined {
  const statusOf = (id: string) => nodes.find((node) => node.ID === id)?.ManagerStatus;
  const managers = ids.filter((id) => statusOf(id) !== undefined);
  return managers.find((id) => statusOf(id)?.Leader !== true) ?? managers[0] ?? ids[0];
}

/** Why the managers could not do without this node for a while; `undefined` when they can. */
export function quorumProblem(nodes: readonly ApiNode[], id: string): string | undefined {
  const managers = nodes.filter(({ ManagerStatus: status }) => status !== undefined);
  const self = managers.find((node) => node.ID === id);
  if (self === undefined) return undefined;
  const others = managers.filter(
    (node) => node !== self && node.ManagerStatus?.Reachability === "reachable",
  ).length;
  const needed = Math.floor(managers.length / 2) + 1;
  if (others >= needed) return undefined;
  return `without it only ${others} of ${managers.length} managers could be reached, ${needed} are needed`;
}

/** The host may be the very one that answers us, so failures of the connection count as "not yet". */
async function stateOf(client: Client, id: string, isManager: boolean): Promise<string> {
  try {
    const { Status: status, ManagerStatus: manager } = await getNode(client, id);
    const isReachable = !isManager || manager?.Reachability === "reachable";
    return status.State === "ready" && !isReachable ? "a manager that cannot be reached" : status.State;
  } catch (reason) {
    if (reason instanceof ApiError && reason.status < 500) throw reason;
    return reason instanceof Error ? reason.message : String(reason);
  }
}

function getNode(client: Client, name: string): Promise<ApiNode> {
  return client.get<ApiNode>(`/nodes/${encodeURIComponent(name)}`);
}

async function setAvailability(client: Client, id: string, availability: string): Promise<void> {
  const { Spec: spec, Version: version } = await getNode(client, id);
  await client.post(
    `/nodes/${id}/update`,
    { version: version.Index },
    { ...spec, Availability: availability },
  );
}

/** @param look - What is missing; `undefined` when nothing is. */
async function waitUntil(timeoutMs: number, look: () => Promise<string | undefined>): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const missing = await look();
    if (missing === undefined) return;
    if (performance.now() >= endMs) throw new Error(missing);
    await delay(pollMs);
  }
}

function runCommand(command: string, env: Readonly<Record<string, string>>): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, { shell: true, stdio: "inherit", env: { ...process.env, ...env } });
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? 1));
  });
}
