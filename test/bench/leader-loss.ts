import { call } from "../lab/api.ts";
import { Lab, type Host } from "../lab/lab.ts";
import { sleep, waitFor } from "../lab/shell.ts";
import type { NodeSummary } from "../lab/swarm.ts";

const tryEveryMs = 10;
/** A try that was passed on to the dead leader hangs; a client that wants to write soon tries again. */
const tryBoundMs = 200;
const roundBoundMs = 30_000;
const backBoundMs = 60_000;

/**
 * Cuts the power of the leader's host again and again, and measures until the next write through another manager succeeds.
 * Every round begins with three managers that vote and answer.
 *
 * @returns Milliseconds, one a round.
 */
export async function benchLeaderLoss(rounds: number, say: (line: string) => void): Promise<number[]> {
  const lab = await Lab.up({ name: "b-loss", managers: 3, workers: 0 });
  try {
    const taken: number[] = [];
    for (let round = 1; round <= rounds; round++) {
      const leader = await settled(lab);
      const other = lab.managers.find((host) => host !== leader);
      if (other === undefined) throw new Error("assertion failed: there is one manager only");
      const start = performance.now();
      const killed = leader.kill(); // The wire goes first; tries begin beside what is left to be done.
      const ms = await nextWrite(other, { round, start });
      await killed;
      taken.push(ms);
      say(`round ${round}: ${leader.name} lost, next write after ${ms.toFixed(0)} ms`);
      await lab.restart(leader);
    }
    return taken;
  } finally {
    await lab.down();
  }
}

/** The leader's host, once every manager says the same of it and that all of them can be reached. */
function settled(lab: Lab): Promise<Host> {
  return waitFor("all managers are back", { timeoutMs: backBoundMs }, async () => {
    const leaders = new Set<string>();
    for (const { socket } of lab.managers) {
      const nodes = await call<NodeSummary[]>(socket, "GET", "/nodes", { timeoutMs: 2_000 });
      const managers = nodes.flatMap(({ ManagerStatus }) => ManagerStatus ?? []);
      if (managers.some(({ Reachability }) => Reachability !== "reachable")) return undefined;
      for (const { Leader, Addr } of managers) if (Leader === true) leaders.add(Addr);
    }
    const [address = ""] = leaders;
    return leaders.size === 1 ? lab.managers.find(({ addr }) => address.startsWith(`${addr}:`)) : undefined;
  });
}

async function nextWrite(
  { socket }: Host,
  { round, start }: { readonly round: number; readonly start: number },
): Promise<number> {
  for (let attempt = 1; ; attempt++) {
    const body = { Name: `loss-${round}-${attempt}`, Data: "aGk=" };
    const tried = performance.now();
    try {
      const { ID } = await call<{ ID: string }>(socket, "POST", "/configs/create", {
        body,
        timeoutMs: tryBoundMs,
      });
      const ms = performance.now() - start;
      await call(socket, "DELETE", `/configs/${ID}`).catch(() => undefined); // Only kept small.
      return ms;
    } catch (error) {
      if (performance.now() - start > roundBoundMs) throw error;
    }
    await sleep(Math.max(0, tried + tryEveryMs - performance.now()));
  }
}
