import { readFile } from "node:fs/promises";
import root, { type Test } from "tap";
import { Lab, type Host, type LabOptions } from "../lab/lab.ts";
import { registryAddress } from "../lab/lan.ts";
import { View } from "./view.ts";

export const images = {
  bb1: `${registryAddress}/bb:1`,
  bb2: `${registryAddress}/bb:2`,
  web1: `${registryAddress}/web:1`,
  web2: `${registryAddress}/web:2`,
  broken: `${registryAddress}/web:broken`,
} as const;

/** A command that does nothing until it is told to end, and then ends at once. */
export const idle = [
  "sh",
  "-c",
  'trap "exit 0" TERM; echo "started $HOSTNAME"; sleep 1000000 & wait',
] as const;

/** The client waits for the monitor time of a service before it returns; five seconds each by default. */
export const quick = [
  "--update-monitor",
  "500ms",
  "--rollback-monitor",
  "500ms",
  "--stop-grace-period",
  "2s",
] as const;

/** For all tests on one lab, its boot included; every wait in them has a bound of its own. */
const labLimitMs = 300_000;
/** A file has one lab for each client at most. */
const fileLimitMs = 2 * labLimitMs;

/** Why no lab can be made here, or `false`. */
export const noLab: string | false = process.getuid?.() === 0 ? false : "not root: namespaces need root";

/**
 * One lab for all tests of a file, removed when they have ended. None of our processes may have met an error that nobody
 * handled: the logs are read for it at the end.
 */
export async function labForTests(
  t: Test,
  options: LabOptions & { readonly name: string },
): Promise<{ lab: Lab; view: View }> {
  root.setTimeout(fileLimitMs);
  t.setTimeout(labLimitMs);
  let lab: Lab | undefined;
  t.teardown(async () => {
    if (process.env["SHOAL_KEEP_LAB"] === undefined) await lab?.down();
  });
  lab = await Lab.up({ ...options, onStep: (step) => t.comment(step) });
  return { lab, view: new View(lab) };
}

/** Lines of the hosts' logs that tell of an error which nobody handled. */
export async function unhandledErrors(lab: Lab): Promise<string[]> {
  const logs = await Promise.all(lab.hosts.map((host) => readHostLog(host)));
  const bad = /unhandled|uncaught|assertion|(Type|Reference|Range)Error/i;
  return logs.flatMap((text, at) =>
    text
      .split("\n")
      .filter((line) => bad.test(line))
      .map((line) => `host${at + 1}: ${line.slice(0, 400)}`),
  );
}

export function readHostLog(host: Host): Promise<string> {
  return readFile(`${host.dir}/shoald.log`, "utf8");
}
