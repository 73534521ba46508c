import type { WirePlan } from "./cluster-wire.ts";
import { type FaultKind, faultKinds } from "./cluster-faults.ts";
import type { NetworkPlan } from "./raft-network.ts";
import { type SimRandom, simRandom } from "./raft-schedule.ts";

/**
 * - `rough`: anything may happen, to anything;
 * - `start-first` and `stop-first`: hosts, links and images are sound, so that nothing but the cluster itself can take
 *   replicas away; nodes are drained on the first kind of day only, since stop-first promises nothing there.
 */
export type Day = "rough" | "start-first" | "stop-first";

/**
 * - `services`: services of bare containers, through requests to whoever leads; what histories were before the others;
 * - `whole`: networks, published ports, secrets and configs as well, requests that followers pass on, and full disks.
 */
export type Extent = (typeof extents)[number];
export const extents = ["services", "whole"] as const;

export interface PlanOptions {
  readonly day?: Day | undefined;
  readonly extent?: Extent | undefined;
  /** What is given instead of drawn; all else of the plan stays as the seed has it. */
  readonly given?: Partial<ClusterPlan> | undefined;
}

/** Everything about a history that is fixed before it begins. */
export interface ClusterPlan {
  readonly extent: Extent;
  readonly day: Day;
  readonly managers: number;
  /** Hosts that only work; managers' hosts work too. */
  readonly workers: number;
  /** Whether managers' hosts begin drained. */
  readonly managersWork: boolean;
  readonly network: NetworkPlan;
  readonly wire: WirePlan;
  readonly syncMs: readonly [number, number];
  readonly skewMs: number;
  readonly snapshotEntries: number;
  readonly keepEntries: number;
  readonly services: number;
  /** Mean time between two requests of clients. */
  readonly requestEveryMs: number;
  /** Of all requests, those that change a node, and of those on a rough day, the ones that change its labels. */
  readonly nodeRatio: number;
  readonly relabelRatio: number;
  readonly faults: {
    readonly kinds: readonly FaultKind[];
    readonly everyMs: number;
    readonly lastsMs: number;
  };
  /** Virtual time until requests and faults stop. */
  readonly durationMs: number;
}

/** Drawn from the seed alone, but for what is given. */
export function planOf(
  seed: number,
  { day: wanted, extent = "whole", given }: PlanOptions = {},
): ClusterPlan {
  const random = simRandom(Math.imul(seed, 0x9e3779b1) ^ 0xc1a57e);
  const drawn = random.pick(["rough", "rough", "rough", "start-first", "stop-first"] as const) ?? "rough";
  const day = wanted ?? drawn;
  const isRough = day === "rough";
  const latencyMs = random.pick([
    [0.1, 0.5],
    [0.2, 5],
    [1, 40],
  ] as const) ?? [0.1, 0.5];
  return {
    extent,
    day,
    managers: random.chance(0.8) ? 3 : 5,
    workers: random.chance(0.04) ? 10 + random.integer(41) : 3 + random.integer(5),
    managersWork: random.chance(0.4),
    network: {
      kind: "stream",
      latencyMs,
      dropRatio: isRough ? (random.pick([0, 0, 0.01, 0.05]) ?? 0) : 0,
      duplicateRatio: 0,
      spikeRatio: isRough ? (random.pick([0, 0, 0.01]) ?? 0) : 0,
      spikeMs: random.pick([100, 500]) ?? 100,
      encoded: false,
    },
    wire: { latencyMs, windowMessages: random.pick([2, 16, 1000]) ?? 16 },
    syncMs: random.pick([
      [0.1, 0.3],
      [0.5, 3],
      [5, 30],
    ] as const) ?? [0.1, 0.3],
    skewMs: random.pick([0, 50, 2000]) ?? 0,
    snapshotEntries: random.pick([20, 60, 10_000]) ?? 60,
    keepEntries: random.pick([0, 10, 500]) ?? 10,
    services: 1 + random.integer(4),
    requestEveryMs: random.pick([400, 1200, 3000]) ?? 1200,
    nodeRatio: 0.3,
    relabelRatio: 0.3,
    faults: {
      kinds: drawKinds(random, isRough, extent),
      everyMs: random.pick([1500, 4000, 9000]) ?? 4000,
      lastsMs: random.pick([500, 2500, 8000]) ?? 2500,
    },
    durationMs: 6_000 + random.integer(12_000),
    ...given,
  };
}

const calmKinds: readonly FaultKind[] = ["manager-kill", "leader-kill", "manager-pause"];

/** Some of all kinds, so that each kind also happens without the others getting in its way. */
function drawKinds(random: SimRandom, isRough: boolean, extent: Extent): readonly FaultKind[] {
  const rough = faultKinds.filter((kind) => extent === "whole" || kind !== "full-disk");
  const possible = isRough ? rough : calmKinds;
  const drawn = possible.filter(() => random.chance(0.4));
  return drawn.length > 0 ? drawn : [random.pick(possible) ?? "leader-kill"];
}
