import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { call } from "../lab/api.ts";
import { type Host, Lab } from "../lab/lab.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import { BenchManagers } from "./scale-managers.ts";

/** Which socket is written to: every host's front door, or the manager's own behind it. */
export type ApiSocket = "front door" | "manager";

export type ApiPart = "leader" | "follower" | "front door";

/** A leader among its managers, with a front door beside it. */
export interface ApiPlace extends AsyncDisposable {
  readonly sockets: Readonly<Record<ApiSocket, string>>;
  /** Whose processor time counts. */
  readonly processes: readonly { readonly who: ApiPart; readonly pid: number }[];
}

/** Hosts of the lab: everything that a host runs is there. */
export async function openLab(managers: number): Promise<ApiPlace> {
  const lab = await Lab.up({ name: "b-api", managers, workers: 0 });
  const end = (): Promise<void> => lab.down();
  try {
    const leader = await leaderOf(lab);
    const processes: { who: ApiPart; pid: number }[] = [];
    let managerPid = 0;
    for (const host of lab.managers) {
      const { manager, worker } = await host.ownProcesses();
      if (manager === undefined || worker === undefined) throw new Error(`${host.name} is not whole`);
      processes.push({ who: host === leader ? "leader" : "follower", pid: manager.pid });
      if (host !== leader) continue;
      managerPid = manager.pid;
      processes.push({ who: "front door", pid: worker.pid });
    }
    const sockets = {
      manager: `/proc/${managerPid}/root/run/shoal/manager.sock`,
      "front door": leader.socket,
    };
    return { sockets, processes, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}

async function leaderOf(lab: Lab): Promise<Host> {
  const nodes = await call<NodeSummary[]>(lab.managers[0]?.socket ?? "", "GET", "/nodes");
  const name = nodes.find(({ ManagerStatus }) => ManagerStatus?.Leader === true)?.Description.Hostname;
  const leader = lab.managers.find((host) => host.name === name);
  if (leader === undefined) throw new Error("no manager leads");
  return leader;
}

/**
 * Managers and a front door as processes of this machine, without hosts, engines or networks around them.
 *
 * @param profile - Directory for V8 profiles of all of them.
 */
export async function openProcesses(managers: number, profile: string | undefined): Promise<ApiPlace> {
  const execArgv = profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`];
  const started = await BenchManagers.start(managers, execArgv);
  let door: DoorProcess | undefined;
  const end = async (): Promise<void> => {
    await door?.[Symbol.asyncDispose]();
    await started[Symbol.asyncDispose]();
  };
  try {
    const leader = await started.leader();
    door = await DoorProcess.start(leader.socket, execArgv);
    const sockets = { manager: leader.socket, "front door": door.socket };
    const processes = [
      ...started.running.map(({ pid }) => ({ who: partOf(pid === leader.pid), pid })),
      { who: "front door" as const, pid: door.pid },
    ];
    return { sockets, processes, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}

function partOf(isLeader: boolean): ApiPart {
  return isLeader ? "leader" : "follower";
}

/** What a front door in a process of its own is told; it answers once it serves. */
export interface DoorOrder {
  readonly directory: string;
  readonly managerSocket: string;
}

class DoorProcess implements AsyncDisposable {
  readonly socket: string;
  readonly #child: ChildProcess;
  readonly #directory: string;

  private constructor(child: ChildProcess, directory: string) {
    this.#child = child;
    this.#directory = directory;
    this.socket = join(directory, "shoal.sock");
  }

  static async start(managerSocket: string, execArgv: readonly string[]): Promise<DoorProcess> {
    const directory = await mkdtemp(join(tmpdir(), "shoal-bench-door-"));
    const child = fork(new URL("./api-door.js", import.meta.url), { execArgv: [...execArgv] });
    const door = new DoorProcess(child, directory);
    const order: DoorOrder = { directory, managerSocket };
    child.send(order);
    const ended = once(child, "exit").then(() => Promise.reject(new Error("the front door ended")));
    try {
      await Promise.race([once(child, "message"), ended]);
    } catch (error) {
      await rm(directory, { recursive: true, force: true });
      throw error;
    } finally {
      ended.catch(() => undefined); // From now on it may end.
    }
    return door;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.disconnect(); // It exits by itself then, and leaves its profile.
    await ended;
    await rm(this.#directory, { recursive: true, force: true });
  }
}
