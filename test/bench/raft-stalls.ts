import { sleep } from "../lab/shell.ts";
import { BenchGroup } from "./raft-group.ts";

export interface StallOptions {
  readonly minutes: number;
  readonly everyMs: number;
  readonly forMs: number;
}

const lookEveryMs = 10_000;
const proposalBytes = 256;

/**
 * Blocks the main thread of every member again and again while one proposal at a time goes on, and counts elections.
 *
 * @returns How many there were.
 */
export async function benchStalls(options: StallOptions, say: (line: string) => void): Promise<number> {
  await using group = await BenchGroup.start();
  const { everyMs, forMs, minutes } = options;
  const leader = await group.leader();
  const others = group.members.filter((member) => member !== leader);
  for (const member of group.members) await member.ask({ kind: "stall", everyMs, forMs });
  const terms = async (): Promise<number> =>
    Math.max(...(await Promise.all(others.map(async (member) => (await member.look()).term))));
  const ms = minutes * 60_000;
  const load = leader.load({ inFlight: 1, bytes: proposalBytes, ms });
  const first = await terms();
  const end = performance.now() + ms;
  let last = first;
  while (performance.now() < end) {
    await sleep(Math.min(lookEveryMs, Math.max(0, end - performance.now())));
    const now = await terms();
    if (now !== last) say(`term ${now} after ${last}`);
    last = now;
  }
  const { count } = await load;
  say(
    `${minutes} min, ${forMs} ms of every ${everyMs} ms stalled: ${last - first} elections, ${count} commits`,
  );
  return last - first;
}
