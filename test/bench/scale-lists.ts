import { request } from "node:http";
import { call } from "../lab/api.ts";
import { sleep } from "../lab/shell.ts";

/** Lists as the docker CLI asks for them; the last is all tasks there are. */
const lists = (service: string): readonly (readonly [name: string, path: string])[] => [
  ["service ls", "/services?status=true"],
  ["service ps", `/tasks?filters=${encodeURIComponent(JSON.stringify({ service: [service] }))}`],
  ["task list", "/tasks"],
];

const listTimeoutMs = 30_000;
const churnEveryMs = 1_000;
/** Tasks that come or go each time. */
const churnTasks = 1_000;

export interface ListFigure {
  readonly name: string;
  /** Until the first byte of the body, the longest of all rounds. */
  readonly firstByteMs: number;
  readonly wholeMs: number;
}

/**
 * Asks for each list, round after round, while `service` is scaled up and down by a thousand tasks a second.
 *
 * @param service - Name of a replicated service.
 */
export async function measureLists(socket: string, service: string, rounds: number): Promise<ListFigure[]> {
  const ended = new AbortController();
  const churning = churn(socket, service, ended.signal);
  const figures: ListFigure[] = [];
  try {
    for (const [name, path] of lists(service)) {
      let longest = { firstByteMs: 0, wholeMs: 0 };
      for (let round = 0; round < rounds; round += 1) {
        const { firstByteMs, wholeMs } = await get(socket, path);
        longest = {
          firstByteMs: Math.max(longest.firstByteMs, firstByteMs),
          wholeMs: Math.max(longest.wholeMs, wholeMs),
        };
        await sleep(churnEveryMs / 4);
      }
      figures.push({ name, ...longest });
    }
  } finally {
    ended.abort();
    await churning;
  }
  return figures;
}

interface ServiceObject {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: { readonly Mode: { readonly Replicated?: { readonly Replicas: number } } };
}

async function churn(socket: string, name: string, signal: AbortSignal): Promise<void> {
  let by = churnTasks;
  for (let next = performance.now(); !signal.aborted; next += churnEveryMs) {
    const { ID, Version, Spec } = await call<ServiceObject>(socket, "GET", `/services/${name}`);
    const replicas = (Spec.Mode.Replicated?.Replicas ?? 0) + by;
    const body = { ...Spec, Mode: { Replicated: { Replicas: replicas } } };
    await call(socket, "POST", `/services/${ID}/update?version=${Version.Index}`, { body });
    by = -by;
    await sleep(Math.max(0, next + churnEveryMs - performance.now()));
  }
}

function get(socket: string, path: string): Promise<{ firstByteMs: number; wholeMs: number }> {
  const startMs = performance.now();
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { socketPath: socket, path: `/v1.50${path}`, timeout: listTimeoutMs },
      (response) => {
        let firstByteMs: number | undefined;
        response.on("data", () => (firstByteMs ??= performance.now() - startMs));
        response.on("error", reject);
        response.on("end", () => {
          if (response.statusCode === 200)
            resolve({ firstByteMs: firstByteMs ?? Number.NaN, wholeMs: performance.now() - startMs });
          else reject(new Error(`GET ${path}: ${response.statusCode}`));
        });
      },
    );
    outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer in time: GET ${path}`)));
    outgoing.on("error", reject);
    outgoing.end();
  });
}
