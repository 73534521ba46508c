import t from "tap";
import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { Execs } from "../../../worker/containers/execs.ts";
import { ExecRefused, type ExecSession } from "../../../worker/engine/exec-session.ts";
import type { LocalEngine } from "../../../worker/engine/local.ts";

const containerId = "c".repeat(64);
const options = { attached: true, tty: false };

const running = { state: "running", startedAtMs: 1 };

function execsOver(
  openSession: () => Promise<Partial<ExecSession>>,
  statusOf: (id: string) => object | undefined = () => running,
): Execs {
  const inspect = (id: string) => {
    const status = statusOf(id);
    return Promise.resolve(status && { status });
  };
  return new Execs({
    engine: { inspect, openSession } as unknown as LocalEngine,
    random: systemRandom,
    log: silentLog,
    facts: { lastCapability: 40 },
    emit: () => Promise.resolve(),
  });
}

t.test("the caller is told that a command is accepted before it runs", async (t) => {
  const seen: string[] = [];
  const execs = execsOver(() => {
    seen.push("runs");
    return Promise.resolve({ pid: 42, exited: new Promise<number>(() => undefined) });
  });
  const id = await execs.create(containerId, { Cmd: ["true"] });
  await execs.start(id, { ...options, onAccepted: () => void seen.push("accepted") });
  t.strictSame(seen, ["accepted", "runs"]);
});

t.test("of two who start a command, one does, and the other is not told that it was accepted", async (t) => {
  const execs = execsOver(() => Promise.resolve({ pid: 42, exited: new Promise<number>(() => undefined) }));
  const id = await execs.create(containerId, { Cmd: ["true"] });
  let accepted = 0;
  const start = (): Promise<unknown> =>
    execs.start(id, { ...options, onAccepted: () => void (accepted += 1) });
  const ends = await Promise.allSettled([start(), start()]);
  t.strictSame(
    ends.map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
  t.match(ends[1], { reason: { code: "conflict", message: /already running/ } });
  t.equal(accepted, 1);
});

t.test("a command that cannot run has ended with its code", async (t) => {
  const refused = new ExecRefused(127, "no such file", undefined);
  const execs = execsOver(() => Promise.reject(refused));
  const id = await execs.create(containerId, { Cmd: ["nothing"] });
  await t.rejects(execs.start(id, options), refused);
  t.match(execs.require(id), { state: "ended", exitCode: 127 });
  await t.rejects(execs.start(id, options), { code: "conflict", message: /has already run/ });
});

t.test(
  "what was never started is forgotten with its container's run, all with their container",
  async (t) => {
    const [ends, starts, goes, stays] = ["a", "b", "c", "d"].map((letter) => letter.repeat(64)) as [
      string,
      string,
      string,
      string,
    ];
    const statuses = new Map<string, object>([ends, starts, goes, stays].map((id) => [id, running]));
    const session = { pid: 42, exited: Promise.resolve(0) };
    const execs = execsOver(
      () => Promise.resolve(session),
      (id) => statuses.get(id),
    );
    const create = (id: string): Promise<string> => execs.create(id, { Cmd: ["true"] });
    const never = await Promise.all([ends, starts, goes, stays].map(create));
    const run = await Promise.all([goes, stays].map(create));
    for (const id of run) await execs.start(id, options);
    await new Promise((resolve) => setImmediate(resolve));
    statuses.set(ends, { state: "stopped" });
    statuses.set(starts, { state: "running", startedAtMs: 2 });
    statuses.delete(goes);
    await create(stays);
    const kept = [...never, ...run].map((id) => {
      try {
        return execs.require(id).state;
      } catch {
        return "forgotten";
      }
    });
    t.strictSame(kept, ["forgotten", "forgotten", "forgotten", "created", "forgotten", "ended"]);
  },
);

t.test("commands that were created and never started do not use up what a host may hold", async (t) => {
  let startedAtMs = 0;
  const execs = execsOver(
    () => Promise.reject(new Error("not started")),
    () => ({ ...running, startedAtMs }),
  );
  for (let run = 0; run < 3; run++) {
    startedAtMs = run;
    const made = Array.from({ length: 4_000 }, () => execs.create(containerId, { Cmd: ["true"] }));
    await t.resolves(Promise.all(made));
  }
});
