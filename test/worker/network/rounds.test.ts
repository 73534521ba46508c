import { setImmediate } from "node:timers/promises";
import t from "tap";

import type { TaskId } from "../../../model/ids.ts";
import { type Job, Rounds } from "../../../worker/network/rounds.ts";

const never = new AbortController().signal;
const detach = (id: string) => ({ kind: "detach", taskId: id as TaskId }) as const;

/** "look", or whose link goes. */
function title({ work }: Job): string {
  return work.kind === "detach" ? work.taskId : work.kind;
}

t.test("what comes during a round waits for the next, which takes all of it", async (t) => {
  const seen: string[][] = [];
  const rounds = new Rounds(async (round) => {
    seen.push(round.map(title));
    await setImmediate();
    for (const job of round) job.done({});
  });
  const first = rounds.enqueue(detach("a"), never);
  await Promise.resolve();
  await Promise.resolve();
  await Promise.all([
    first,
    rounds.enqueue(detach("b"), never),
    rounds.enqueue(detach("c"), never),
    rounds.enqueue(detach("b"), never),
  ]);
  t.strictSame(seen, [["a"], ["b", "c"], ["b"]], "but one job for a task");
});

t.test("a round that gives way lets others be carried out before it ends, one round at a time", async (t) => {
  const said: string[] = [];
  let part = (): void => undefined;
  const parted = new Promise<void>((resolve) => (part = resolve));
  const rounds = new Rounds(async (round) => {
    const isLong = round.some(({ work }) => work.kind === "look");
    said.push(`begin ${round.map(title).join(" ")}`);
    if (isLong) {
      part();
      await setImmediate(); // So that others come.
      await rounds.giveWay();
      said.push("in between");
      await rounds.giveWay();
      await rounds.giveWay();
    }
    if (round.some((job) => title(job) === "bad")) throw new Error("no such device");
    for (const job of round) job.done({});
    said.push(`end ${round.map(title).join(" ")}`);
  });
  const look = rounds.enqueue({ kind: "look" }, never);
  await parted;
  const others = [detach("a"), detach("a"), detach("bad")].map((work) => rounds.enqueue(work, never));
  t.match(await Promise.allSettled(others), [
    { status: "fulfilled" },
    { status: "rejected" },
    { status: "rejected", reason: /cannot change the host's network: no such device/ },
  ]);
  await look;
  t.strictSame(said, ["begin look", "begin a", "end a", "in between", "begin a bad", "end look"]);
});
