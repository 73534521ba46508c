import { type Random, seededRandom } from "../../runtime/random.ts";
import { call } from "../lab/api.ts";
import type { Host, Lab } from "../lab/lab.ts";
import { sleep, waitFor } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";
import { checkLists, checkRegisters, type Verdict } from "../sim/linearizable.ts";
import { ask, type History, readList, readRegister, runClient } from "./clients.ts";
import type { FaultKind } from "./faults.ts";

export interface RunResult {
  readonly fault: string;
  /** From the moment the fault was complete to the end of the first write begun after it; none when nobody could serve. */
  readonly resumedDuringMs: number | undefined;
  /** From the moment the fault was taken away to the end of the first write begun after it, by whichever manager. */
  readonly resumedAfterMs: number;
  /** From that moment until every manager had taken a write. */
  readonly allServeAfterMs: number;
  readonly operations: number;
  readonly unknown: number;
  readonly registers: Verdict;
  readonly lists: Verdict;
}

const clientCount = 6;
const registerCount = 2;
const quietMs = 300;
const faultMs = 1_500;
const resumeLimitMs = 30_000;
/** No answer in this time: the next try asks again. */
const tryMs = 1_000;

/** Clients, a fault in their midst, its end; then what they saw is checked. */
export async function runFault(lab: Lab, kind: FaultKind, seed: number): Promise<RunResult> {
  const random = seededRandom(seed);
  const { leader, others } = await settled(lab);
  const history: History = { registers: [], lists: [] };
  const ending = new AbortController();
  const list = `list${Date.now().toString(36)}`;
  const registers = await Promise.all(
    Array.from({ length: registerCount }, async (_, at) => {
      const body = { Name: `${list}-register${at}`, Data: "eA==", Labels: {} };
      return (await call<{ ID: string }>(leader.socket, "POST", "/configs/create", { body })).ID;
    }),
  );
  const sockets = lab.managers.map(({ socket }) => socket);
  const clients = Array.from({ length: clientCount }, (_, at) =>
    runClient({
      name: `client${at}`,
      sockets,
      random: seededRandom(random.integer(2 ** 31)),
      history,
      registers,
      list,
      signal: ending.signal,
    }),
  );
  try {
    await sleep(quietMs);
    const shuffled = shuffle(others, random);
    const fault = await kind.begin({ lab, leader, others: shuffled, random });
    const from = performance.now();
    let resumedDuringMs: number | undefined;
    try {
      if (fault.serving.length > 0) {
        await firstWrite(fault.serving, `${list}-during`);
        resumedDuringMs = performance.now() - from;
      }
      await sleep(Math.max(0, faultMs - (performance.now() - from)));
    } finally {
      await fault.heal();
    }
    const healed = performance.now();
    const servedAfterMs = await Promise.all(
      lab.managers.map(async (host) => {
        await firstWrite([host], `${list}-after-${host.name}`);
        return performance.now() - healed;
      }),
    );
    await sleep(quietMs);
    ending.abort();
    await Promise.all(clients);
    // What is there at the end is part of the history: an acknowledged write that is lost shows here at the latest.
    const last = { name: "last", history, list };
    await readList(last, leader.socket);
    for (const id of registers) await readRegister(last, leader.socket, id);
    const all = [...history.registers, ...history.lists];
    return {
      fault: kind.name,
      resumedDuringMs,
      resumedAfterMs: Math.min(...servedAfterMs),
      allServeAfterMs: Math.max(...servedAfterMs),
      operations: all.length,
      unknown: all.filter(({ returned }) => returned === undefined).length,
      registers: checkRegisters(history.registers),
      lists: checkLists(history.lists),
    };
  } finally {
    ending.abort();
    await Promise.all(clients);
  }
}

/** Waits until every manager is reachable, and says who leads. */
async function settled(lab: Lab): Promise<{ leader: Host; others: readonly Host[] }> {
  return waitFor("all managers reachable", { timeoutMs: resumeLimitMs }, async () => {
    const nodes = await call<NodeSummary[]>(lab.managers[0]?.socket ?? "", "GET", "/nodes", {
      timeoutMs: 2_000,
    });
    const managers = nodes.filter(({ ManagerStatus }) => ManagerStatus !== undefined);
    if (
      managers.some(
        (node) => node.ManagerStatus?.Reachability !== "reachable" || node.Status.State !== "ready",
      )
    )
      return false;
    const found = managers.find(({ ManagerStatus }) => ManagerStatus?.Leader === true);
    const leader = lab.managers.find(({ name }) => name === found?.Description.Hostname);
    if (leader === undefined || managers.length < lab.managers.length) return false;
    return { leader, others: lab.managers.filter((host) => host !== leader) };
  });
}

/** Tries until one of the hosts has taken a write. */
async function firstWrite(hosts: readonly Host[], name: string): Promise<void> {
  let attempt = 0;
  await waitFor(
    `a write through ${hosts.map((host) => host.name).join(" or ")}`,
    { timeoutMs: resumeLimitMs, everyMs: 10 },
    () =>
      Promise.any(
        hosts.map(async (host) => {
          attempt += 1;
          const body = { Name: `${name}-${attempt}`, Data: "eA==", Labels: {} };
          const outcome = await ask(host.socket, "POST", "/configs/create", body, tryMs);
          if (outcome.kind !== "answered") throw new Error("no write yet");
          return true;
        }),
      ),
  );
}

function shuffle<T>(from: readonly T[], random: Random): T[] {
  const shuffled = [...from];
  for (let at = shuffled.length - 1; at > 0; at -= 1) {
    const other = random.integer(at + 1);
    [shuffled[at], shuffled[other]] = [shuffled[other] as T, shuffled[at] as T];
  }
  return shuffled;
}
