/** What tests ask of a manager through its API. */
import { eventually, type ManagerProcess } from "./processes.ts";

export interface NodeJson {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: { readonly Role: string; readonly Labels: Record<string, string> };
  readonly Status: { readonly State: string; readonly Message?: string };
  readonly ManagerStatus?: {
    readonly Leader?: boolean;
    readonly Reachability: string;
    readonly Addr: string;
  };
}

export async function nodesOf(manager: ManagerProcess): Promise<readonly NodeJson[]> {
  const { status, json } = await manager.call("GET", "/nodes");
  if (status !== 200) throw new Error(`GET /nodes: ${status} ${JSON.stringify(json)}`);
  return json as readonly NodeJson[];
}

export async function stateOf(manager: ManagerProcess, nodeId: string): Promise<string | undefined> {
  return (await nodesOf(manager)).find(({ ID }) => ID === nodeId)?.Status.State;
}

export async function tokensOf(
  manager: ManagerProcess,
): Promise<{ readonly Worker: string; readonly Manager: string }> {
  const { json } = await manager.call("GET", "/swarm");
  return (json as { readonly JoinTokens: { readonly Worker: string; readonly Manager: string } }).JoinTokens;
}

export async function clusterVersion(manager: ManagerProcess): Promise<number> {
  const { json } = await manager.call("GET", "/swarm");
  return (json as { readonly Version: { readonly Index: number } }).Version.Index;
}

async function updateNode(
  manager: ManagerProcess,
  nodeId: string,
  change: Record<string, unknown>,
): Promise<void> {
  const node = (await nodesOf(manager)).find(({ ID }) => ID === nodeId);
  if (node === undefined) throw new Error(`no node ${nodeId}`);
  const path = `/nodes/${nodeId}/update?version=${node.Version.Index}`;
  const { status, json } = await manager.call("POST", path, { ...node.Spec, ...change });
  if (status !== 200) throw new Error(`POST ${path}: ${status} ${JSON.stringify(json)}`);
}

export function setLabel(manager: ManagerProcess, nodeId: string, value: string): Promise<void> {
  return updateNode(manager, nodeId, { Labels: { test: value } });
}

/** A node's version may move between reading and writing; the last word is ours. */
export async function setRole(manager: ManagerProcess, nodeId: string, role: string): Promise<void> {
  await eventually(`node becomes ${role}`, async () => {
    await updateNode(manager, nodeId, { Role: role });
    return true;
  });
}

export async function labelOf(manager: ManagerProcess, nodeId: string): Promise<string | undefined> {
  return (await nodesOf(manager)).find(({ ID }) => ID === nodeId)?.Spec.Labels["test"];
}
