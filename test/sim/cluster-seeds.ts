import type { Extent } from "./cluster-plan.ts";

/** Histories that once broke a rule, and what it was. */
export const clusterSeeds: readonly {
  readonly seed: number;
  readonly extent: Extent;
  readonly found: string;
}[] = [
  {
    seed: 499,
    extent: "services",
    found: "a task of a start-first service that had just begun to serve was shut down as idle",
  },
  {
    seed: 588,
    extent: "services",
    found: "a node that had asked a leader without a quorum was down before it found the next",
  },
  { seed: 5154, extent: "services", found: "the same with a leader whose log was slow" },
  {
    seed: 5436,
    extent: "services",
    found: "a start-first update whose tasks all failed began again whenever it was complete",
  },
  {
    seed: 5501,
    extent: "services",
    found: "a node paused in mid-update kept both tasks of a global service",
  },
  { seed: 5652, extent: "services", found: "a rollback shut down a task that had just begun to serve" },
  {
    seed: 5696,
    extent: "services",
    found: "a node that looked for its leader asked one silent manager twice in a row",
  },
  {
    seed: 5701,
    extent: "services",
    found: "the first task of a start-first update was shut down as it began to serve",
  },
  {
    seed: 283,
    extent: "services",
    found: "an update that goes on past failures waited for ever for restarts beside the old tasks",
  },
  {
    seed: 794,
    extent: "services",
    found: "a host port was refused as taken where an update of a global service added it",
  },
  {
    seed: 5166,
    extent: "services",
    found: "an update began again and again where the restart policy had given its tries up",
  },
  { seed: 5752, extent: "services", found: "a rollback made new tasks for ever where nothing is restarted" },
  {
    seed: 41022,
    extent: "services",
    found: "a task was given to a node that lost the label it asks for while that was on its way",
  },
  {
    seed: 100429,
    extent: "services",
    found: "a global job never began on a node that became eligible while it was not heard",
  },
  {
    seed: 220101,
    extent: "whole",
    found: "an update that was given up left two older tasks in a slot",
  },
  {
    seed: 903058,
    extent: "whole",
    found:
      "the rule about replicas per node counted a task of the next revision, which has no limit (the rule was wrong)",
  },
  {
    seed: 904124,
    extent: "whole",
    found: "a paused rollback left two older tasks where its own try was taken back",
  },
];
