import { EventEmitter } from "node:events";
import t, { type Test } from "tap";
import type { DispatcherClient, ManagerMessage, WorkerMessage } from "../../../proto/gen/shoal/dispatcher.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { ManagerPool } from "../../../worker/agent/managers.ts";
import { Reporter } from "../../../worker/agent/reporter.ts";
import { keepSession, SessionLine } from "../../../worker/agent/session.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";

/** The client's end of a session with a manager of which only the address exists. */
class FakeSession extends EventEmitter {
  readonly sent: WorkerMessage[] = [];
  isCancelled = false;

  write(message: WorkerMessage): boolean {
    this.sent.push(message);
    return true;
  }

  cancel(): void {
    this.isCancelled = true;
  }

  receive(body: NonNullable<ManagerMessage["body"]>): void {
    this.emit("data", { body } satisfies ManagerMessage);
  }

  open(heartbeatPeriodMs: number): void {
    const value = {
      sessionId: "s",
      heartbeatPeriodMs,
      managers: [],
      rootPem: "",
      desiredRole: "worker",
      certificateGeneration: 0,
      nodeIndex: 1,
      tunnelKeys: [],
      clusterId: "c",
    };
    this.receive({ $case: "info", value });
  }

  beat(): void {
    this.receive({ $case: "heartbeat", value: {} });
  }
}

/** The process stands still: all its timers are late, each once. */
class StoppableClock extends VirtualClock {
  #stoppedMs = 0;

  override now(): number {
    return super.now() + this.#stoppedMs;
  }

  override monotonic(): number {
    return super.monotonic() + this.#stoppedMs;
  }

  stopFor(ms: number): void {
    this.#stoppedMs += ms;
  }
}

t.test("a leader that falls silent is left two seconds after its heartbeat is due", async (t) => {
  const { clock, sessions } = world(t);
  sessions[0]?.open(1_000);
  await clock.advance(1_000);
  sessions[0]?.beat();
  await clock.advance(3_000);
  t.equal(sessions[0]?.isCancelled, false);
  await clock.advance(500);
  t.equal(sessions[0]?.isCancelled, true);
  t.equal(sessions.length, 2, "a manager is asked again");
});

t.test("anything that is heard counts, and the period is the manager's to say", async (t) => {
  const { clock, sessions } = world(t);
  const [session] = sessions;
  session?.open(8_000);
  await clock.advance(9_900);
  session?.receive({ $case: "statusAck", value: { sequence: 1 } });
  await clock.advance(9_900);
  session?.beat();
  await clock.advance(9_900);
  t.equal(session?.isCancelled, false);
  session?.open(1_000);
  await clock.advance(3_500);
  t.equal(session?.isCancelled, true);
});

t.test("a stop of the worker's own process makes no leader silent", async (t) => {
  const { clock, sessions } = world(t);
  sessions[0]?.open(1_000);
  await clock.advance(1_000);
  clock.stopFor(60_000);
  await clock.advance(250);
  sessions[0]?.beat(); // Arrived meanwhile, read after the timers.
  await clock.advance(2_000);
  t.equal(sessions[0]?.isCancelled, false);
});

function world(t: Test): { readonly clock: StoppableClock; readonly sessions: readonly FakeSession[] } {
  const clock = new StoppableClock();
  const sessions: FakeSession[] = [];
  const over = new AbortController();
  const deps = {
    clock,
    random: seededRandom(1),
    log: silentLog,
    managers: new ManagerPool(["10.0.0.1:2377", "10.0.0.2:2377"]),
    reporter: new Reporter(() => undefined),
    connect: () => {
      const session = new FakeSession();
      sessions.push(session);
      return { session: () => session, close: () => undefined } as unknown as DispatcherClient;
    },
  };
  const handlers = {
    description: () => ({
      hostname: "host1",
      platform: { architecture: "x86_64", os: "linux" },
      resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
      engineVersion: "0.1.0",
      engineLabels: {},
      plugins: [],
    }),
    dataPathAddress: "",
    onInfo: () => undefined,
    onAssignments: () => "taken" as const,
    onRefusal: () => undefined,
    onEnd: () => undefined,
  };
  const kept = keepSession(deps, handlers, new SessionLine(), over.signal);
  t.teardown(async () => {
    over.abort(new Error("over"));
    await kept;
    await settle();
    if (clock.waiting > 0) throw new Error(`${clock.waiting} timers are left`);
  });
  return { clock, sessions };
}
