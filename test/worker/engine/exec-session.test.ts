import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { Container } from "../../../worker/engine/container.ts";
import type { ExecDeps } from "../../../worker/engine/exec.ts";
import { exitCodeOf } from "../../../worker/engine/exec-session.ts";
import { VirtualClock } from "../../sim/clock.ts";

const away = Object.assign(new Error("14 UNAVAILABLE: Connection dropped"), { code: 14 });
const gone = Object.assign(new Error("5 NOT_FOUND: process does not exist"), { code: 5 });
const unreachable = new ClusterError("unavailable", "cannot reach containerd");
const longMs = 60_000;

/** What the client is told of a command when its questions are answered so; the last answer stays. */
function ask(
  answers: readonly (number | Error)[],
  { state = "running", isClosed = false }: { readonly state?: string; readonly isClosed?: boolean } = {},
) {
  let asked = 0;
  const answer = (): Promise<{ exitStatus: number }> => {
    const next = answers[Math.min(asked++, answers.length - 1)];
    return next instanceof Error ? Promise.reject(next) : Promise.resolve({ exitStatus: next ?? -1 });
  };
  const clock = new VirtualClock(0);
  const container = { id: "c", status: { state } };
  const deps = { clock, random: systemRandom, connection: { call: answer, isClosed } } as unknown as ExecDeps;
  const seen: number[] = [];
  void exitCodeOf(deps, container as unknown as Container, "e", answer() as never).then((code) =>
    seen.push(code),
  );
  return { seen, clock, container, asked: () => asked };
}

t.test("a command's code survives a restart of containerd", async (t) => {
  const { seen, clock } = ask([away, unreachable, unreachable, 3]);
  await clock.advance(0);
  t.strictSame(seen, [], "it may run on while containerd is away");
  await clock.advance(longMs);
  t.strictSame(seen, [3]);
});

t.test("it is asked for ever more seldom, until the container's end", async (t) => {
  const { seen, clock, container, asked } = ask([away]);
  await clock.advance(longMs);
  t.strictSame(seen, []);
  t.ok(asked() < 30, `asked ${asked()} times in a minute`);
  container.status.state = "stopped";
  await clock.advance(longMs);
  t.strictSame(seen, [137]);
});

t.test(
  "a command that went with its container, or an engine that is closed, is not asked for again",
  async (t) => {
    for (const { seen, clock, asked } of [
      ask([gone, 3]),
      ask([away, gone, 3]),
      ask([away, 3], { state: "stopped" }),
      ask([unreachable, 3], { isClosed: true }),
    ]) {
      await clock.advance(longMs);
      t.strictSame(seen, [137]);
      t.ok(asked() <= 2);
    }
  },
);
