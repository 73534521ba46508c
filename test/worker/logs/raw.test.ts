import { appendFileSync, rmSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";

import { systemClock } from "../../../runtime/clock.ts";
import { OutputFile, type OutputLimits } from "../../../worker/logs/file.ts";
import { openRaw, type OutputChunk } from "../../../worker/logs/raw.ts";

const small: OutputLimits = { maxBytes: 100_000, maxFiles: 2 };
const all = { stdout: true, stderr: true, from: "start", follow: true } as const;
const none = new AbortController().signal;
const lineBytes = 10;

interface Bench {
  readonly file: OutputFile;
  readonly directory: string;
  readonly warnings: string[];
  /** Prints so many lines, each with its number, and lets what is to be freed be freed. */
  readonly print: (count: number) => Promise<void>;
}

async function bench(t: Test, limits: OutputLimits): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-raw-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const warnings: string[] = [];
  const warn = (message: string, error: unknown): void => void warnings.push(`${message} ${String(error)}`);
  const file = await OutputFile.create({ clock: systemClock, warn }, directory, limits);
  t.teardown(() => file.close());
  let printed = 0;
  return {
    file,
    directory,
    warnings,
    async print(count) {
      for (let left = count; left > 0; left -= 1_000) {
        const lines = Array.from(
          { length: Math.min(left, 1_000) },
          () => `${String(printed++).padStart(9, "0")}\n`,
        );
        appendFileSync(file.stdoutPath, lines.join(""));
        file.look();
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
  };
}

async function rest(chunks: AsyncIterable<OutputChunk>): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const { bytes } of chunks) pieces.push(bytes);
  return Buffer.concat(pieces).toString();
}

function textOf(result: IteratorResult<OutputChunk, unknown>): string {
  if (result.done === true) throw new Error("the output has ended");
  return Buffer.from(result.value.bytes).toString();
}

function allocatedBytes({ stdoutPath }: OutputFile): number {
  return statSync(stdoutPath).blocks * 512;
}

/** Space is freed in the background, by a program of the system. */
async function waitUntil(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

t.test(
  "who is attached and slower than the output misses none of it; what it has read is freed",
  async (t) => {
    const { file, print, warnings } = await bench(t, small);
    const chunks = await openRaw(file, all, none);
    await print(10);
    let seen = textOf(await chunks.next());
    await print(100_000);
    await waitUntil(() => file.first.stdoutBytes > 800_000);
    seen += textOf(await chunks.next());
    await waitUntil(() => file.freed.stdout > 0);
    t.equal(file.freed.stdout, 10 * lineBytes, "what it has not read is there, although logs keep no more");
    while (seen.length < 700_000) seen += textOf(await chunks.next());
    await print(20_000);
    await waitUntil(() => file.freed.stdout >= 700_000);
    file.end();
    seen += await rest(chunks);
    const want = Array.from(
      { length: 120_010 },
      (_unused, index) => `${String(index).padStart(9, "0")}\n`,
    ).join("");
    t.ok(seen === want, "everything, in order and once");
    await waitUntil(() => file.freed.stdout === file.first.stdoutBytes && allocatedBytes(file) < 250_000);
    t.strictSame(warnings, []);
  },
);

t.test("who is attached to one stream holds no other", async (t) => {
  const { file, print } = await bench(t, small);
  const chunks = await openRaw(file, { ...all, stdout: false }, none);
  await print(50_000);
  await waitUntil(() => file.freed.stdout > 200_000);
  await chunks.return(undefined);
});

t.test("who is too far behind is told so, and never reads a hole", async (t) => {
  const { file, print } = await bench(t, { ...small, heldBytes: 300_000 });
  const chunks = await openRaw(file, all, none);
  await print(10);
  const seen = textOf(await chunks.next());
  t.equal(seen.length, 10 * lineBytes);
  await print(25_000);
  await waitUntil(() => file.freed.stdout > 0);
  t.equal(file.freed.stdout, 10 * lineBytes, "within the bound");
  await print(50_000);
  await waitUntil(() => file.freed.stdout > 300_000);
  await t.rejects(rest(chunks), {
    code: "resource-exhausted",
    message: /^output is lost: \d+ bytes of stdout/,
  });
});

t.test("what nobody began to read holds nothing once its reader has given up", async (t) => {
  const { file, print, directory, warnings } = await bench(t, small);
  const life = new AbortController();
  await openRaw(file, all, life.signal);
  await print(50_000);
  await waitUntil(() => file.first.stdoutBytes > 200_000);
  t.equal(file.freed.stdout, 0);
  life.abort();
  await waitUntil(() => file.freed.stdout === file.first.stdoutBytes && allocatedBytes(file) < 250_000);
  const late = await openRaw(file, all, none);
  await print(50_000);
  rmSync(directory, { recursive: true });
  file.close();
  t.ok((await rest(untilBytes(late, 100_000))).length >= 100_000, "also of a container that was removed");
  t.strictSame(warnings, []);
});

t.test("what a former worker kept for somebody is freed by the next one", async (t) => {
  const big = { maxBytes: 2_000_000, maxFiles: 2 };
  const { file, print, directory } = await bench(t, big);
  await openRaw(file, all, none);
  await print(1_000_000);
  await waitUntil(() => file.first.stdoutBytes > 6_000_000);
  file.close();
  t.ok(allocatedBytes(file) >= 10_000_000);
  const warn = (message: string): void => void t.fail(message);
  const next = await OutputFile.open({ clock: systemClock, warn }, directory, big);
  await waitUntil(() => allocatedBytes(next) < 5_000_000);
  next.close();
});

async function* untilBytes(chunks: AsyncIterable<OutputChunk>, count: number): AsyncGenerator<OutputChunk> {
  let seen = 0;
  for await (const chunk of chunks) {
    yield chunk;
    seen += chunk.bytes.length;
    if (seen >= count) return;
  }
}
