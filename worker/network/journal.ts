/**
 * What a successor of this process must know, under `<runDir>/network`: a folder per task with its
 * record and the files its container mounts, and the networks last wanted. All of it may vanish with a
 * reboot, as the namespaces do, so nothing is synced to disk.
 */
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Attached, AttachRequest, HostPort, NetworkFiles, WantedNetworks } from "./network.ts";
import type { PreparedLink } from "./prepare.ts";

/** Raised when records of an older version can no longer be read; those are swept. */
const recordVersion = 1;
const wantedVersion = 2;

export interface TaskRecord {
  /** `making` is written before the kernel is touched: whoever finds it clears up. */
  readonly state: "making" | "attached";
  readonly request: AttachRequest;
  readonly attached: Attached;
  /** MTU of each address's network, in the same order. */
  readonly mtus: readonly number[];
}

/** Ids name files here. @throws {ClusterError} `invalid-argument` for one that could not. */
export function checkId(taskId: TaskId): void {
  if (!/^[\w-]+$/.test(taskId)) throw new ClusterError("invalid-argument", `not a task's id: "${taskId}"`);
}

/** Of a task that is being attached. */
export function newRecord(
  request: AttachRequest,
  at: {
    readonly journal: Pick<Journal, "files">;
    readonly namespaces: { readonly path: (taskId: TaskId) => string };
  },
  links: readonly PreparedLink[],
  publishedPorts: readonly HostPort[],
): TaskRecord {
  const { taskId, host } = request;
  const shared = { publishedPorts, files: at.journal.files(taskId) };
  const addresses = links.map(({ address }) => address);
  const attached: Attached = host
    ? { kind: "host", ...shared }
    : { kind: "namespace", path: at.namespaces.path(taskId), addresses, ...shared };
  return { state: "making", request, attached, mtus: links.map(({ mtu }) => mtu) };
}

export interface FileTexts {
  readonly hosts: string;
  readonly resolvConf: string;
  readonly hostname: string;
}

export class Journal {
  readonly #directory: string;
  readonly #tasks: string;

  constructor(directory: string) {
    this.#directory = directory;
    this.#tasks = join(directory, "tasks");
  }

  /** @returns readable records, and the tasks whose folder holds none. */
  async open(): Promise<{ readonly records: readonly TaskRecord[]; readonly broken: readonly TaskId[] }> {
    await mkdir(this.#tasks, { recursive: true, mode: 0o755 });
    const records: TaskRecord[] = [];
    const broken: TaskId[] = [];
    for (const name of await readdir(this.#tasks)) {
      const record = parseRecord(
        await readFile(join(this.#tasks, name, "record.json"), "utf8").catch(() => ""),
      );
      if (record?.request.taskId === name) records.push(record);
      else broken.push(name as TaskId); // Only its folder is removed by this name.
    }
    return { records, broken };
  }

  files(taskId: TaskId): NetworkFiles {
    const folder = join(this.#tasks, taskId);
    return {
      hosts: join(folder, "hosts"),
      resolvConf: join(folder, "resolv.conf"),
      hostname: join(folder, "hostname"),
    };
  }

  async write(record: TaskRecord, texts?: FileTexts): Promise<void> {
    const { taskId } = record.request;
    const folder = join(this.#tasks, taskId);
    try {
      await mkdir(folder, { recursive: true, mode: 0o755 });
      if (texts !== undefined) {
        const files = this.files(taskId);
        await Promise.all([
          writeFile(files.hosts, texts.hosts, { mode: 0o644 }),
          writeFile(files.resolvConf, texts.resolvConf, { mode: 0o644 }),
          writeFile(files.hostname, texts.hostname, { mode: 0o644 }),
        ]);
      }
      await replaceFile(join(folder, "record.json"), JSON.stringify({ version: recordVersion, ...record }));
    } catch (cause) {
      throw new ClusterError("internal", `cannot record the network of task ${taskId}: ${errorText(cause)}`, {
        cause,
      });
    }
  }

  async remove(taskId: TaskId): Promise<void> {
    await rm(join(this.#tasks, taskId), { recursive: true, force: true });
  }

  async writeWanted(wanted: WantedNetworks): Promise<void> {
    await replaceFile(
      join(this.#directory, "wanted.json"),
      JSON.stringify({ version: wantedVersion, wanted }),
    );
  }

  /** Undefined when there is none, or none that can be read: the next `apply` brings it. */
  async readWanted(): Promise<WantedNetworks | undefined> {
    const text = await readFile(join(this.#directory, "wanted.json"), "utf8").catch(() => "");
    const stored: { readonly wanted?: WantedNetworks } | undefined = parseStored(text, wantedVersion);
    return stored?.wanted;
  }
}

function parseRecord(text: string): TaskRecord | undefined {
  return parseStored(text, recordVersion) as TaskRecord | undefined;
}

/** Only we write these files, and whole; the version stands for their shape. */
function parseStored(text: string, version: number): object | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== "object" || parsed === null) return undefined;
    return "version" in parsed && parsed.version === version ? parsed : undefined;
  } catch {
    return undefined;
  }
}

async function replaceFile(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}
