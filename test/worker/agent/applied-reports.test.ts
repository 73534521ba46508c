import t from "tap";

import { AppliedReports } from "../../../worker/agent/applied-reports.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";

t.test("what was applied is told in its order, once clients have forgotten what it withdrew", async (t) => {
  const clock = new VirtualClock();
  const ending = new AbortController();
  const reports = new AppliedReports(clock, ending.signal);
  const sent: number[] = [];
  const tell = (sequence: number, heldMs: number): void => reports.tell(heldMs, () => sent.push(sequence));
  tell(1, 0);
  await settle();
  t.strictSame(sent, [1], "at once where nobody asked");
  tell(2, 2_000);
  tell(3, 0);
  await clock.advance(1_999);
  t.strictSame(sent, [1]);
  await clock.advance(1);
  t.strictSame(sent, [1, 2, 3]);
  tell(4, 2_000);
  await settle();
  ending.abort();
  await settle();
  t.strictSame(sent, [1, 2, 3]);
  t.equal(clock.waiting, 0);
});
