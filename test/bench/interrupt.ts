import { constants } from "node:os";
import { sleep } from "../lab/shell.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** Work whose hosts are gone fails soon; what it made until then is undone too. */
const settleMs = 10_000;

/**
 * Does the work, and `undo` after it, also when the work fails or the process is told to end meanwhile: then it ends
 * when everything is undone, with the code that shells give such a process.
 *
 * @param undo - May be called twice, and while the work goes on.
 */
export async function withUndo<Result>(
  work: () => Promise<Result>,
  undo: () => Promise<void>,
): Promise<Result> {
  let settled: Promise<unknown> = Promise.resolve();
  let isEnding = false;
  const end = (signal: NodeJS.Signals): void => {
    if (isEnding) return;
    isEnding = true;
    console.error(`bench: ${signal}, cleaning up`);
    void undo()
      .then(() => Promise.race([settled, sleep(settleMs)]))
      .then(undo)
      .catch((error: unknown) => console.error(`bench: cannot clean up: ${String(error)}`))
      .finally(() => process.exit(128 + constants.signals[signal]));
  };
  for (const signal of signals) process.on(signal, end); // Before there is anything to undo.
  try {
    const working = work();
    settled = Promise.allSettled([working]);
    return await working;
  } finally {
    if (isEnding) await new Promise<never>(() => undefined); // The process ends in a moment.
    await undo();
    for (const signal of signals) process.off(signal, end);
  }
}
