/** Records of bridge networks: `<stateDir>/networks/<id>.json`. Each write replaces the whole file. */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import type { LocalNetwork } from "./record.ts";

const recordVersion = 1;

export class NetworkStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All that can be read, oldest first. */
  async load(): Promise<LocalNetwork[]> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const networks: LocalNetwork[] = [];
    for (const name of await readdir(this.#directory)) {
      if (!/^[0-9a-f]{64}\.json$/.test(name)) continue;
      const stored = parse(await readFile(join(this.#directory, name), "utf8"));
      if (stored?.version === recordVersion) networks.push(stored.network);
    }
    return networks.toSorted((a, b) => a.createdAtMs - b.createdAtMs);
  }

  async save(network: LocalNetwork): Promise<void> {
    const path = join(this.#directory, `${network.id}.json`);
    const file = await open(`${path}.new`, "w", 0o600);
    try {
      await file.writeFile(JSON.stringify({ version: recordVersion, network }));
      await file.sync(); // A network that was answered for is there after a power cut.
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
  }

  async remove(id: string): Promise<void> {
    await rm(join(this.#directory, `${id}.json`), { force: true });
  }
}

function parse(text: string): { readonly version: number; readonly network: LocalNetwork } | undefined {
  try {
    return JSON.parse(text) as { version: number; network: LocalNetwork }; // Only we write these files, and whole.
  } catch (error) {
    if (error instanceof SyntaxError) return undefined; // A crash before its first write was whole.
    throw error;
  }
}
