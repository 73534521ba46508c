import type { ApiNode, ApiService, ApiTask } from "./api-types.ts";
import type { Client } from "./client.ts";
import { orNothing } from "./resolve.ts";

const headerBytes = 8;
const stderrStream = 2;
const errorStream = 3;
const shortTaskId = 12;

export interface LogsOptions {
  readonly follow: boolean;
  readonly since?: string;
  readonly tail: string;
  readonly timestamps: boolean;
  readonly taskIds: boolean;
  readonly trunc: boolean;
  readonly raw: boolean;
}

/** Prints the log lines of a service or task, each with the task and node that it comes from. */
export async function showLogs(client: Client, name: string, options: LogsOptions): Promise<void> {
  const service = await orNothing(client.get<ApiService>(`/services/${encodeURIComponent(name)}`));
  const task = service
    ? undefined
    : await orNothing(client.get<ApiTask>(`/tasks/${encodeURIComponent(name)}`));
  if (service === undefined && task === undefined) throw new Error(`no such task or service: ${name}`);
  const tty = (service?.Spec.TaskTemplate ?? task?.Spec)?.ContainerSpec?.TTY === true;
  const stream = await client.stream(
    service ? `/services/${service.ID}/logs` : `/tasks/${task?.ID ?? ""}/logs`,
    {
      stdout: 1,
      stderr: 1,
      follow: options.follow ? 1 : 0,
      tail: options.tail,
      timestamps: options.timestamps ? 1 : 0,
      since: options.since,
      details: options.raw || tty ? 0 : 1,
    },
  );
  if (tty) {
    for await (const chunk of stream) process.stdout.write(chunk as Buffer);
    return;
  }
  const sources = new Sources(client, options);
  for await (const { kind, payload } of frames(stream)) {
    const output = kind === stderrStream ? process.stderr : process.stdout;
    if (kind === errorStream) throw new Error(payload.toString("utf8").trim());
    if (options.raw) {
      output.write(payload);
      continue;
    }
    const line = payload.toString("utf8");
    const [time, rest] = options.timestamps ? cut(line) : ["", line];
    const [details, message] = cut(rest);
    output.write(`${time === "" ? "" : `${time} `}${await sources.label(details)}    | ${message}`);
  }
}

class Sources {
  readonly #client: Client;
  readonly #options: LogsOptions;
  readonly #labels = new Map<string, string>();

  constructor(client: Client, options: LogsOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** "web.1.8fhq2k3l4m5n@host1" for the ids in a line's details. */
  async label(details: string): Promise<string> {
    const known = this.#labels.get(details);
    if (known !== undefined) return known;
    const ids = new Map(
      details.split(",").map((pair) => pair.split("=", 2).map(decodeURIComponent) as [string, string]),
    );
    const id = (kind: string) => ids.get(`com.docker.swarm.${kind}.id`) ?? "";
    const [service, task, node] = await Promise.all([
      orNothing(this.#client.get<ApiService>(`/services/${id("service")}`)),
      orNothing(this.#client.get<ApiTask>(`/tasks/${id("task")}`)),
      orNothing(this.#client.get<ApiNode>(`/nodes/${id("node")}`)),
    ]);
    const slot = task?.Slot ?? 0; // As docker shows tasks of global services.
    const taskId = this.#options.trunc ? id("task").slice(0, shortTaskId) : id("task");
    const name = `${service?.Spec.Name ?? id("service")}.${slot}${this.#options.taskIds ? `.${taskId}` : ""}`;
    const label = `${name}@${node?.Description.Hostname ?? id("node")}`;
    this.#labels.set(details, label);
    return label;
  }
}

/** Splits at the first space. */
function cut(text: string): [string, string] {
  const space = text.indexOf(" ");
  return space < 0 ? ["", text] : [text.slice(0, space), text.slice(space + 1)];
}

/** Frames of a multiplexed stream: one byte of kind, three of nothing, four of length, then the payload. */
async function* frames(stream: AsyncIterable<Buffer>): AsyncGenerator<{ kind: number; payload: Buffer }> {
  let buffered: Buffer = Buffer.alloc(0);
  for await (const chunk of stream) {
    buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk]);
    for (;;) {
      if (buffered.length < headerBytes) break;
      const end = headerBytes + buffered.readUInt32BE(4);
      if (buffered.length < end) break;
      yield { kind: buffered.readUInt8(0), payload: buffered.subarray(headerBytes, end) };
      buffered = buffered.subarray(end);
    }
  }
}
