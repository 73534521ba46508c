import type { Msg, NatsConnection } from "@nats-io/transport-node";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NodeId, ServiceId, TaskId } from "../../model/ids.ts";
import { isTerminal, type Task } from "../../model/task.ts";
import { LogChunk, type LogLineMessage, LogRequest } from "../../proto/gen/shoal/telemetry.ts";
import type { LogLine, LogOptions } from "../../proto/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import { type FabricLink, subjects } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runInBackground } from "../../runtime/loop.ts";
import { BoundedQueue } from "../../runtime/queue.ts";
import { newId, type Random } from "../../runtime/random.ts";
import type { Store } from "../store/store.ts";

/** Longest that a node may take to say that it heard the request. */
const acceptTimeoutMs = 2_000;
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
  const connection = deps.link.connection;
  const queue = new BoundedQueue<LogLine>(queuedLines);
  const over = new AbortController();
  const stop = (): void => {
    over.abort(new ClusterError("unavailable", "the reader of the logs has gone"));
    queue.end();
  };
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  const collect = new Collection(deps, connection, options, queue, over.signal);
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
  readonly #connection: NatsConnection;
  readonly #options: LogOptions;
  readonly #queue: BoundedQueue<LogLine>;
  readonly #signal: AbortSignal;
  readonly #asked = new Set<TaskId>();

  constructor(
    deps: LogDeps,
    connection: NatsConnection,
    options: LogOptions,
    queue: BoundedQueue<LogLine>,
    signal: AbortSignal,
  ) {
    this.#deps = deps;
    this.#connection = connection;
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

  async #readNode(nodeId: NodeId, taskIds: readonly TaskId[], when: "first" | "later"): Promise<void> {
    const { clock, random } = this.#deps;
    const replyTo = subjects.logChunks(nodeId, newId(random));
    const { stdout, stderr, follow, tail, sinceMs, untilMs } = this.#options;
    const request: LogRequest = {
      replyTo,
      taskIds: [...taskIds],
      stdout,
      stderr,
      follow,
      tail: tail === "all" || when === "later" ? undefined : tail,
      sinceMs,
      untilMs,
    };
    const subscription = this.#connection.subscribe(replyTo);
    let lastHeardMs = clock.monotonic();
    const end = (): void => subscription.unsubscribe();
    const cancelWatch = clock.every(silenceTimeoutMs / 3, () => {
      if (clock.monotonic() - lastHeardMs > silenceTimeoutMs) end();
    });
    this.#signal.addEventListener("abort", end, { once: true });
    let finished = false;
    try {
      await this.#connection.request(subjects.logRequests(nodeId), LogRequest.encode(request).finish(), {
        timeout: acceptTimeoutMs,
      });
      for await (const message of subscription) {
        lastHeardMs = clock.monotonic();
        finished = await this.#take(nodeId, message);
        lastHeardMs = clock.monotonic(); // A slow reader of ours is not the node's silence.
        if (finished) break;
      }
      if (!finished && !this.#signal.aborted) this.problems.push(`node ${nodeId} disconnected unexpectedly`);
    } catch (error) {
      if (this.#signal.aborted) return;
      this.#deps.log.debug({ nodeId, error: errorText(error) }, "node did not take a request for logs");
      this.problems.push(`node ${nodeId} is not available`);
    } finally {
      cancelWatch();
      this.#signal.removeEventListener("abort", end);
      end();
    }
  }

  /** @returns True when it was the last chunk. The answer lets the node send the next one. */
  async #take(nodeId: NodeId, message: Msg): Promise<boolean> {
    const chunk = LogChunk.decode(message.data);
    for (const record of chunk.records) {
      if (!(await this.#queue.push(lineOf(nodeId, record)))) return true;
    }
    if (chunk.problem !== "") this.problems.push(chunk.problem);
    message.respond();
    return chunk.done;
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
