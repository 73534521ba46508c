import { ClusterError } from "../../model/errors.ts";
import type { Day } from "./cluster-plan.ts";
import type { ImageScript } from "./engine.ts";
import type { SimRandom } from "./raft-schedule.ts";

/** Images whose containers run until they are stopped, or finish as a job should; settling expects all of such services. */
export const soundImages: ReadonlySet<string> = new Set([
  "web:1",
  "web:2",
  "slow:1",
  "stubborn:1",
  "checked:1",
  "job:1",
  "job:2",
]);

/** What images do in this world; those that are not here cannot be pulled. */
export function registryOf(random: SimRandom): Readonly<Record<string, ImageScript>> {
  const upTo = (ms: number): number => Math.round(random.next() * ms);
  return {
    "web:1": {},
    "web:2": {
      get startMs() {
        return upTo(200);
      },
    },
    "slow:1": {
      get pullMs() {
        return upTo(3_000);
      },
      get startMs() {
        return upTo(2_000);
      },
      get stopMs() {
        return upTo(3_000);
      },
    },
    "stubborn:1": { stopMs: "ignores" },
    "checked:1": { exec: () => ({ exitCode: 0, output: "" }) },
    "sick:1": { exec: () => ({ exitCode: random.chance(0.5) ? 1 : 0, output: "" }) },
    "crash:1": {
      get exitAfterMs() {
        return 100 + upTo(4_000);
      },
      exitCode: 1,
    },
    "done:1": {
      get exitAfterMs() {
        return 100 + upTo(4_000);
      },
    },
    "unstartable:1": { startError: new ClusterError("internal", "exec format error") },
    "job:1": {
      get exitAfterMs() {
        return 200 + upTo(3_000);
      },
    },
    "job:2": {
      get startMs() {
        return upTo(1_000);
      },
      get exitAfterMs() {
        return 50 + upTo(800);
      },
    },
    "flaky:1": {
      get exitAfterMs() {
        return 100 + upTo(2_000);
      },
      get exitCode() {
        return random.chance(0.5) ? 1 : 0;
      },
    },
  };
}

export const modes = ["replicated", "global", "replicated-job", "global-job"] as const;
export type Mode = (typeof modes)[number];

export interface ServiceDraft {
  readonly name: string;
  readonly mode: Mode;
  readonly order: "start-first" | "stop-first";
}

const nanosecondsPerMs = 1_000_000;
const ms = (value: number): number => value * nanosecondsPerMs;

/** A spec as clients send it, of a service that stays in its mode; `marker` tells this write from all others. */
export function drawSpec(
  random: SimRandom,
  day: Day,
  draft: ServiceDraft,
  marker: number,
): Record<string, unknown> {
  const isRough = day === "rough";
  const isJob = draft.mode === "replicated-job" || draft.mode === "global-job";
  const image = drawImage(random, isRough, isJob);
  const deadlineMs = 8_000 + random.integer(8_000);
  return {
    Name: draft.name,
    Labels: {
      marker: `${marker}`,
      "shoal.update.deadline": `${deadlineMs}ms`,
      "shoal.restart.max-delay": "8s",
    },
    Mode: drawMode(random, draft.mode, isRough),
    TaskTemplate: {
      ContainerSpec: {
        Image: image,
        StopGracePeriod: ms(random.pick([500, 3_000]) ?? 500),
        ...((image === "checked:1" || image === "sick:1") && {
          Healthcheck: { Test: ["CMD", "probe"], Interval: ms(1_000), Timeout: ms(500), Retries: 2 },
        }),
      },
      Resources: isRough && random.chance(0.5) ? { Reservations: drawReservations(random) } : {},
      RestartPolicy: isRough
        ? drawRestart(random, isJob)
        : { Condition: isJob ? "on-failure" : "any", Delay: ms(200) },
      Placement: isRough ? drawPlacement(random) : {},
      ForceUpdate: random.integer(3),
    },
    ...(!isJob && {
      UpdateConfig: drawUpdate(random, draft.order, isRough ? ["pause", "continue", "rollback"] : ["pause"]),
      RollbackConfig: drawUpdate(random, draft.order, isRough ? ["pause", "continue"] : ["pause"]),
    }),
    ...(isRough &&
      random.chance(0.15) && {
        EndpointSpec: {
          Mode: "dnsrr",
          Ports: [
            {
              Protocol: "tcp",
              TargetPort: 80,
              PublishedPort: 8_000 + random.integer(2),
              PublishMode: "host",
            },
          ],
        },
      }),
  };
}

function drawImage(random: SimRandom, isRough: boolean, isJob: boolean): string {
  if (isJob)
    return (
      random.pick(isRough ? ["job:1", "job:2", "job:1", "flaky:1", "missing:1"] : ["job:1", "job:2"]) ??
      "job:1"
    );
  const sound = ["web:1", "web:2", "slow:1", "checked:1"];
  const any = [...sound, ...sound, "stubborn:1", "sick:1", "crash:1", "done:1", "missing:1", "unstartable:1"];
  return random.pick(isRough ? any : sound) ?? "web:1";
}

function drawMode(random: SimRandom, mode: Mode, isRough: boolean): Record<string, unknown> {
  switch (mode) {
    case "replicated":
      return { Replicated: { Replicas: isRough ? random.integer(7) : 3 } };
    case "global":
      return { Global: {} };
    case "replicated-job": {
      const total = 1 + random.integer(6);
      return { ReplicatedJob: { MaxConcurrent: 1 + random.integer(total), TotalCompletions: total } };
    }
    case "global-job":
      return { GlobalJob: {} };
  }
}

function drawReservations(random: SimRandom): Record<string, unknown> {
  return { NanoCPUs: (1 + random.integer(4)) * 250_000_000, MemoryBytes: random.integer(4) * 256 * 2 ** 20 };
}

function drawRestart(random: SimRandom, isJob: boolean): Record<string, unknown> {
  const conditions = isJob
    ? ["none", "on-failure", "on-failure"]
    : ["none", "on-failure", "any", "any", "any"];
  return {
    Condition: random.pick(conditions),
    Delay: ms(random.pick([0, 200, 1_500]) ?? 0),
    MaxAttempts: random.pick([0, 0, 0, 2]),
    Window: random.chance(0.3) ? ms(5_000) : 0,
  };
}

function drawPlacement(random: SimRandom): Record<string, unknown> {
  const constraints = [
    "node.labels.zone==a",
    "node.labels.zone!=a",
    "node.role==worker",
    "node.labels.zone==c",
  ];
  return {
    Constraints: random.chance(0.4) ? [random.pick(constraints)] : [],
    Preferences: random.chance(0.3) ? [{ Spread: { SpreadDescriptor: "node.labels.zone" } }] : [],
    MaxReplicas: random.pick([0, 0, 0, 1, 2]),
  };
}

function drawUpdate(
  random: SimRandom,
  order: ServiceDraft["order"],
  failureActions: readonly string[],
): Record<string, unknown> {
  return {
    Parallelism: random.pick([0, 1, 1, 2]),
    Delay: ms(random.pick([0, 0, 500]) ?? 0),
    FailureAction: random.pick(failureActions),
    Monitor: ms(random.pick([0, 500, 3_000]) ?? 500),
    MaxFailureRatio: random.pick([0, 0, 0.4]),
    Order: order,
  };
}
