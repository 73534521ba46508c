import t from "tap";
import { Life } from "../../runtime/life.ts";

t.test("listeners hear the first end, once, unless they were taken away", (t) => {
  const life = new Life();
  const heard: string[] = [];
  const gone = (): void => void heard.push("gone");
  life.addEventListener("abort", () => heard.push("stays"));
  life.addEventListener("abort", gone);
  life.removeEventListener("abort", gone);
  t.strictSame([life.aborted, life.reason], [false, undefined]);
  life.end("first");
  life.end("second");
  t.strictSame(heard, ["stays"]);
  t.strictSame([life.aborted, life.reason], [true, "first"]);
  t.end();
});

t.test("a signal is aborted with it, whenever it was asked for", (t) => {
  const life = new Life();
  const { signal } = life;
  t.equal(life.signal, signal);
  t.notOk(signal.aborted);
  life.end("over");
  t.strictSame([signal.aborted, signal.reason], [true, "over"]);
  const late = new Life();
  late.end("over");
  t.strictSame([late.signal.aborted, late.signal.reason], [true, "over"]);
  t.end();
});

t.test("what settles before the end settles so; what does not, rejects with the reason", async (t) => {
  const life = new Life();
  t.equal(await life.race(Promise.resolve(1)), 1);
  await t.rejects(life.race(Promise.reject(new Error("its own"))), { message: "its own" });
  const waiting = life.race(new Promise(() => {}));
  life.end(new Error("over"));
  await t.rejects(waiting, { message: "over" });
  await t.rejects(life.race(new Promise(() => {})), { message: "over" });
});
