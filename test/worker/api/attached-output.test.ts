import t from "tap";
import { AttachedOutput } from "../../../worker/api/attached-output.ts";
import { VirtualClock } from "../../sim/clock.ts";

/** Whether it has settled by now, after all that is due. */
function watched(promise: Promise<unknown>): { settled: boolean } {
  const seen = { settled: false };
  void promise.then(() => (seen.settled = true));
  return seen;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function pending(): { readonly promise: Promise<void>; readonly end: () => void; readonly fail: () => void } {
  let end = (): void => undefined;
  let fail = (): void => undefined;
  const promise = new Promise<void>((resolve, reject) => {
    end = resolve;
    fail = () => reject(new Error("the client is gone"));
  });
  return { promise, end, fail };
}

t.test("told: after all who are attached to that container, whether they hear it or are gone", async (t) => {
  const attached = new AttachedOutput(new VirtualClock());
  const [first, second, other] = [pending(), pending(), pending()];
  attached.add("a", first.promise);
  attached.add("a", second.promise);
  attached.add("b", other.promise);
  const seen = watched(attached.told("a"));
  first.end();
  await turn();
  t.notOk(seen.settled, "one still listens");
  second.fail();
  await turn();
  t.ok(seen.settled);
});

t.test("told: at once when nobody is attached any more", async (t) => {
  const attached = new AttachedOutput(new VirtualClock());
  const one = pending();
  attached.add("a", one.promise);
  one.end();
  await turn();
  const seen = watched(attached.told("a"));
  await turn();
  t.ok(seen.settled);
});

t.test("told: one who does not read is not waited for longer than two seconds", async (t) => {
  const clock = new VirtualClock();
  const attached = new AttachedOutput(clock);
  attached.add("a", pending().promise);
  const seen = watched(attached.told("a"));
  await clock.advance(1_999);
  t.notOk(seen.settled);
  await clock.advance(1);
  await turn();
  t.ok(seen.settled);
});
