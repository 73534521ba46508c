import type { FileHandle } from "node:fs/promises";
import t from "tap";

import { Flusher, writeAt } from "../../../worker/engine/ingest.ts";

t.test("what a disk says to a flush is told at the end, and nothing more is flushed", async (t) => {
  let flushes = 0;
  const failing = (): Promise<void> => {
    flushes += 1;
    return Promise.reject(Object.assign(new Error("EIO: i/o error, fdatasync"), { code: "EIO" }));
  };
  const flusher = new Flusher({ datasync: failing } as unknown as FileHandle); // Nothing else is asked of it.
  flusher.wrote(64 * 1024 * 1024);
  await t.rejects(flusher.end(), { code: "data-loss", message: /did not take it: EIO/ });
  flusher.wrote(64 * 1024 * 1024);
  await t.rejects(flusher.end(), { code: "data-loss" });
  t.equal(flushes, 1);
});

t.test("one flush at a time, for every so many bytes", async (t) => {
  const waiting: (() => void)[] = [];
  const datasync = (): Promise<void> => new Promise((resolve) => void waiting.push(resolve));
  const flusher = new Flusher({ datasync } as unknown as FileHandle);
  for (let written = 0; written < 8; written += 1) flusher.wrote(4 * 1024 * 1024);
  await Promise.resolve();
  t.equal(waiting.length, 1);
  waiting.shift()?.();
  await flusher.end();
  flusher.wrote(1);
  await Promise.resolve();
  t.equal(waiting.length, 1, "what came meanwhile is due at once");
  waiting.shift()?.();
  await flusher.end();
});

t.test("a write that the system cuts short goes on behind what it took", async (t) => {
  const held = Buffer.alloc(10);
  const writev = (pieces: readonly Buffer[], position: number) => {
    const bytesWritten = Math.min(3, Buffer.concat(pieces).length);
    Buffer.concat(pieces).copy(held, position, 0, bytesWritten);
    return Promise.resolve({ bytesWritten });
  };
  await writeAt({ writev } as unknown as FileHandle, [Buffer.from("abcd"), Buffer.from("efg")], 2);
  t.equal(held.toString("latin1"), "\0\0abcdefg\0");
});
