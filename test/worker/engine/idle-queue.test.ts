import t from "tap";

import { IdleQueue } from "../../../worker/engine/idle-queue.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";

const idleAfterMs = 1_000;
const longestWaitMs = 30_000;

function world() {
  const clock = new VirtualClock();
  const queue = new IdleQueue(clock);
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const work = (name: string) => async (): Promise<string> => {
    begun.push(name);
    await new Promise<void>((resolve) => ends.set(name, resolve));
    return name;
  };
  const end = async (name: string): Promise<void> => {
    ends.get(name)?.();
    await settle();
  };
  return { clock, queue, begun, work, end };
}

t.test("on an idle host it begins at once, two at a time, in order", async (t) => {
  const { queue, begun, work, end } = world();
  const all = ["a", "b", "c"].map((name) => queue.whenIdle(work(name)).done);
  await settle();
  t.strictSame(begun, ["a", "b"]);
  await end("b");
  t.strictSame(begun, ["a", "b", "c"]);
  await end("a");
  await end("c");
  t.strictSame(await Promise.all(all), ["a", "b", "c"]);
});

t.test("it waits while something starts, and for a moment after that or any other activity", async (t) => {
  const { clock, queue, begun, work, end } = world();
  const start = queue.busy(work("start"));
  queue.whenIdle(work("a"));
  await clock.advance(10 * idleAfterMs);
  t.strictSame(begun, ["start"]);
  await end("start");
  await start;
  await clock.advance(idleAfterMs - 1);
  queue.active();
  await clock.advance(idleAfterMs - 1);
  t.strictSame(begun, ["start"]);
  await clock.advance(1);
  t.strictSame(begun, ["start", "a"]);
});

t.test("a host that is never idle does it in the end", async (t) => {
  const { clock, queue, begun, work } = world();
  void queue.busy(work("start"));
  queue.whenIdle(work("a"));
  await clock.advance(longestWaitMs - 1);
  t.strictSame(begun, ["start"]);
  await clock.advance(1);
  t.strictSame(begun, ["start", "a"]);
});

t.test("more than a hundred do not wait", async (t) => {
  const { queue, begun, work } = world();
  void queue.busy(work("start"));
  for (let at = 0; at < 103; at++) queue.whenIdle(work(`${at}`));
  await settle();
  t.strictSame(begun, ["start", "0", "1"]);
});

t.test("what somebody waits for begins now", async (t) => {
  const { queue, begun, work, end } = world();
  void queue.busy(work("start"));
  queue.whenIdle(work("a"));
  const b = queue.whenIdle(work("b"));
  b.hurry();
  b.hurry();
  t.strictSame(begun, ["start", "b"]);
  await end("b");
  t.equal(await b.done, "b");
});

t.test("a failure is the asker's, and the next begins all the same", async (t) => {
  const { queue, begun, work } = world();
  const failing = () => Promise.reject(new Error("refused"));
  await t.rejects(queue.whenIdle(failing).done, /refused/);
  await t.rejects(queue.whenIdle(failing).done, /refused/);
  queue.whenIdle(work("a"));
  t.strictSame(begun, ["a"]);
});

t.test("what is given up or left at the end never begins", async (t) => {
  const { clock, queue, begun, work } = world();
  const start = queue.busy(work("start"));
  start.catch(() => undefined);
  const abort = new AbortController();
  const a = queue.whenIdle(work("a"), abort.signal);
  const b = queue.whenIdle(work("b"));
  abort.abort(new Error("enough"));
  await t.rejects(a.done, /enough/);
  queue.close();
  await t.rejects(b.done, { code: "unavailable" });
  await t.rejects(queue.whenIdle(work("c")).done, { code: "unavailable" });
  await t.rejects(queue.whenIdle(work("d"), abort.signal).done);
  b.hurry();
  await clock.advance(longestWaitMs);
  t.strictSame(begun, ["start"]);
  t.equal(clock.waiting, 0);
});
