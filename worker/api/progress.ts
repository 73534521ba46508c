/** Docker's streams of JSON lines: progress while work goes on, and its end. */
import type { FastifyReply } from "fastify";
import { toClusterError } from "../../model/errors.ts";
import { jsonContentType } from "../../runtime/http.ts";
import { CommandFailed } from "../builder/request.ts";
import { stream } from "./request.ts";

/** A reader that is further behind misses intermediate steps, never the outcome. */
const backlogLimit = 1_024;
/** So many characters wait for a reader before whoever can do so waits for it. */
const patienceLimit = 1 << 20;

export type ProgressLine =
  | {
      readonly status: string;
      readonly id?: string;
      readonly progressDetail?: { readonly current?: number; readonly total?: number };
      readonly progress?: string;
    }
  | { readonly stream: string }
  | { readonly aux: object; readonly progressDetail?: object };

/**
 * Carries out `work` and sends what it says. Until it has said something a failure is an ordinary HTTP error; after that
 * it is the stream's last line. Settles once the first line is out, or the work is over.
 *
 * @param work - Its `behind` is undefined while the reader keeps up; else what it returns settles once the reader has
 *   caught up or is gone. Whoever says much without an end waits for it.
 * @throws what `work` threw before its first line.
 */
export async function streamProgress(
  reply: FastifyReply,
  work: (say: (line: ProgressLine) => void, behind: () => Promise<void> | undefined) => Promise<void>,
): Promise<FastifyReply> {
  const lines: string[] = [];
  let waiting = 0;
  /** Of those who wait for the reader. */
  const patient: (() => void)[] = [];
  let over = false;
  let isGone = false;
  let wake = (): void => undefined;
  let begin = (): void => undefined;
  const begun = new Promise<void>((resolve) => (begin = resolve));
  const push = (line: object): void => {
    if (isGone) return;
    const text = `${JSON.stringify(line)}\r\n`;
    lines.push(text);
    waiting += text.length;
    begin();
    wake();
  };
  const say = (line: ProgressLine): void => {
    if (lines.length < backlogLimit || !("progressDetail" in line)) push(line);
  };
  const behind = (): Promise<void> | undefined =>
    waiting < patienceLimit ? undefined : new Promise((resolve) => patient.push(resolve));
  const take = (): string => {
    waiting = 0;
    for (const goOn of patient.splice(0)) goOn();
    return lines.splice(0).join("");
  };
  let failure: unknown;
  const done = work(say, behind)
    .catch((error: unknown) => {
      failure = error;
    })
    .finally(() => {
      over = true;
      begin();
      wake();
    });
  await begun;
  if (over && lines.length === 0 && failure !== undefined) throw failure;
  return stream(reply, sent(), jsonContentType);

  async function* sent(): AsyncGenerator<string> {
    try {
      for (;;) {
        const text = take();
        if (text !== "") yield text;
        else if (over) break;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
      await done;
      if (failure === undefined) return;
      const { message } = toClusterError(failure);
      const detail = { ...(failure instanceof CommandFailed && { code: failure.exitCode }), message };
      yield `${JSON.stringify({ errorDetail: detail, error: message })}\r\n`;
    } finally {
      isGone = true;
      take();
    }
  }
}

/** The bar that old clients print as it comes. */
export function progressBar(current: number, total: number): string {
  const done = total > 0 ? Math.min(50, Math.floor((current / total) * 50)) : 0;
  const bar = `${"=".repeat(done)}>${" ".repeat(50 - done)}`.slice(0, 50);
  return `[${bar}]  ${humanSize(current).padStart(6)}/${humanSize(total)}`;
}

function humanSize(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1_000 && unit < units.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  return `${Number(value.toPrecision(4))}${units[unit] ?? ""}`;
}
