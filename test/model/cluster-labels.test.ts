import t from "tap";
import { autoRebalanceBudget, clusterLabelProblems } from "../../model/cluster-labels.ts";

const cases = [
  { value: undefined, budget: undefined, valid: true },
  { value: "off", budget: undefined, valid: true },
  { value: "on", budget: 2, valid: true },
  { value: "1", budget: 1, valid: true },
  { value: "100", budget: 100, valid: true },
  { value: "101", budget: undefined, valid: false },
  { value: "0", budget: undefined, valid: false },
  { value: "1.5", budget: undefined, valid: false },
  { value: "yes", budget: undefined, valid: false },
];
for (const { value, budget, valid } of cases) {
  t.test(`shoal.auto-rebalance ${value ?? "not given"}`, (t) => {
    const labels: Record<string, string> = value === undefined ? {} : { "shoal.auto-rebalance": value };
    t.equal(autoRebalanceBudget(labels), budget);
    t.equal(clusterLabelProblems(labels).length, valid ? 0 : 1);
    t.end();
  });
}
