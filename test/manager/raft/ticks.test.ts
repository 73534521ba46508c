import t from "tap";
import { TickCounter } from "../../../manager/raft/ticks.ts";

const cases = [
  { name: "a timer on time gives a tick a call", calls: [25, 50, 75], want: [1, 1, 1] },
  { name: "a little early or late is on time", calls: [24.4, 50.9, 74.2], want: [1, 1, 1] },
  {
    name: "a small delay in each call adds up to no tick lost",
    calls: [30, 60, 90, 120],
    want: [1, 1, 2, 1],
  },
  { name: "a late call makes up for what went by", calls: [25, 100, 125], want: [1, 3, 1] },
  {
    name: "a long halt counts four ticks, and then time goes on from there",
    calls: [25, 1000, 1025],
    want: [1, 4, 1],
  },
] as const;

for (const { name, calls, want } of cases) {
  t.test(name, (t) => {
    const counter = new TickCounter(25, 0);
    t.strictSame(
      calls.map((nowMs) => counter.due(nowMs)),
      want,
    );
    t.end();
  });
}
