import t from "tap";
import { Limit } from "../../runtime/limit.ts";

const never = new AbortController().signal;

t.test("the work runs a bounded number at a time, in the order in which it came", async (t) => {
  const limit = new Limit(2);
  const started: number[] = [];
  const ends: (() => void)[] = [];
  const all = [1, 2, 3, 4].map((name) =>
    limit.run(() => {
      started.push(name);
      return new Promise<void>((resolve) => ends.push(resolve));
    }, never),
  );
  await Promise.resolve();
  t.strictSame(started, [1, 2]);
  ends[1]?.();
  await all[1];
  await Promise.resolve();
  t.strictSame(started, [1, 2, 3]);
  for (const end of ends) end();
  await all[0];
  await all[2];
  await Promise.resolve();
  t.strictSame(started, [1, 2, 3, 4]);
  ends.at(-1)?.();
  await Promise.all(all);
});

t.test("work that fails gives its place back, and who gives up waiting never takes one", async (t) => {
  const limit = new Limit(1);
  const stop = new AbortController();
  let end = (): void => undefined;
  const failing = limit.run(
    () => new Promise<void>((_resolve, reject) => (end = () => reject(new Error("no")))),
    never,
  );
  const waiting = limit.run(() => Promise.reject(new Error("must not run")), stop.signal);
  const last = limit.run(() => Promise.resolve("ran"), never);
  await Promise.resolve();
  stop.abort(new Error("given up"));
  await t.rejects(waiting, { message: "given up" });
  end();
  await t.rejects(failing, { message: "no" });
  t.equal(await last, "ran");
});
