import t from "tap";
import { Heard } from "../../../manager/telemetry/heard.ts";
import type { TaskId } from "../../../model/ids.ts";

const a = "a" as TaskId;
const b = "b" as TaskId;

t.test("after a break, what was heard is passed over, by time and by count within one time", (t) => {
  const heard = new Heard();
  const take = (task: TaskId, times: readonly number[]): number[] =>
    times.filter((atMs) => heard.isNew(task, atMs));
  t.equal(heard.sinceMs([a]), undefined, "never heard");
  t.strictSame(take(a, [1, 2, 2]), [1, 2, 2]);
  t.equal(heard.sinceMs([a, b]), undefined, "one of them was never heard");
  t.strictSame(take(b, [1]), [1]);
  t.equal(heard.sinceMs([a, b]), 1);
  heard.rewind([a, b]);
  t.strictSame(take(a, [1, 2]), [], "broken off again within what was heard");
  heard.rewind([a, b]);
  t.strictSame(take(a, [1, 2, 2, 2, 3]), [2, 3]);
  t.strictSame(take(b, [2]), [2], "what was heard is there no more");
  t.equal(heard.sinceMs([a]), 3);
  t.end();
});
