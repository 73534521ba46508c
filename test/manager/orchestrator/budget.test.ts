import t from "tap";
import { ReplacementBudget, replacementsPerSecond } from "../../../manager/orchestrator/budget.ts";

t.test("a full second's worth at once, then as many as time brings", (t) => {
  const budget = new ReplacementBudget(0);
  const taken = (nowMs: number): number => {
    let count = 0;
    while (budget.take(nowMs)) count += 1;
    return count;
  };
  t.equal(taken(0), replacementsPerSecond);
  t.equal(taken(0), 0);
  t.equal(taken(100), replacementsPerSecond / 10);
  t.equal(taken(1_000_000), replacementsPerSecond, "it does not pile up");
  t.end();
});
