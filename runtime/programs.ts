/**
 * Where our programs are. `npm run build` makes one file of each (`tools/bundle.ts`); what runs from its modules, as most tests
 * do, starts the others from theirs.
 */
export const programs = {
  shoald: "daemon/main.js",
  worker: "worker/main.js",
  manager: "manager/main.js",
  /** A thread of `manager`. */
  "raft-thread": "manager/raft/thread.js",
  "dns-probe": "worker/network/dns-probe.js",
  shoal: "cli/main.js",
} as const;

export type ProgramName = keyof typeof programs;

/** From `build/runtime/programs.js`, and from each bundle, it is as far. */
const build = new URL("../", import.meta.url);
const isBundled = !import.meta.url.endsWith("/runtime/programs.js");

/** What to start: bundled if this is. */
export function programFile(name: ProgramName): URL {
  return isBundled ? bundledFile(name) : new URL(programs[name], build);
}

export function bundledFile(name: ProgramName): URL {
  return new URL(`bundle/${name}.js`, build);
}

/** Path of the text whose lines say where those of a bundle come from. */
export function lineTableOf(bundle: string): string {
  return `${bundle}.lines`;
}
