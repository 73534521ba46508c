import { request } from "node:http";
import type { Random } from "../../runtime/random.ts";
import type { ListOperation, RegisterOperation } from "../sim/linearizable.ts";

/** What all clients of a run have done, for the checker; times are milliseconds of this process's clock. */
export interface History {
  readonly registers: RegisterOperation[];
  readonly lists: ListOperation[];
}

/** Who asks, about which list, and where it is written down. */
export interface Client {
  readonly name: string;
  readonly history: History;
  /** Value of {@link listLabel} on the configs that make the list. */
  readonly list: string;
}

export interface ClientOptions extends Client {
  /** Sockets of the managers; the client asks them in turn. */
  readonly sockets: readonly string[];
  readonly random: Random;
  /** Ids of configs whose label {@link valueLabel} is a register. */
  readonly registers: readonly string[];
  readonly signal: AbortSignal;
}

export const valueLabel = "value";
export const listLabel = "list";
const defaultTimeoutMs = 4_000;

interface Payload {
  readonly Version: { readonly Index: number };
  readonly Spec: { readonly Name: string; readonly Labels: Readonly<Record<string, string>> };
}

/** How a request ended: answered, certainly without effect, or nobody knows. */
type Outcome<T> =
  | { readonly kind: "answered"; readonly value: T }
  | { readonly kind: "refused"; readonly message: string }
  | { readonly kind: "unknown" };

/** One operation after another until the signal aborts. */
export async function runClient(options: ClientOptions): Promise<void> {
  const { signal, random, sockets, registers } = options;
  for (let count = 0; !signal.aborted; count += 1) {
    const socket = pick(sockets, random);
    const chance = random.next();
    if (chance < 0.25) await append(options, socket, `${options.name}-${count}`);
    else if (chance < 0.5) await readList(options, socket);
    else await readThenSet(options, socket, pick(registers, random), `${options.name}-${count}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function append({ name, history, list }: Client, socket: string, value: string): Promise<void> {
  const invoked = performance.now();
  const body = { Name: `${list}-${value}`, Data: "eA==", Labels: { [listLabel]: list } };
  const outcome = await ask(socket, "POST", "/configs/create", body);
  if (outcome.kind === "refused") return;
  const returned = outcome.kind === "answered" ? performance.now() : undefined;
  history.lists.push({ process: name, key: list, kind: "append", input: body.Name, invoked, returned });
}

export async function readList({ name, history, list }: Client, socket: string): Promise<void> {
  const invoked = performance.now();
  const filters = encodeURIComponent(JSON.stringify({ label: { [`${listLabel}=${list}`]: true } }));
  const outcome = await ask<readonly Payload[]>(socket, "GET", `/configs?filters=${filters}`);
  if (outcome.kind !== "answered") return;
  // What was written in one entry has one version; it became visible together, so its order is free.
  const output = [...outcome.value]
    .toSorted((a, b) => a.Version.Index - b.Version.Index || (a.Spec.Name < b.Spec.Name ? -1 : 1))
    .map(({ Spec }) => Spec.Name);
  history.lists.push({
    process: name,
    key: list,
    kind: "read",
    output,
    invoked,
    returned: performance.now(),
  });
}

/** Undefined when there was no answer. */
export async function readRegister(
  { name, history }: Client,
  socket: string,
  id: string,
): Promise<Payload | undefined> {
  const invoked = performance.now();
  const read = await ask<Payload>(socket, "GET", `/configs/${id}`);
  if (read.kind !== "answered") return undefined;
  const output = valueOf(read.value);
  history.registers.push({
    process: name,
    key: id,
    kind: "read",
    output,
    invoked,
    returned: performance.now(),
  });
  return read.value;
}

function valueOf({ Spec }: Payload): string {
  return Spec.Labels[valueLabel] ?? "";
}

async function readThenSet(client: Client, socket: string, id: string, value: string): Promise<void> {
  const { name, history } = client;
  const read = await readRegister(client, socket, id);
  if (read === undefined) return;
  const { Version, Spec } = read;
  const expected = valueOf(read);
  const invoked = performance.now();
  const path = `/configs/${id}/update?version=${Version.Index}`;
  const outcome = await ask(socket, "POST", path, { ...Spec, Labels: { [valueLabel]: value } });
  const asked = { process: name, key: id, kind: "compare-and-set", input: { expected, value } } as const;
  switch (outcome.kind) {
    case "answered":
      history.registers.push({ ...asked, output: true, invoked, returned: performance.now() });
      return;
    case "unknown":
      history.registers.push({ ...asked, output: undefined, invoked, returned: undefined });
      return;
    case "refused":
      if (outcome.message.includes("out of sequence")) {
        history.registers.push({ ...asked, output: false, invoked, returned: performance.now() });
      }
  }
}

/** Texts of answers to requests that were not begun, or decided and refused. */
const refusals = [
  /out of sequence/,
  /^The swarm does not have a leader/,
  /already exists/,
  /^This node is not a swarm manager/,
];

/** One request of its own connection. Only what certainly had no effect is `refused`. */
export function ask<T>(
  socket: string,
  method: "GET" | "POST",
  path: string,
  body?: unknown,
  timeoutMs = defaultTimeoutMs,
): Promise<Outcome<T>> {
  return new Promise((resolve) => {
    const unknown = (): void => resolve({ kind: "unknown" });
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const outgoing = request(
      { socketPath: socket, method, path, headers, timeout: timeoutMs, agent: false },
      (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (piece: string) => (text += piece));
        response.on("error", unknown);
        response.on("end", () => {
          const parsed = text === "" ? undefined : (JSON.parse(text) as T & { readonly message?: string });
          const status = response.statusCode ?? 500;
          if (status < 300) return resolve({ kind: "answered", value: parsed as T });
          const message = parsed?.message ?? "";
          if (refusals.some((each) => each.test(message))) return resolve({ kind: "refused", message });
          unknown();
        });
      },
    );
    outgoing.on("timeout", () => outgoing.destroy());
    outgoing.on("error", (error: NodeJS.ErrnoException) =>
      error.code === "ENOENT" || error.code === "ECONNREFUSED"
        ? resolve({ kind: "refused", message: error.message })
        : unknown(),
    );
    outgoing.on("close", unknown); // Nothing when it has been settled already.
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function pick<T>(from: readonly T[], random: Random): T {
  return from[random.integer(from.length)] as T; // Never asked of an empty list.
}
