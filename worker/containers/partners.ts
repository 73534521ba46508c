/** What a container gets from others at its start: its place on the host's network, namespaces and mounts of other containers. */
import { ClusterError } from "../../model/errors.ts";
import type { ContainerRecord, Engine, MountRecord } from "../engine/engine.ts";
import type { Attached, HostNetwork } from "../network/network.ts";
import type { Connections } from "./connections.ts";
import { blockLimitsOf, devicesOf } from "./devices.ts";
import { findRecord } from "./identity.ts";
import { type StartFacts, startLimits } from "./sandbox.ts";
import { isMounted, openSharedMemory, sharedMemoryPath } from "./shared-memory.ts";
import type { LocalRecord } from "./store.ts";

export interface PartnerDeps {
  /** `<stateDir>/local` */
  readonly directory: string;
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly connections: Connections;
  readonly facts: { readonly swapLimit: boolean; readonly cgroupVersion: 1 | 2 };
}

export async function startFacts(
  deps: PartnerDeps,
  record: LocalRecord,
  signal: AbortSignal,
): Promise<StartFacts> {
  const { connections, facts } = deps;
  const { hostConfig } = record;
  const limits = startLimits(hostConfig, facts, await blockLimitsOf(hostConfig));
  const pid = await partnerOf(deps, hostConfig.PidMode, "running");
  const { ipc, shm } = await sharedMemoryOf(deps, record);
  const rest = { limits, devices: await devicesOf(hostConfig), ...(shm !== undefined && { shm }) };
  const partner = await partnerOf(deps, hostConfig.NetworkMode, "running");
  const join = {
    ...(pid !== undefined && { pid: `/proc/${pid.pid}/ns/pid` }),
    ...(ipc !== undefined && { ipc: `/proc/${ipc.pid}/ns/ipc` }),
  };
  if (partner !== undefined) {
    const { files } = (await attachedOf(deps, partner.id)) ?? {};
    return { join: { ...join, network: `/proc/${partner.pid}/ns/net` }, network: "join", files, ...rest };
  }
  const attached = await connections.attach(record, signal);
  if (attached.kind === "host") return { join, network: "host", files: attached.files, ...rest };
  return { join: { ...join, network: attached.path }, network: "join", files: attached.files, ...rest };
}

/** Whose IPC namespace and /dev/shm are joined, and its own where it shares them. */
async function sharedMemoryOf(
  deps: PartnerDeps,
  { id, hostConfig }: LocalRecord,
): Promise<{ readonly ipc?: { readonly pid: number }; readonly shm?: string }> {
  const { IpcMode, ShmSize } = hostConfig;
  if (IpcMode === "shareable") {
    const shm = sharedMemoryPath(deps.directory, id);
    await openSharedMemory(shm, ShmSize);
    return { shm };
  }
  const ipc = await partnerOf(deps, IpcMode, "running");
  if (ipc === undefined) return {};
  const shm = sharedMemoryPath(deps.directory, ipc.id);
  if (await isMounted(shm)) return { ipc, shm };
  throw new ClusterError(
    "conflict",
    `can't join IPC of container ${ipc.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)`,
  );
}

async function attachedOf({ network }: PartnerDeps, id: string): Promise<Attached | undefined> {
  const all = await network.list();
  return all.find(({ containerId }) => containerId === id)?.attached;
}

/** The container of a "container:<name or id>" mode. */
export async function partnerOf(
  { engine }: Pick<PartnerDeps, "engine">,
  mode: string,
  mustRun?: "running",
): Promise<(ContainerRecord & { readonly pid: number }) | undefined> {
  const name = /^container:(.+)$/.exec(mode)?.[1];
  if (name === undefined) return undefined;
  const records = await engine.list();
  const found = findRecord(records, name);
  if (found === undefined) throw new ClusterError("not-found", `No such container: ${name}`);
  const { status } = found;
  if (status.state === "running") return { ...found, pid: status.pid };
  if (mustRun === undefined) return { ...found, pid: 0 };
  throw new ClusterError("conflict", `cannot join network of a non running container: ${found.id}`);
}

/** Mounts of the containers that `VolumesFrom` names. */
export async function borrowedMounts(
  { engine }: Pick<PartnerDeps, "engine">,
  names: readonly string[],
): Promise<MountRecord[]> {
  const records = await engine.list();
  return names.flatMap((text) => {
    const [, name = text, mode = ""] = /^(.*?)(?::(ro|rw|z|Z))?$/.exec(text) ?? [];
    const found = findRecord(records, name);
    if (found === undefined) throw new ClusterError("not-found", `No such container: ${name}`);
    return found.mounts
      .filter(({ type }) => type !== "tmpfs")
      .map((mount) => ({ ...mount, readOnly: mount.readOnly || mode === "ro" }));
  });
}
