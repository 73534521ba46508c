import { readFile, rename, stat, utimes, writeFile } from "node:fs/promises";

/** What files were made from, so that they are made again only when one of those is newer. */
export interface Making {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** @param start - When the making began: an input written during it counts as newer. */
export async function writeRecord(path: string, record: Making, start: Date): Promise<void> {
  const whole = `${path}.new`; // A making that is broken off leaves no half record.
  await writeFile(whole, JSON.stringify(record));
  await utimes(whole, start, start);
  await rename(whole, path);
}

/** Whether all outputs are there, and no input has gone or changed since they were made. */
export async function isUpToDate(path: string): Promise<boolean> {
  const text = await readFile(path, "utf8").catch(() => undefined); // None, the first time.
  if (text === undefined) return false;
  const madeMs = (await stat(path)).mtimeMs;
  const { inputs, outputs } = JSON.parse(text) as Making;
  const changed = await Promise.all([
    ...inputs.map((input) => changedMs(input).then((ms) => ms === undefined || ms >= madeMs)),
    ...outputs.map((output) => changedMs(output).then((ms) => ms === undefined)),
  ]);
  return !changed.includes(true);
}

async function changedMs(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ mtimeMs }) => mtimeMs,
    () => undefined, // Gone, which its caller asks for.
  );
}
