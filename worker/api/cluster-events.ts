import { createInterface } from "node:readline";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { isManager, openManagerStream } from "./forward.ts";

/** How soon it is tried again where no manager runs, or where the last one's stream ended. */
const retryMs = 1_000;

export interface ClusterEventsRequest {
  /** Path and query as the client asked. */
  readonly url: string;
  readonly untilMs: number | undefined;
}

/**
 * The cluster's events as the manager beside this worker tells them: of the next process where one ends, and from when there is
 * one. Settles when `until` is past.
 *
 * @throws {ClusterError} `invalid-argument` when the manager refuses what is asked; the signal's reason when that aborts.
 */
export async function followClusterEvents(
  deps: FrontDoorDeps,
  { url, untilMs }: ClusterEventsRequest,
  push: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { clock, log } = deps;
  const seen = new Seen(clock.now());
  let isResumed = false;
  let said = "";
  for (;;) {
    try {
      if (isManager(deps)) {
        const lines = await openLines(deps, isResumed ? seen.resumed(url) : url, signal);
        isResumed = true;
        for await (const line of lines) if (seen.take(line)) push(`${line}\n`);
      }
    } catch (error) {
      if (signal.aborted || (error instanceof ClusterError && error.code === "invalid-argument")) throw error;
      const text = errorText(error);
      if (text !== said)
        log.warn({ error: text }, "events of the cluster broke off; they go on with the manager");
      said = text;
    }
    const leftMs = untilMs === undefined ? retryMs : untilMs - clock.now();
    if (leftMs <= 0) return;
    await clock.sleep(Math.min(retryMs, leftMs), signal);
    if (isResumed) seen.reopen();
  }
}

async function openLines(
  deps: FrontDoorDeps,
  url: string,
  signal: AbortSignal,
): Promise<AsyncIterable<string>> {
  const stream = await openManagerStream(deps, url, signal);
  const { statusCode = 0 } = stream;
  if (statusCode !== 200) {
    stream.resume();
    const code = statusCode >= 400 && statusCode < 500 ? "invalid-argument" : "unavailable";
    throw new ClusterError(code, `the manager answers with status ${statusCode}`);
  }
  return linesOf(stream);
}

async function* linesOf(stream: NodeJS.ReadableStream): AsyncGenerator<string> {
  let failure: Error | undefined;
  stream.on("error", (error: Error) => (failure = error)); // `createInterface` ends with it, and does not say so.
  for await (const line of createInterface({ input: stream, crlfDelay: Infinity }))
    if (line !== "") yield line;
  if (failure !== undefined) throw failure;
}

/**
 * What was told already. A manager that starts takes in its log anew and tells what happened before as if it were news, so that of a
 * stream that goes on all is left out until something comes that is not older.
 */
class Seen {
  #atNs: bigint;
  #lines = new Set<string>();
  #isCatchingUp = false;

  constructor(nowMs: number) {
    this.#atNs = BigInt(Math.trunc(nowMs)) * 1_000_000n;
  }

  reopen(): void {
    this.#isCatchingUp = true;
  }

  /** From the second of the last event; what is told twice is left out. */
  resumed(url: string): string {
    const resumed = new URL(url, "http://shoal");
    resumed.searchParams.set("since", String(this.#atNs / 1_000_000_000n));
    return `${resumed.pathname}${resumed.search}`;
  }

  /** @returns false for what was told. */
  take(line: string): boolean {
    const atNs = BigInt(/"timeNano":(\d+)/.exec(line)?.[1] ?? 0);
    if (this.#isCatchingUp && (atNs < this.#atNs || this.#lines.has(line))) return false;
    if (atNs > this.#atNs) {
      this.#isCatchingUp = false;
      this.#atNs = atNs;
      this.#lines.clear();
    }
    if (atNs === this.#atNs) this.#lines.add(line);
    return true;
  }
}
