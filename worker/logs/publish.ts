import type { Msg, NatsConnection } from "@nats-io/transport-node";
import { errorText } from "../../model/errors.ts";
import { LogChunk, type LogLineMessage, LogRequest } from "../../proto/gen/shoal/telemetry.ts";
import type { Clock } from "../../runtime/clock.ts";
import { subjects } from "../../runtime/fabric.ts";
import type { Log } from "../../runtime/log.ts";
import { runInBackground } from "../../runtime/loop.ts";
import { BoundedQueue } from "../../runtime/queue.ts";
import type { LogReader } from "./reader.ts";
import { anyOf } from "../../runtime/signal.ts";

/** A reader that has not taken a chunk by then has gone; following for it ends. */
const answerTimeoutMs = 30_000;
/** While there is nothing to say, this often an empty chunk asks whether the reader is still there. */
const keepAliveMs = 5_000;
const chunkLines = 256;
const chunkBytes = 128 * 1024;
const queuedLines = 256;
/** Requests served at once; more are refused, and the reader is told. */
const largestReaderCount = 64;
const newline = Uint8Array.of(10);

/** A container of ours whose lines may be asked for. */
export interface LoggedTask {
  readonly taskId: string;
  readonly serviceId: string;
  readonly reader: LogReader;
}

export interface LogPublisherDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly nodeId: string;
  /** 30 s unless a test says otherwise. */
  readonly answerTimeoutMs?: number;
  /** The task's container on this host, if it has one yet. */
  find(taskId: string): Promise<LoggedTask | undefined>;
}

/**
 * Answers requests for log lines that arrive on one connection of the fabric, until `signal` aborts. Each reader is served
 * at its own pace: the next chunk is sent when the last one was taken.
 */
export function publishLogs(deps: LogPublisherDeps, connection: NatsConnection, signal: AbortSignal): void {
  let readers = 0;
  const subscription = connection.subscribe(subjects.logRequests(deps.nodeId));
  signal.addEventListener("abort", () => subscription.unsubscribe(), { once: true });
  runInBackground(deps.log, "listening for log requests", listen(), signal);

  async function listen(): Promise<void> {
    for await (const message of subscription) {
      if (readers >= largestReaderCount) {
        deps.log.warn({ readers }, "too many readers of logs at once; one more was refused");
        continue; // Without an answer the reader says that this node is not available.
      }
      readers += 1;
      const served = serve(deps, connection, message, signal).finally(() => {
        readers -= 1;
      });
      runInBackground(deps.log, "publishing logs", served, signal);
    }
  }
}

async function serve(
  deps: LogPublisherDeps,
  connection: NatsConnection,
  message: Msg,
  signal: AbortSignal,
): Promise<void> {
  const request = LogRequest.decode(message.data);
  message.respond();
  const gone = new AbortController();
  const over = anyOf(signal, gone.signal).signal;
  const queue = new BoundedQueue<LogLineMessage | "keep-alive">(queuedLines);
  const problems: string[] = [];
  const reading = Promise.all(
    request.taskIds.map((taskId) => readTask(deps, request, taskId, queue, over)),
  ).then(
    (texts) => {
      problems.push(...texts.filter((text) => text !== ""));
      queue.end();
    },
    (error: unknown) => queue.fail(error),
  );
  let sentMs = deps.clock.monotonic();
  const cancelKeepAlive = deps.clock.every(keepAliveMs, () => {
    if (deps.clock.monotonic() - sentMs >= keepAliveMs) void queue.push("keep-alive");
  });
  const timeout = deps.answerTimeoutMs ?? answerTimeoutMs;
  const send = async (records: LogLineMessage[], done: boolean): Promise<void> => {
    let chunk: LogChunk = { records, done, problem: done ? problems.join(", ") : "" };
    for (let isTaken = false; !isTaken;) {
      const bytes = LogChunk.encode(chunk).finish();
      const answer = await connection.request(request.replyTo, bytes, { timeout });
      isTaken = answer.data.length === 0; // Otherwise it is `logWait`, which comes late enough to need no pause here.
      chunk = { records: [], done: false, problem: "" };
    }
    sentMs = deps.clock.monotonic();
  };
  try {
    for await (const records of chunks(queue)) await send(records, false);
    await reading;
    await send([], true);
  } catch (error) {
    if (!signal.aborted) deps.log.debug({ error: errorText(error) }, "a reader of logs has gone");
  } finally {
    cancelKeepAlive();
    gone.abort();
    await reading;
  }
}

/** @returns Why lines of the task are missing; empty when none are. */
async function readTask(
  deps: LogPublisherDeps,
  request: LogRequest,
  taskId: string,
  queue: BoundedQueue<LogLineMessage | "keep-alive">,
  signal: AbortSignal,
): Promise<string> {
  const task = await deps.find(taskId);
  if (task === undefined) return ""; // Not prepared yet, or gone with its record: there are no lines to miss.
  const { stdout, stderr, follow, tail, sinceMs, untilMs } = request;
  const options = {
    stdout,
    stderr,
    follow,
    ...(tail !== undefined && { tail }),
    ...(sinceMs !== undefined && { sinceMs }),
    ...(untilMs !== undefined && { untilMs }),
  };
  for await (const line of task.reader.read(options, signal)) {
    const taken = await queue.push({
      taskId,
      serviceId: task.serviceId,
      stderr: line.stream === "stderr",
      atMs: line.timeMs,
      line: Buffer.concat(line.partial ? [line.line] : [line.line, newline]),
    });
    if (!taken) break;
  }
  return "";
}

/** Whatever is there is sent together, up to the size of a chunk: nothing waits for more to come. */
async function* chunks(queue: BoundedQueue<LogLineMessage | "keep-alive">): AsyncGenerator<LogLineMessage[]> {
  let records: LogLineMessage[] = [];
  let bytes = 0;
  for await (const item of queue) {
    if (item !== "keep-alive") {
      records.push(item);
      bytes += item.line.length;
    }
    if (queue.size > 0 && records.length < chunkLines && bytes < chunkBytes) continue;
    yield records;
    records = [];
    bytes = 0;
  }
}
