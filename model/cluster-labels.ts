/** What a cluster says beyond the Engine API, as labels of the swarm. */
import type { Labels } from "./meta.ts";

const autoRebalanceLabel = "shoal.auto-rebalance";
const defaultMoves = 2;
const mostMoves = 100;

/**
 * How many tasks may be moving at a time for the sake of balance; `undefined` when nothing moves by itself, as
 * is the default. `shoal.auto-rebalance` is `off`, `on`, or that number.
 */
export function autoRebalanceBudget(labels: Labels): number | undefined {
  const value = labels[autoRebalanceLabel] ?? "off";
  if (value === "on") return defaultMoves;
  const count = Number(value);
  return /^\d+$/.test(value) && count >= 1 && count <= mostMoves ? count : undefined;
}

/** Problems of the cluster's labels that are ours, with what is accepted. */
export function clusterLabelProblems(labels: Labels): string[] {
  const value = labels[autoRebalanceLabel];
  if (value === undefined || value === "off" || autoRebalanceBudget(labels) !== undefined) return [];
  return [
    `invalid label ${autoRebalanceLabel}=${JSON.stringify(value)}: off, on or how many tasks may move at a time (1 to ${mostMoves}) is accepted`,
  ];
}
