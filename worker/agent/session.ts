import { minimumHeartbeatPeriodMs } from "../../model/defaults.ts";
import { errorText } from "../../model/errors.ts";
import { taskStates } from "../../model/task.ts";
import type { NodeDescription } from "../../model/node.ts";
import type {
  Assignments,
  AttachmentRefusal,
  DispatcherClient,
  ManagerMessage,
  SessionInfo,
  TaskStatusMessage,
  WorkerMessage,
} from "../../proto/gen/shoal/dispatcher.ts";
import { backoff } from "../../runtime/backoff.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Log } from "../../runtime/log.ts";
import type { Random } from "../../runtime/random.ts";
import type { ManagerPool } from "./managers.ts";
import type { Report, Reporter } from "./reporter.ts";

/** A manager that has not answered `Hello` by now is given up for another. */
const firstAnswerTimeoutMs = 1_000;
/**
 * Each time that all managers were silent in turn, the next answers are waited for twice as long, up to this: where
 * thousands come back at once they are served one by one, and whoever gives up too early stands at the end again.
 */
const longestAnswerTimeoutMs = 16_000;
/**
 * A leader that is silent for this much longer than its heartbeats' period is given up. A busy one may be late by a second:
 * were all its workers to leave it then and come back, it would only be busier. Much longer, and a worker whose leader lost
 * its power would find the next one too late, who takes it for lost after six seconds (`manager/dispatcher/node-states.ts`).
 */
const silenceMs = 2_000;
/** Silence is counted in these, so that a stop of this process counts as one: what arrived meanwhile is read after it. */
const silenceTickMs = 250;
/** Statuses of one moment travel together. */
const statusDelayMs = 2;
const statusBatchLimit = 500;
/** Redirects that are followed at once; more than that is managers that disagree. */
const redirectLimit = 3;
/** How long a manager that just failed is not believed to lead when others say so. */
const distrustMs = 1_000;
/** Between two tries: an election takes a few hundred milliseconds and must not be missed by much. */
const retryDelays = { firstMs: 50, limitMs: 1_000, factor: 1.5, jitterRatio: 0.5 } as const;

export interface SessionDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly managers: ManagerPool;
  readonly reporter: Reporter;
  /** A client of one manager; closed when its session ends. */
  connect(address: string): DispatcherClient;
}

export interface SessionHandlers {
  description(): NodeDescription;
  /** No port; empty leaves it to the manager. */
  readonly dataPathAddress: string;
  /** A leader took the node in, or told something new. */
  onInfo(info: SessionInfo, isNew: boolean): void;
  /** "gap" makes a new session. */
  onAssignments(message: Assignments): "taken" | "gap";
  onRefusal(refusal: AttachmentRefusal): void;
  onEnd(): void;
}

type Ending =
  | { readonly kind: "redirect"; readonly wasOpen: boolean; readonly leader: string }
  | {
      readonly kind: "lost";
      readonly wasOpen: boolean;
      readonly reason: string;
      readonly wasSilent: boolean;
    };

/** What the open session can be asked to send; nothing is sent while there is none. */
export class SessionLine {
  #send: ((message: WorkerMessage) => void) | undefined;

  open(send: (message: WorkerMessage) => void): void {
    this.#send = send;
  }

  close(): void {
    this.#send = undefined;
  }

  get isOpen(): boolean {
    return this.#send !== undefined;
  }

  send(message: NonNullable<WorkerMessage["body"]>): void {
    this.#send?.({ body: message });
  }
}

/**
 * Keeps one session with whichever manager leads, until `signal` aborts. Nothing local depends on it:
 * without any manager, tasks run on and statuses wait in the reporter. Never rejects.
 */
export async function keepSession(
  deps: SessionDeps,
  handlers: SessionHandlers,
  line: SessionLine,
  signal: AbortSignal,
): Promise<void> {
  const { clock, random, log, managers } = deps;
  let delays = backoff(random, retryDelays);
  let redirectCount = 0;
  let failed = { address: "", atMs: 0 };
  let silentCount = 0;
  while (!signal.aborted) {
    const address = managers.next(random);
    if (address !== undefined) {
      const patienceMs = answerTimeoutMs(silentCount, managers.addresses.length);
      const ending = await runSession({ deps, handlers, line, address, patienceMs }, signal);
      if (signal.aborted) return;
      if (ending.wasOpen) {
        delays = backoff(random, retryDelays);
        redirectCount = 0;
        silentCount = 0;
      }
      if (ending.kind === "lost" && ending.wasSilent) silentCount += 1;
      if (ending.kind === "lost") {
        const level = ending.wasOpen ? "warn" : "debug";
        log[level]({ manager: address, reason: ending.reason }, "no session with manager");
        managers.failed(address);
        failed = { address, atMs: clock.monotonic() };
      } else if (ending.leader !== "" && !isDistrusted(ending.leader)) {
        managers.hint(ending.leader);
        redirectCount += 1;
        if (redirectCount <= redirectLimit) continue;
        redirectCount = 0;
      }
    }
    await clock.sleep(delays.next().value, signal).catch(() => undefined); // Only the abort rejects; the condition sees it.
  }

  /** Followers name a lost leader until they have a new one; a dead host would cost a whole timeout each time. */
  function isDistrusted(leader: string): boolean {
    return failed.address === leader && clock.monotonic() - failed.atMs < distrustMs;
  }
}

/** How long the next manager is waited for, after so many in a row did not answer. */
function answerTimeoutMs(silentCount: number, managerCount: number): number {
  const rounds = Math.floor(silentCount / Math.max(1, managerCount));
  return Math.min(firstAnswerTimeoutMs * 2 ** rounds, longestAnswerTimeoutMs);
}

interface Attempt {
  readonly deps: SessionDeps;
  readonly handlers: SessionHandlers;
  readonly line: SessionLine;
  readonly address: string;
  /** Until the first answer. */
  readonly patienceMs: number;
}

/** One session with one manager, from `Hello` until it ends. Never rejects. */
function runSession(
  { deps, handlers, line, address, patienceMs }: Attempt,
  signal: AbortSignal,
): Promise<Ending> {
  const { clock, log, managers, reporter } = deps;
  const client = deps.connect(address);
  const stream = client.session();
  return new Promise((resolve) => {
    let beatMs = 0;
    let cancelBeat: () => void = () => {};
    let silentTicks = 0;
    let cancelSilence: () => void = () => {};
    let isOpen = false;
    let hasEnded = false;
    const cancelFirst = clock.after(patienceMs, () => lost("it does not answer", true));
    signal.addEventListener("abort", onAbort, { once: true });
    stream.on("data", (message: ManagerMessage) => take(message));
    stream.on("error", (error: Error) => lost(errorText(error)));
    stream.on("end", () => lost("it ended the session"));
    const description = { json: Buffer.from(JSON.stringify(handlers.description()), "utf8") };
    const { dataPathAddress } = handlers;
    stream.write({ body: { $case: "hello", value: { description, dataPathAddress } } });

    function take({ body }: ManagerMessage): void {
      if (hasEnded) return;
      silentTicks = 0;
      if (body === undefined) return;
      switch (body.$case) {
        case "redirect":
          return end({ kind: "redirect", wasOpen: isOpen, leader: body.value.leaderAddress });
        case "info":
          return takeInfo(body.value);
        case "assignments":
          if (handlers.onAssignments(body.value) === "gap")
            lost("a difference of assignments did not follow");
          return;
        case "attachmentRefusal":
          return handlers.onRefusal(body.value);
        case "statusAck":
          return reporter.acknowledge(body.value.sequence);
        case "heartbeat":
          return;
      }
    }

    function takeInfo(info: SessionInfo): void {
      const isNew = !isOpen;
      if (isNew) {
        isOpen = true;
        cancelFirst();
        managers.succeeded(address);
        log.info({ manager: address, session: info.sessionId }, "session opened");
        line.open((message) => stream.write(message));
        cancelSilence = clock.every(silenceTickMs, listen);
      }
      followPeriod(info.heartbeatPeriodMs);
      handlers.onInfo(info, isNew);
      if (isNew) reporter.restart();
    }

    /** A longer one would end after the grace that the last heartbeat was given, so another follows at once. */
    function followPeriod(periodMs: number): void {
      if (periodMs === beatMs) return;
      if (beatMs !== 0) heartbeat();
      beatMs = periodMs;
      cancelBeat();
      cancelBeat = clock.every(Math.max(minimumHeartbeatPeriodMs, periodMs), heartbeat);
    }

    function heartbeat(): void {
      stream.write({ body: { $case: "heartbeat", value: {} } });
    }

    function listen(): void {
      silentTicks += 1;
      if (silentTicks * silenceTickMs > beatMs + silenceMs) lost("it has fallen silent");
    }

    function lost(reason: string, wasSilent = false): void {
      end({ kind: "lost", wasOpen: isOpen, reason, wasSilent });
    }

    function onAbort(): void {
      lost("the agent is ending");
    }

    function end(ending: Ending): void {
      if (hasEnded) return;
      hasEnded = true;
      cancelFirst();
      cancelBeat();
      cancelSilence();
      signal.removeEventListener("abort", onAbort);
      line.close();
      stream.removeAllListeners("data");
      stream.on("error", () => undefined); // Cancelling reports itself as an error that says nothing new.
      stream.cancel();
      client.close();
      if (isOpen) handlers.onEnd();
      resolve(ending);
    }
  });
}

/** Sends what the reporter holds, a few milliseconds after the first of it. */
export class StatusSender {
  readonly #clock: Clock;
  readonly #line: SessionLine;
  #scheduled = false;

  constructor(clock: Clock, line: SessionLine) {
    this.#clock = clock;
    this.#line = line;
  }

  schedule(reporter: Reporter): void {
    if (this.#scheduled || !this.#line.isOpen) return;
    this.#scheduled = true;
    this.#clock.after(statusDelayMs, () => {
      this.#scheduled = false;
      this.flush(reporter);
    });
  }

  flush(reporter: Reporter): void {
    while (this.#line.isOpen) {
      const batch = reporter.take(statusBatchLimit);
      if (batch === undefined) return;
      const statuses = batch.reports.map(printReport);
      this.#line.send({ $case: "statuses", value: { sequence: batch.sequence, statuses } });
    }
  }
}

function printReport({ taskId, status }: Report): TaskStatusMessage {
  return {
    taskId,
    state: taskStates[status.state],
    atMs: status.atMs,
    message: status.message,
    error: status.error,
    containerId: status.containerId ?? "",
    pid: status.pid ?? 0,
    exitCode: status.exitCode,
    ports: (status.ports ?? []).map((port) => ({ ...port })),
  };
}
