import t from "tap";
import { EventQueue } from "../../../manager/raft/event-queue.ts";

t.test(
  "whoever fills a queue is told of what was taken, when the consumer asks for more and not before",
  async (t) => {
    const queue = new EventQueue<string>();
    const taken: string[] = [];
    for (const name of ["one", "two", "three"]) queue.push(name, () => taken.push(name));
    queue.end();
    const seen: { name: string; taken: readonly string[] }[] = [];
    for await (const name of queue) seen.push({ name, taken: [...taken] });
    t.strictSame(seen, [
      { name: "one", taken: [] },
      { name: "two", taken: ["one"] },
      { name: "three", taken: ["one", "two"] },
    ]);
    t.strictSame(taken, ["one", "two", "three"]);
  },
);

t.test("what was pushed before a failure is delivered before it", async (t) => {
  const queue = new EventQueue<number>();
  queue.push(1);
  queue.fail(new Error("broken"));
  queue.push(2);
  const seen: number[] = [];
  await t.rejects(
    async () => {
      for await (const value of queue) seen.push(value);
    },
    { message: "broken" },
  );
  t.strictSame(seen, [1]);
});
