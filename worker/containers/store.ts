/**
 * What survives us of each local container beyond the engine's record: `<stateDir>/local/<id>.json`.
 * Each write replaces the whole file.
 */
import { renameSync, writeFileSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import type { HealthState } from "../health/state.ts";
import type { ContainerConfig, HostConfig } from "./config.ts";
import type { Endpoints } from "./endpoints.ts";

const recordVersion = 1;

export interface LocalRecord {
  readonly id: string;
  readonly name: string;
  readonly config: ContainerConfig;
  readonly hostConfig: HostConfig;
  /** Networks to be on at its next start; absent in records from before: that of its mode. */
  readonly endpoints?: Endpoints;
  /** True from the moment somebody starts it until somebody stops it, or it ends for good. */
  readonly wantsToRun: boolean;
  /** By policy, since it was last started by somebody. */
  readonly restartCount: number;
  /** Of the last restart by policy; 0 when there was none. */
  readonly restartDelayMs: number;
  /** Why its last start failed; absent or empty when it did not. */
  readonly startError?: string;
  /** What its last probes said; absent without a health check or before the first. */
  readonly health?: HealthState;
}

export class LocalStore {
  readonly #directory: string;
  /** Writes of one container follow one another. */
  readonly #writing = new Map<string, Promise<void>>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All that can be read. */
  async load(): Promise<LocalRecord[]> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const records: LocalRecord[] = [];
    for (const name of await readdir(this.#directory)) {
      if (!/^[0-9a-f]{64}\.json$/.test(name)) continue;
      const stored = parse(await readFile(join(this.#directory, name), "utf8"));
      if (stored?.version === recordVersion) records.push(stored.record);
    }
    return records;
  }

  /** Notes which run of the daemon this is; false when the last process belonged to the same one. */
  async noteDaemonRun(run: string): Promise<boolean> {
    const path = join(this.#directory, "daemon");
    const before = await readFile(path, "utf8").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
      throw error;
    });
    if (before === run) return false;
    writeFileSync(`${path}.new`, run, { mode: 0o600 });
    renameSync(`${path}.new`, path);
    return true;
  }

  save(record: LocalRecord): Promise<void> {
    return this.#next(record.id, async () => {
      const path = join(this.#directory, `${record.id}.json`);
      // At once, because for a kilobyte in the page cache Node's thread pool costs ten times the write.
      writeFileSync(`${path}.new`, JSON.stringify({ version: recordVersion, record }), { mode: 0o600 });
      renameSync(`${path}.new`, path);
    });
  }

  remove(id: string): Promise<void> {
    return this.#next(id, () => rm(join(this.#directory, `${id}.json`), { force: true }));
  }

  #next(id: string, work: () => Promise<void>): Promise<void> {
    const last = this.#writing.get(id) ?? Promise.resolve();
    const done = last.catch(() => undefined).then(work);
    this.#writing.set(id, done);
    const forget = (): void => {
      if (this.#writing.get(id) === done) this.#writing.delete(id);
    };
    done.then(forget, forget);
    return done;
  }
}

function parse(text: string): { readonly version: number; readonly record: LocalRecord } | undefined {
  try {
    return JSON.parse(text) as { version: number; record: LocalRecord };
  } catch (error) {
    if (error instanceof SyntaxError) return undefined; // A crash before its first write was whole.
    throw error;
  }
}
