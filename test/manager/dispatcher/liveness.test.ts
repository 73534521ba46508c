import t from "tap";
import { Liveness, tickLimitMs } from "../../../manager/dispatcher/liveness.ts";
import type { NodeId } from "../../../model/ids.ts";
import { id } from "../../sim/objects.ts";

const node = id<NodeId>("node");

function run(liveness: Liveness, fromMs: number, untilMs: number, stepMs = 100): number | undefined {
  for (let nowMs = fromMs; nowMs <= untilMs; nowMs += stepMs) {
    liveness.tick(nowMs);
    if (liveness.takeOverdue().length > 0) return nowMs;
  }
  return undefined;
}

t.test("a silent node is overdue once its grace is over, and told once", (t) => {
  const liveness = new Liveness(0);
  liveness.expect(node, 3_000);
  t.equal(run(liveness, 100, 10_000), 3_000);
  t.equal(run(liveness, 10_100, 20_000), undefined);
  t.end();
});

t.test("every sign of life starts the grace anew", (t) => {
  const liveness = new Liveness(0);
  liveness.expect(node, 3_000);
  t.equal(run(liveness, 100, 2_900), undefined);
  liveness.expect(node, 3_000);
  t.equal(run(liveness, 3_000, 10_000), 5_900);
  t.end();
});

t.test("a pause of this manager counts for one look only", (t) => {
  for (const pauseMs of [1_000, 4_000, 60_000]) {
    const liveness = new Liveness(0);
    liveness.expect(node, 3_000);
    t.equal(run(liveness, 100, 1_000), undefined);
    const lostMs = liveness.tick(1_000 + pauseMs);
    t.equal(lostMs, pauseMs - tickLimitMs);
    t.strictSame(liveness.takeOverdue(), [], `${pauseMs} ms`);
    // The rest of the grace is still to run.
    t.equal(run(liveness, 1_100 + pauseMs, 100_000), 1_000 + pauseMs + 2_000 - tickLimitMs + 50);
  }
  t.end();
});
