import { createRequire, syncBuiltinESMExports } from "node:module";

/**
 * A turn of the event loop is nothing under a virtual clock: whoever asks for one goes on when the promises before it
 * have settled. Holds for the whole process.
 */
export function takeTurnsAtOnce(): void {
  const timers = createRequire(import.meta.url)("node:timers/promises") as {
    setImmediate: () => Promise<void>;
  };
  timers.setImmediate = () => Promise.resolve();
  syncBuiltinESMExports();
}
