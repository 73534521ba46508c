import type { NatsConnection } from "@nats-io/transport-node";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import { LogChunk, type LogLineMessage, LogRequest } from "../../proto/gen/shoal/telemetry.ts";
import type { LogLine, LogOptions } from "../../proto/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import { type FabricLink, logWait, subjects } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runInBackground } from "../../runtime/loop.ts";
import { BoundedQueue } from "../../runtime/queue.ts";
import { newId, type Random } from "../../runtime/random.ts";
import type { Store } from "../store/store.ts";
import { Heard } from "./heard.ts";

/** Longest that a node may take to say that it heard the request. */
const acceptTimeoutMs = 2_000;
/** After so long the node of a reader that takes nothing is told to wait; well within the time it waits for an answer. */
const patienceMs = 5_000;
/** While a node that is followed does not answer, it is asked again this often. */
const askAgainMs = 1_000;
/** A node says something at least every 5 s; after three times that it is given up. */
const silenceTimeoutMs = 15_000;
const queuedLines = 256;
/** Nodes asked by one request; a service rarely has tasks on more, and each costs a subscription. */
const largestNodeCount = 1_000;

export interface LogDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly store: Store;
  readonly link: FabricLink;
}

export interface LogSelector {
  readonly serviceIds: readonly ServiceId[];
  readonly taskIds: readonly TaskId[];
}

/**
 * The log lines of tasks, wherever they are. Lines of one task are in order; between tasks there is none. A node that
 * does not answer is named at the end, after all the others' lines.
 *
 * @throws {ClusterError} `unavailable` when there is no telemetry, or, at the end, when lines are missing.
 */
export async function* readLogs(
  deps: LogDeps,
  selector: LogSelector,
  options: LogOptions,
  signal: AbortSignal,
): AsyncGenerator<LogLine> {
  void deps.link.connection; // Without telemetry there is nothing to wait for.
  const queue = new BoundedQueue<LogLine>(queuedLines);
  const over = new AbortController();
  const stop = (): void => {
    over.abort(new ClusterError("unavailable", "the reader of the logs has gone"));
    queue.end();
  };
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  const collect = new Collection(deps, options, queue, over.signal);
  runInBackground(deps.log, "collecting logs", collect.run(selector), over.signal);
  try {
    yield* queue;
    if (!signal.aborted && collect.problems.length > 0) {
      throw new ClusterError(
        "unavailable",
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: " +
          collect.problems.join(", "),
      );
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}

/** One reader's requests: one per node at first, and in follow mode one more for every task that appears later. */
class Collection {
  readonly problems: string[] = [];
  readonly #deps: LogDeps;
  readonly #options: LogOptions;
  readonly #queue: BoundedQueue<LogLine>;
  readonly #signal: AbortSignal;
  readonly #asked = new Set<TaskId>();

  constructor(deps: LogDeps, options: LogOptions, queue: BoundedQueue<LogLine>, signal: AbortSignal) {
    this.#deps = deps;
    this.#options = options;
    this.#queue = queue;
    this.#signal = signal;
  }

  async run(selector: LogSelector): Promise<void> {
    try {
      await Promise.all([
        this.#ask(selector, "first"),
        this.#options.follow ? this.#followNew(selector) : undefined,
      ]);
      this.#queue.end();
    } catch (error) {
      this.#queue.fail(error);
    }
  }

  async #followNew(selector: LogSelector): Promise<void> {
    using commits = this.#deps.store.watch(["tasks"], this.#signal);
    const pending = new Set<Promise<void>>();
    for await (const events of commits) {
      if (events.length === 0) continue;
      const asking = this.#ask(selector, "later").catch((error: unknown) => this.#queue.fail(error));
      pending.add(asking);
      void asking.finally(() => pending.delete(asking));
    }
    await Promise.all(pending);
  }

  async #ask(selector: LogSelector, when: "first" | "later"): Promise<void> {
    const byNode = new Map<NodeId, TaskId[]>();
    for (const task of this.#tasksOf(selector)) {
      if (task.nodeId === undefined || this.#asked.has(task.id)) continue;
      this.#asked.add(task.id);
      byNode.set(task.nodeId, [...(byNode.get(task.nodeId) ?? []), task.id]);
    }
    if (byNode.size > largestNodeCount) {
      throw new ClusterError(
        "resource-exhausted",
        `cannot read the logs of tasks on ${byNode.size} nodes at once: at most ${largestNodeCount}`,
      );
    }
    await Promise.all([...byNode].map(([nodeId, taskIds]) => this.#readNode(nodeId, taskIds, when)));
  }

  /** Following goes on for as long as a task runs: a node whose worker or connection is made anew is asked again. */
  async #readNode(nodeId: NodeId, taskIds: readonly TaskId[], when: "first" | "later"): Promise<void> {
    const heard = new Heard();
    let wanted = taskIds;
    let problem = await this.#readOnce(nodeId, wanted, when, heard);
    while (problem !== undefined && this.#options.follow && !this.#signal.aborted) {
      await this.#deps.clock.sleep(askAgainMs, this.#signal).catch(() => undefined); // The condition sees the abort.
      wanted = this.#runningOf(wanted);
      if (wanted.length === 0) break;
      problem = await this.#readOnce(nodeId, wanted, when, heard);
    }
    if (problem !== undefined && !this.#signal.aborted) this.problems.push(problem);
  }

  #runningOf(taskIds: readonly TaskId[]): TaskId[] {
    return this.#deps.store.view((view) =>
      taskIds.filter((taskId) => {
        const task = view.tasks.get(taskId);
        return task !== undefined && !isTerminal(task);
      }),
    );
  }

  #tasksOf({ serviceIds, taskIds }: LogSelector): Task[] {
    const following = this.#options.follow;
    return this.#deps.store.view((view) => {
      const named = taskIds.flatMap((id) => view.tasks.get(id) ?? []);
      const ofServices = serviceIds.flatMap((id) => [...view.tasks.byService(id)]);
      // Following a service is about what runs; the lines of ended tasks are there without --follow.
      const wanted = [...named, ...ofServices.filter((task) => !following || !isTerminal(task))];
      // A node that was removed has taken its lines with it; that is no news to whoever removed it.
      return wanted.filter(({ nodeId }) => nodeId !== undefined && view.nodes.has(nodeId));
    });
  }

  /** @returns Why lines are missing, if some are. */
  async #readOnce(
    nodeId: NodeId,
    taskIds: readonly TaskId[],
    when: "first" | "later",
    heard: Heard,
  ): Promise<string | undefined> {
    const { clock, link, random } = this.#deps;
    const resumeMs = heard.sinceMs(taskIds);
    heard.rewind(taskIds);
    const replyTo = subjects.logChunks(nodeId, newId(random));
    const { stdout, stderr, follow, tail, sinceMs, untilMs } = this.#options;
    const request: LogRequest = {
      replyTo,
      taskIds: [...taskIds],
      stdout,
      stderr,
      follow,
      tail: tail === "all" || when === "later" || resumeMs !== undefined ? undefined : tail,
      sinceMs: resumeMs ?? sinceMs,
      untilMs,
    };
    let connection: NatsConnection;
    try {
      connection = link.connection;
    } catch {
      return `node ${nodeId} is not available`;
    }
    const subscription = connection.subscribe(replyTo);
    let lastHeardMs = clock.monotonic();
    const end = (): void => subscription.unsubscribe();
    const cancelWatch = clock.every(silenceTimeoutMs / 3, () => {
      if (clock.monotonic() - lastHeardMs > silenceTimeoutMs) end();
    });
    this.#signal.addEventListener("abort", end, { once: true });
    let handing: Promise<unknown> = Promise.resolve();
    try {
      await connection.request(subjects.logRequests(nodeId), LogRequest.encode(request).finish(), {
        timeout: acceptTimeoutMs,
      });
      for await (const message of subscription) {
        lastHeardMs = clock.monotonic();
        const chunk = LogChunk.decode(message.data);
        if (chunk.problem !== "") this.problems.push(chunk.problem);
        handing = handing.then(() => this.#hand(nodeId, chunk, heard));
        if (chunk.done) await handing;
        message.respond((await this.#isPatient(handing)) ? undefined : logWait);
        lastHeardMs = clock.monotonic(); // A slow reader of ours is not the node's silence.
        if (chunk.done) return undefined;
      }
      return `node ${nodeId} disconnected unexpectedly`;
    } catch (error) {
      if (!this.#signal.aborted) {
        this.#deps.log.debug({ nodeId, error: errorText(error) }, "node did not take a request for logs");
      }
      return `node ${nodeId} is not available`;
    } finally {
      cancelWatch();
      this.#signal.removeEventListener("abort", end);
      end();
    }
  }

  async #hand(nodeId: NodeId, chunk: LogChunk, heard: Heard): Promise<void> {
    for (const record of chunk.records) {
      if (!heard.isNew(record.taskId as TaskId, record.atMs)) continue;
      if (!(await this.#queue.push(lineOf(nodeId, record)))) return;
    }
  }

  /** @returns False when the reader has not taken everything in time. */
  async #isPatient(handing: Promise<unknown>): Promise<boolean> {
    let cancel = (): void => {};
    const late = new Promise<boolean>((resolve) => {
      cancel = this.#deps.clock.after(patienceMs, () => resolve(false));
    });
    try {
      return await Promise.race([handing.then(() => true), late]);
    } finally {
      cancel();
    }
  }
}

const nsPerMs = 1_000_000;

function lineOf(nodeId: NodeId, record: LogLineMessage): LogLine {
  return {
    taskId: record.taskId as TaskId,
    serviceId: record.serviceId as ServiceId,
    nodeId,
    stream: record.stderr ? "stderr" : "stdout",
    atNs: (BigInt(Math.round(record.atMs * 1_000)) * BigInt(nsPerMs / 1_000)).toString(),
    line: record.line,
  };
}
