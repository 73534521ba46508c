import type { ClusterPlan, Day } from "./cluster-plan.ts";
import type { Plant } from "./raft-plants.ts";

/** As those of consensus, for whole clusters. */
export interface ClusterPlant extends Omit<Plant, "plan" | "rules"> {
  /** The kind of day, where any kind would need many of them. */
  readonly day?: Day;
  /** What histories are like, for the same reason. */
  readonly plan?: Partial<ClusterPlan>;
}

export const clusterPlants: readonly ClusterPlant[] = [
  {
    name: "a node's CPUs are sold twice",
    module: "manager/scheduler/field",
    changes: [
      {
        find: "nanoCpus > 0 && (usedCpus[row] ?? 0) + nanoCpus > (offeredCpus[row] ?? 0)",
        replace: "false",
      },
      {
        find: "resources.nanoCpus > 0 && (usedCpus[row] ?? 0) + resources.nanoCpus > (offeredCpus[row] ?? 0)",
        replace: "false",
      },
    ],
    seeds: 60,
  },
  {
    name: "constraints are not asked",
    module: "manager/scheduler/facts",
    changes: [{ find: "!nodeMeets(constraints, node)", replace: "false" }],
    seeds: 60,
  },
  {
    name: "an update of a start-first service ends the old task at once",
    module: "manager/orchestrator/update",
    changes: [{ find: 'policy.order === "start-first" ? slot.live.filter(isRunning) : []', replace: "[]" }],
    day: "start-first",
    seeds: 20,
  },
  {
    name: "a drain does not wait for the replacement",
    module: "manager/orchestrator/restart",
    changes: [
      {
        find: 'scene.service.spec.update?.order === "start-first" && isRunning(task)',
        replace: "false",
      },
    ],
    day: "start-first",
    seeds: 20,
  },
  {
    name: "an update takes all slots at once",
    module: "manager/orchestrator/update",
    changes: [{ find: "policy.parallelism === 0 ? dirty.length", replace: "true ? dirty.length" }],
    day: "stop-first",
    seeds: 20,
  },
  {
    name: "a status that is old is taken",
    module: "manager/dispatcher/status",
    changes: [{ find: "taskStates[status.state] < taskStates[task.status.state]", replace: "false" }],
    // A worker reports in order: only what managers say of a task by themselves can be ahead of it, as when its node
    // gets other labels than its service asks for.
    day: "rough",
    plan: { requestEveryMs: 400, nodeRatio: 0.6, relabelRatio: 0.9 },
    seeds: 60,
  },
  {
    name: "a worker does not hear that a task is to end",
    module: "worker/agent/plan",
    changes: [{ find: "isRaised(known.desiredState, assignment.desiredState)", replace: "false" }],
    seeds: 20,
  },
  {
    name: "a new leader gives nodes no time to come",
    module: "manager/dispatcher/node-states",
    changes: [
      {
        find: "Math.max(unheardGraceLeastMs, this.#deps.store.view(heartbeatPeriodMs) * unheardGrace)",
        replace: "1",
      },
    ],
    day: "start-first",
    seeds: 20,
  },
  {
    name: "a job runs once more than it was asked to",
    module: "manager/orchestrator/jobs",
    changes: [{ find: "slot <= mode.totalCompletions", replace: "slot <= mode.totalCompletions + 1" }],
    seeds: 40,
  },
];
