/**
 * `connections.js ADDRESS PORT COUNT`: keeps so many TCP connections, and makes one more every 50 ms, to a server that answers
 * each line with the name of its task. Prints "ready" once all that are kept were answered. Once stdin ends, waits for the
 * answers that are still to come and prints a {@link Seen}.
 */
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";

export interface Kept {
  /** Name of the task that answers. */
  readonly task: string;
  /** When it answered last, as `Date.now()`. */
  readonly answeredMs: number;
  /** Empty as long as it goes on. */
  readonly error: string;
}

export interface Fresh {
  readonly beganMs: number;
  readonly tookMs: number;
  /** Some task has taken the connection. */
  readonly connected: boolean;
  readonly error: string;
}

export interface Seen {
  readonly kept: readonly Kept[];
  readonly fresh: readonly Fresh[];
}

const [, , address = "", port = "", count = ""] = process.argv;
const freshEveryMs = 50;
const askEveryMs = 100;
/** The kernel asks again after 1, 3 and 7 seconds. */
const freshLimitMs = 10_000;

async function ask(socket: Socket): Promise<string> {
  const asked = new AbortController();
  const { signal } = asked;
  try {
    socket.write("who\n");
    const closed = once(socket, "close", { signal }).then(() => Promise.reject(new Error("closed")));
    const [chunk] = (await Promise.race([once(socket, "data", { signal }), closed])) as [Buffer];
    return chunk.toString().trim();
  } finally {
    asked.abort();
  }
}

function errorOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

async function keep(kept: { -readonly [Key in keyof Kept]: Kept[Key] }, answered: () => void): Promise<void> {
  const socket = createConnection(Number(port), address);
  try {
    for (;;) {
      kept.task = await ask(socket);
      kept.answeredMs = Date.now();
      answered();
      await new Promise((resolve) => setTimeout(resolve, askEveryMs));
    }
  } catch (error) {
    kept.error = errorOf(error);
  }
}

async function fresh(): Promise<Fresh> {
  const beganMs = Date.now();
  const socket = createConnection(Number(port), address);
  socket.setTimeout(freshLimitMs, () => socket.destroy(new Error(`no answer within ${freshLimitMs} ms`)));
  let connected = false;
  socket.once("connect", () => (connected = true));
  const error = await ask(socket).then(() => "", errorOf);
  socket.destroy();
  return { beganMs, tookMs: Date.now() - beganMs, connected, error };
}

const kept = Array.from({ length: Number(count) }, () => ({ task: "", answeredMs: 0, error: "" }));
const allAnswered = Promise.all(kept.map((each) => new Promise<void>((resolve) => void keep(each, resolve))));
const asked: Promise<Fresh>[] = [];
const asking = setInterval(() => void asked.push(fresh()), freshEveryMs);
await allAnswered;
process.stdout.write("ready\n");
process.stdin.resume();
await once(process.stdin, "end");
clearInterval(asking);
const seen: Seen = { fresh: await Promise.all(asked), kept };
process.stdout.write(JSON.stringify(seen), () => process.exit(0));
