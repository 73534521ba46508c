/**
 * What survives us of each container: `<stateDir>/containers/<id>/container.json`, written before
 * containerd hears of it, and `state.json` with start and exit. Each write replaces a whole file.
 */
import { renameSync, writeFileSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";

import type { ContainerRecord, ExitStatus } from "./engine.ts";

const recordVersion = 1;

/** The fixed part. */
export interface StoredContainer extends Omit<ContainerRecord, "status"> {
  readonly chainId: string;
  readonly log: LogLimits;
  /** Absent in records of before containers shared shims. */
  readonly shimGroup?: string;
  /** Added to the user's own, of commands as well; absent: none. */
  readonly groups?: readonly string[];
}

export interface LogLimits {
  readonly maxBytes: number;
  readonly maxFiles: number;
  /** False: output goes to /dev/null. */
  readonly kept: boolean;
}

/** The part that changes; absent until the first start. */
export interface StoredState {
  readonly startedAtMs?: number;
  readonly pid?: number;
  readonly oomKilled?: boolean;
  readonly exit?: ExitStatus;
}

export interface Loaded {
  readonly container: StoredContainer;
  readonly state: StoredState;
}

export class Records {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Directory of one container, for its output as well. */
  path(id: string): string {
    return join(this.#directory, id);
  }

  /** The directory is there already. */
  async create(container: StoredContainer): Promise<void> {
    this.#replace(container.id, "container.json", { version: recordVersion, container });
  }

  async saveState(id: string, state: StoredState): Promise<void> {
    this.#replace(id, "state.json", state);
  }

  /** All that can be read; ids whose record is missing or damaged are remains of a crash, to be removed. */
  async load(): Promise<{ readonly containers: readonly Loaded[]; readonly remains: readonly string[] }> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const containers: Loaded[] = [];
    const remains: string[] = [];
    for (const id of await readdir(this.#directory)) {
      const file = await this.#read<{ version: number; container: StoredContainer }>(id, "container.json");
      if (file?.version !== recordVersion) {
        remains.push(id);
        continue;
      }
      containers.push({
        container: file.container,
        state: (await this.#read<StoredState>(id, "state.json")) ?? {},
      });
    }
    containers.sort((a, b) => a.container.createdAtMs - b.container.createdAtMs);
    return { containers, remains };
  }

  async remove(id: string): Promise<void> {
    await rm(this.path(id), { recursive: true, force: true });
  }

  async #read<Content>(id: string, name: string): Promise<Content | undefined> {
    try {
      return JSON.parse(await readFile(join(this.path(id), name), "utf8")) as Content;
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT")
        return undefined;
      if ((error as NodeJS.ErrnoException).code === "ENOTDIR") return undefined;
      throw error;
    }
  }

  #replace(id: string, name: string, content: unknown): void {
    const path = join(this.path(id), name);
    // At once, because for a kilobyte in the page cache Node's thread pool costs ten times the write.
    writeFileSync(`${path}.new`, JSON.stringify(content), { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }
}
