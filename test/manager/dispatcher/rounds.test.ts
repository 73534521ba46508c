import t, { type Test } from "tap";
import { Rounds } from "../../../manager/dispatcher/rounds.ts";
import type { Session } from "../../../manager/dispatcher/session.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";

interface Teller {
  readonly clock: SlowClock;
  readonly told: string[];
  readonly rounds: Rounds;
}

/** Work takes time on it. */
class SlowClock extends VirtualClock {
  #workedMs = 0;

  override monotonic(): number {
    return super.monotonic() + this.#workedMs;
  }

  work(ms: number): void {
    this.#workedMs += ms;
  }
}

/** @param tellMs - What it takes to tell one session. */
function teller(t: Test, tellMs: number): Teller {
  const clock = new SlowClock();
  const told: string[] = [];
  const rounds = new Rounds(clock, (session) => {
    told.push(session.sessionId);
    clock.work(tellMs);
  });
  const ended = new AbortController();
  const running = rounds.run(ended.signal).catch(() => undefined); // With the reason below.
  t.teardown(() => {
    ended.abort(new Error("the test is over"));
    return running;
  });
  return { clock, told, rounds };
}

function session(sessionId: string): Session {
  return { sessionId } as Session; // All that is looked at.
}

t.test("while little happens everyone is told at once", async (t) => {
  const { told, rounds } = teller(t, 1);
  rounds.add([session("a")], "in time");
  await settle();
  rounds.add([session("b"), session("c")], "in time");
  await settle();
  t.strictSame(told, ["a", "b", "c"]);
});

t.test("after a round that took long the next one waits as long, and tells each once", async (t) => {
  const { clock, told, rounds } = teller(t, 10);
  const [a, b] = [session("a"), session("b")];
  rounds.add([a, b], "in time");
  await settle();
  t.strictSame(told, ["a", "b"]);
  rounds.add([b], "in time");
  await clock.advance(19);
  rounds.add([a, b], "in time");
  await settle();
  t.strictSame(told, ["a", "b"]);
  await clock.advance(1);
  t.strictSame(told, ["a", "b", "b", "a"]);
});

t.test("what is urgent does not wait, and takes along what waits", async (t) => {
  const { told, rounds } = teller(t, 10);
  const [a, b] = [session("a"), session("b")];
  rounds.add([a], "in time");
  await settle();
  rounds.add([b], "in time");
  await settle();
  rounds.add([a], "urgent");
  await settle();
  t.strictSame(told, ["a", "b", "a"]);
});

t.test("other work gets its turn within a long round, and nobody is left out", async (t) => {
  const { clock, told, rounds } = teller(t, 0);
  rounds.add(
    Array.from({ length: 200 }, (_, i) => session(`s${i}`)),
    "in time",
  );
  await settle();
  t.ok(told.length < 200);
  await clock.advance(1);
  await clock.advance(1);
  await clock.advance(1);
  t.equal(new Set(told).size, 200);
});
