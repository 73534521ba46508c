import type { CoreLimits } from "../../manager/raft/group.ts";
import type { ClientPlan } from "./raft-clients.ts";
import {
  type FaultKind,
  type FaultPlan,
  faultKinds,
  laterFaultKinds,
  transferFaultKinds,
} from "./raft-faults.ts";
import type { HostPlan } from "./raft-host.ts";
import type { NetworkPlan } from "./raft-network.ts";
import { type SimRandom, simRandom } from "./raft-schedule.ts";

/** Everything about a history that is fixed before it begins. */
export interface RaftPlan {
  /** Voters at the beginning, 1 to 7. */
  readonly founders: number;
  /** Managers there are in all. */
  readonly hosts: number;
  readonly network: NetworkPlan;
  readonly host: HostPlan;
  readonly clients: ClientPlan;
  readonly faults: FaultPlan;
  /** Mean time between two changes of membership; undefined for a group that stays as it is. */
  readonly changeEveryMs: number | undefined;
  /** Virtual time until the faults stop. */
  readonly durationMs: number;
}

/** Drawn from the seed alone: what kind of day this group has. */
export function planOf(seed: number): RaftPlan {
  const random = simRandom(seed ^ 0x5eed);
  const founders = random.pick([1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]) ?? 3;
  const changes = random.chance(0.5);
  const plan: RaftPlan = {
    founders,
    hosts: changes ? Math.min(7, founders + 1 + random.integer(3)) : founders,
    network: {
      kind: random.chance(0.5) ? "stream" : "datagram",
      latencyMs: random.pick([
        [0.1, 0.5],
        [0.2, 5],
        [1, 40],
      ] as const) ?? [0.1, 0.5],
      dropRatio: random.pick([0, 0, 0.01, 0.05, 0.2]) ?? 0,
      duplicateRatio: random.pick([0, 0.02, 0.1]) ?? 0,
      spikeRatio: random.pick([0, 0, 0.01, 0.1]) ?? 0,
      spikeMs: random.pick([100, 500, 3000]) ?? 100,
      encoded: random.chance(0.125),
    },
    host: {
      snapshotEntries: random.pick([5, 10, 25, 1000]) ?? 25,
      keepEntries: random.pick([0, 2, 10]) ?? 10,
      smallSnapshotBytes: drawSmallSnapshot(seed),
      segmentBytes: random.pick([2048, 4096, 16_384]) ?? 4096,
      readBytes: random.pick([150, 600, Infinity]) ?? Infinity,
      syncMs: random.pick([
        [0.1, 0.3],
        [0.5, 3],
        [5, 30],
      ] as const) ?? [0.1, 0.3],
      coreLimits: drawCoreLimits(seed),
      ...fewTransfers,
    },
    clients: {
      clients: 2 + random.integer(6),
      thinkMs: random.pick([20, 60, 200]) ?? 60,
      writeRatio: random.pick([0.3, 0.5, 0.8]) ?? 0.5,
      leaderRatio: random.pick([0.5, 0.8, 1]) ?? 0.8,
    },
    faults: {
      kinds: [...drawKinds(random), ...drawLaterKinds(seed)],
      everyMs: random.pick([100, 250, 600, 1200]) ?? 250,
      lastsMs: random.pick([150, 500, 1500]) ?? 500,
    },
    changeEveryMs: changes ? (random.pick([150, 400, 1000]) ?? 400) : undefined,
    durationMs: 1_500 + random.integer(3_500),
  };
  return drawTransfers(seed) ? manyTransfers(plan) : plan;
}

const fewTransfers = { snapshotPartBytes: 1024, maxKeepEntries: 20_000 } as const;

/** States in dozens of parts and logs that are short behind them: whoever was away for a moment is sent a snapshot. */
export function manyTransfers(plan: RaftPlan): RaftPlan {
  const { host, clients, faults, durationMs } = plan;
  return {
    ...plan,
    host: { ...host, snapshotPartBytes: 100, snapshotEntries: 10, keepEntries: 0, maxKeepEntries: 5 },
    clients: { ...clients, clients: 7, thinkMs: 20, writeRatio: 0.8 },
    // Often enough that something comes in between, and seldom enough that much is written between two of them.
    faults: { kinds: [...faults.kinds.slice(0, 4), ...transferFaultKinds], everyMs: 600, lastsMs: 300 },
    durationMs: durationMs + 2_000,
  };
}

/** Drawn apart as well. */
function drawTransfers(seed: number): boolean {
  return simRandom(Math.imul(seed, 0x85ebca6b) ^ 0x7a2a).chance(0.15);
}

/** Now and then so tight that a few small entries fill them; drawn apart, so that other days are as they were before. */
function drawCoreLimits(seed: number): CoreLimits {
  if (!simRandom(seed ^ 0x7161).chance(0.2)) return {};
  return { maxMessageBytes: 400, maxInflightCount: 4, maxInflightBytes: 1_200, maxUncommittedBytes: 2_000 };
}

/** Now and then so little that every state is a large one; drawn apart as well. */
function drawSmallSnapshot(seed: number): number {
  return simRandom(Math.imul(seed, 0x9e3779b1) ^ 0x5a11).chance(0.3) ? 100 : 1024 * 1024;
}

/** Some of all kinds, so that each kind also happens without the others getting in its way. */
function drawKinds(random: SimRandom): readonly FaultKind[] {
  const ratio = random.pick([0, 0.15, 0.35, 0.7, 1]) ?? 0.5;
  return faultKinds.filter((kind) => !isLater(kind) && random.chance(ratio));
}

function drawLaterKinds(seed: number): readonly FaultKind[] {
  const random = simRandom(seed ^ 0x1a7e);
  return laterFaultKinds.filter(() => random.chance(0.15));
}

function isLater(kind: FaultKind): boolean {
  return [...laterFaultKinds, ...transferFaultKinds].some((later) => later === kind);
}
