import t from "tap";

import { stepsBefore } from "../../../worker/builder/cache.ts";

t.test("steps of the cache by when they were made", (t) => {
  const [first, second] = ["a", "b"].map((digit) => digit.repeat(64)) as [string, string];
  const listing = `sha256:${first}|1000|\n${second}|2000|\n\nsomething else|3|\n`;
  t.strictSame(stepsBefore(listing, undefined), [first, second]);
  t.strictSame(stepsBefore(listing, 2_000_000), [first], "not what was made at that time");
  t.strictSame(stepsBefore(listing, 2_000_001), [first, second]);
  t.strictSame(stepsBefore(listing, 1_000_000), []);
  t.strictSame(stepsBefore("", undefined), []);
  t.end();
});
