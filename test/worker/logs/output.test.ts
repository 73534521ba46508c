import fs, { appendFileSync, rmSync, statSync, symlinkSync, truncateSync } from "node:fs";
import { appendFile, mkdtemp, rm } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import t, { type Test } from "tap";

import type { Clock } from "../../../runtime/clock.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { type OutputDeps, OutputFile, type OutputLimits } from "../../../worker/logs/file.ts";
import { outputReader } from "../../../worker/logs/follow.ts";
import { decodeRecords, dropOldest, encodeRecords, thinOut } from "../../../worker/logs/index-file.ts";
import { LineCutter } from "../../../worker/logs/lines.ts";
import { type LogOptions, logLineLimitBytes } from "../../../worker/logs/reader.ts";

const none = new AbortController().signal;
const written = (): Promise<void> => Promise.resolve();
const roomy: OutputLimits = { maxBytes: 1 << 20, maxFiles: 3 };

interface Bench {
  readonly directory: string;
  readonly deps: OutputDeps;
  readonly warnings: string[];
  nowMs: number;
}

async function bench(t: Test): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-logs-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const warnings: string[] = [];
  const clock: Clock = { ...systemClock, now: () => made.nowMs };
  const deps = {
    clock,
    warn: (message: string, error: unknown) => void warnings.push(`${message} ${String(error)}`),
  };
  const made: Bench = { directory, deps, warnings, nowMs: 1_000 };
  return made;
}

async function read(file: OutputFile, options: Partial<LogOptions> = {}): Promise<string[]> {
  const lines: string[] = [];
  const all = { stdout: true, stderr: true, follow: false, ...options };
  for await (const { stream, timeMs, line, partial } of outputReader(file, written).read(all, none)) {
    lines.push(
      `${timeMs} ${stream === "stdout" ? "o" : "e"} ${Buffer.from(line).toString()}${partial ? "…" : ""}`,
    );
  }
  return lines;
}

t.test("lines carry the time at which they were seen, in the order of the looks", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, roomy);
  appendFileSync(file.stdoutPath, "one\ntwo\n");
  file.look();
  world.nowMs = 2_000;
  appendFileSync(file.stderrPath, "bad\n");
  appendFileSync(file.stdoutPath, "thr");
  file.look();
  world.nowMs = 3_000;
  appendFileSync(file.stdoutPath, "ee\nfo");
  file.look();
  t.strictSame(await read(file), ["1000 o one", "1000 o two", "2000 e bad", "3000 o three"]);
  t.strictSame(await read(file, { tail: 2 }), ["2000 e bad", "3000 o three"]);
  t.strictSame(await read(file, { tail: 0 }), []);
  t.strictSame(await read(file, { stdout: false, tail: 5 }), ["2000 e bad"]);
  t.strictSame(await read(file, { sinceMs: 2_500 }), ["3000 o three"], "a line begun before is whole");
  t.strictSame(await read(file, { untilMs: 2_000 }), ["1000 o one", "1000 o two"]);
  file.end();
  t.strictSame(
    await read(file, { tail: 1 }),
    ["3000 o fo"],
    "an unfinished line counts once nothing can follow",
  );
});

t.test(
  "a line on stderr is never before what was on stdout first, also when both come between two looks",
  async (t) => {
    const world = await bench(t);
    const file = await OutputFile.create(world.deps, world.directory, roomy);
    let written = false;
    const { statSync: real } = fs;
    t.teardown(() => {
      Object.assign(fs, { statSync: real });
      syncBuiltinESMExports();
    });
    // The container prints while the sizes of its two files are taken, between the one and the other.
    const stat = (path: string, options: { throwIfNoEntry: false }): unknown => {
      const result: unknown = real(path, options);
      if (!written) {
        written = true;
        appendFileSync(file.stdoutPath, "first\n");
        appendFileSync(file.stderrPath, "second\n");
      }
      return result;
    };
    Object.assign(fs, { statSync: stat });
    syncBuiltinESMExports();
    file.look();
    file.look();
    t.strictSame(await read(file), ["1000 o first", "1000 e second"]);
  },
);

t.test("a reopened output goes on where it was, with what came meanwhile", async (t) => {
  const world = await bench(t);
  const first = await OutputFile.create(world.deps, world.directory, roomy);
  appendFileSync(first.stdoutPath, "before\n");
  first.look();
  first.close();
  appendFileSync(first.stdoutPath, "meanwhile\n");
  await appendFile(join(world.directory, "output.index"), "torn");
  world.nowMs = 9_000;
  const second = await OutputFile.open(world.deps, world.directory, roomy);
  t.strictSame(await read(second), ["1000 o before", "9000 o meanwhile"]);
  appendFileSync(second.stdoutPath, "after\n");
  second.end();
  t.strictSame(await read(second), ["1000 o before", "9000 o meanwhile", "9000 o after"]);
});

t.test("a follower gets everything and ends with the container", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, roomy);
  file.watch();
  const following = read(file, { follow: true });
  for (const line of ["a", "b", "c"]) {
    appendFileSync(file.stdoutPath, `${line}\n`);
    await systemClock.sleep(10);
  }
  appendFileSync(file.stderrPath, "end");
  file.end();
  t.strictSame((await following).map((line) => line.slice(5)).toSorted(), ["e end", "o a", "o b", "o c"]);
});

t.test("a follower ends when its signal aborts", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, roomy);
  const stop = new AbortController();
  const lines = outputReader(file, written).read({ stdout: true, stderr: true, follow: true }, stop.signal);
  const next = lines.next();
  stop.abort();
  t.equal((await next).done, true);
  file.close();
});

t.test("old output makes room, lines stay whole, and the shim's file keeps its size", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, { maxBytes: 40_000, maxFiles: 2 });
  const line = (index: number): string => `${String(index).padStart(6, "0")}${"x".repeat(93)}\n`;
  for (let index = 0; index < 3_000; index++) {
    appendFileSync(file.stdoutPath, line(index));
    if (index % 7 === 0) file.look();
    if (index % 100 === 0) await systemClock.sleep(2);
  }
  file.look();
  await t.resolves(waitUntil(() => file.first.stdoutBytes > 200_000));
  const kept = await read(file);
  t.ok(kept.length >= 300 && kept.length <= 820, `${kept.length} lines are kept`);
  t.equal(kept.at(-1)?.slice(7, 13), "002999");
  t.ok(kept.every((text) => text.length === 7 + 99));
  const numbers = kept.map((text) => Number(text.slice(7, 13)));
  t.ok(
    numbers.every((number, index) => index === 0 || number === (numbers[index - 1] ?? 0) + 1),
    "without a gap",
  );
  t.equal(statSync(file.stdoutPath).size, 300_000);
  await t.resolves(waitUntil(() => statSync(file.stdoutPath).blocks * 512 < 150_000));
  t.strictSame(world.warnings, []);
  file.close();
});

t.test("of a burst between two looks that is larger than the bound, the newest is kept", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, { maxBytes: 4_000, maxFiles: 2 });
  appendFileSync(file.stdoutPath, "before\n");
  file.look();
  const lines = (stream: string, count: number): string =>
    Array.from({ length: count }, (_unused, index) => `${stream} ${String(index).padStart(7, "0")}\n`).join(
      "",
    );
  world.nowMs = 2_000;
  appendFileSync(file.stdoutPath, lines("o", 3_000)); // 10 bytes each.
  appendFileSync(file.stderrPath, lines("e", 1_000));
  file.look();
  await t.resolves(waitUntil(() => file.first.stdoutBytes > 0));
  t.equal(
    file.first.stdoutBytes + file.first.stderrBytes,
    40_007 - 4_000,
    "as much as is kept of any output",
  );
  const kept = await read(file);
  t.match(kept[0], /^2000 o o 000270\d$/);
  t.ok(kept.includes("2000 o o 0002999") && kept.includes("2000 e e 0000999"), "the last of both streams");
  t.ok(kept.length >= 398 && kept.length <= 400, `${kept.length} lines are kept`);
  t.strictSame(await read(file, { tail: 1 }), ["2000 e e 0000999"]);
  file.close();
});

t.test("a tail that is nearly all there is is not kept in memory", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, { maxBytes: 1 << 27, maxFiles: 1 });
  const total = 60_000;
  for (let index = 0; index < total; index += 1_000) {
    const numbers = Array.from({ length: 1_000 }, (_unused, place) => index + place);
    appendFileSync(
      file.stdoutPath,
      numbers.map((number) => `${String(number).padStart(99, "0")}\n`).join(""),
    );
  }
  file.look();
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const usedBytes = (): number => {
    collect();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const before = usedBytes();
  const all = { stdout: true, stderr: true, follow: false, tail: total - 1 };
  const reading = outputReader(file, written).read(all, none);
  const { value } = await reading.next();
  const keptBytes = usedBytes() - before;
  t.equal(
    value === undefined ? undefined : Number(Buffer.from(value.line).toString()),
    1,
    "all but the first",
  );
  t.ok(keptBytes < 3 << 20, `${keptBytes} bytes are kept of 6 MB`);
  let rest = 0;
  for await (const { line } of reading) rest += line.length / 99;
  t.equal(rest, total - 2);
  file.close();
});

t.test("where the cut falls inside a record, both streams lose the same share of it", (t) => {
  const at = (timeMs: number, stdoutBytes: number, stderrBytes: number) => ({
    timeMs,
    stdoutBytes,
    stderrBytes,
  });
  const records = [at(1, 0, 0), at(2, 10, 10), at(3, 310, 110)];
  t.strictSame(dropOldest(records, 40), [at(3, 280, 100), at(3, 310, 110)]);
  t.ok(
    dropOldest(records, 40.5).every(({ stderrBytes }) => Number.isInteger(stderrBytes)),
    "half of an odd bound",
  );
  t.strictSame(dropOldest(records, 400), records.slice(1), "at a record nothing is put in");
  t.end();
});

t.test("a file that somebody truncated begins anew", async (t) => {
  const world = await bench(t);
  const file = await OutputFile.create(world.deps, world.directory, roomy);
  appendFileSync(file.stdoutPath, "long ago\n");
  file.look();
  truncateSync(file.stdoutPath, 0);
  appendFileSync(file.stdoutPath, "new\n");
  file.look();
  t.strictSame(await read(file), ["1000 o new"]);
});

t.test("lines are cut at 16 KiB, across any split of the bytes", (t) => {
  const long = "y".repeat(logLineLimitBytes + 10);
  const bytes = Buffer.from(`a\n\n${long}\nb`);
  for (const step of [1, 7, 1_000, bytes.length]) {
    const cutter = new LineCutter();
    const lines: string[] = [];
    const keep = (line: Buffer, partial: boolean): void =>
      void lines.push(`${line.length}${partial ? "…" : ""}`);
    for (let at = 0; at < bytes.length; at += step) {
      for (const { line, partial } of cutter.cut(bytes.subarray(at, at + step))) keep(line, partial);
    }
    for (const { line, partial } of cutter.rest()) keep(line, partial);
    t.strictSame(lines, ["1", "0", `${logLineLimitBytes}…`, "10", "1"], `steps of ${step}`);
  }
  t.end();
});

t.test("index records survive being written, torn, dropped and thinned", (t) => {
  const records = Array.from({ length: 10 }, (_unused, index) => ({
    timeMs: index,
    stdoutBytes: index * 10,
    stderrBytes: 0,
  }));
  const bytes = encodeRecords(records);
  t.strictSame(decodeRecords(bytes), records);
  t.equal(decodeRecords(bytes.subarray(0, -1)).length, 9);
  t.equal(dropOldest(records, 30)[0]?.stdoutBytes, 60);
  t.equal(dropOldest(records, 1_000).length, 10);
  t.equal(dropOldest(records, 0).length, 1);
  const thin = thinOut(records);
  t.strictSame([thin[0], thin.at(-1)], [records[0], records[9]]);
  t.ok(thin.length < records.length);
  t.end();
});

async function waitUntil(condition: () => boolean): Promise<void> {
  for (let attempt = 0; attempt < 500; attempt++) {
    if (condition()) return;
    await systemClock.sleep(10);
  }
  throw new Error("the condition did not come true within 5 s");
}

t.test("a disk that takes no more costs no line and ends nobody", async (t) => {
  const world = await bench(t);
  const retries: (() => void)[] = [];
  const clock: Clock = {
    ...world.deps.clock,
    after: (_ms, callback) => (retries.push(callback), () => undefined),
  };
  const file = await OutputFile.create({ ...world.deps, clock }, world.directory, roomy);
  const index = join(world.directory, "output.index");
  symlinkSync("/dev/full", index); // Every write to it fails as on a full disk.
  appendFileSync(file.stdoutPath, "one\n");
  file.look();
  file.look();
  t.equal(world.warnings.length, 1, "said once");
  t.match(world.warnings[0], /cannot note output/);
  file.end();
  t.notOk(file.ended, "what came last is not given up");
  file.close();
  rmSync(index);
  appendFileSync(file.stdoutPath, "two\n");
  world.nowMs = 2_000;
  retries.at(-1)?.();
  file.end();
  t.strictSame(await read(file), ["2000 o one", "2000 o two"]);
});

t.test("opening goes on behind a torn record", async (t) => {
  const world = await bench(t);
  const before = await OutputFile.create(world.deps, world.directory, roomy);
  appendFileSync(before.stdoutPath, "one\n");
  before.look();
  before.close();
  appendFileSync(join(world.directory, "output.index"), "torn");
  world.nowMs = 2_000;
  appendFileSync(before.stdoutPath, "two\n");
  const after = await OutputFile.open(world.deps, world.directory, roomy);
  t.strictSame(await read(after), ["1000 o one", "2000 o two"]);
  after.close();
});

t.test("what a container wrote last is read although its end is known before", async (t) => {
  const { deps, directory } = await bench(t);
  const file = await OutputFile.create(deps, directory, roomy);
  let copied = (): void => undefined;
  const copying = new Promise<void>((resolve) => (copied = resolve));
  const lines: string[] = [];
  const options = { stdout: true, stderr: true, follow: false };
  const reading = (async () => {
    const reader = outputReader(file, () => copying);
    for await (const { line } of reader.read(options, none)) lines.push(Buffer.from(line).toString());
  })();
  appendFileSync(file.stdoutPath, "last words\n");
  copied();
  await reading;
  t.strictSame(lines, ["last words"]);
});
