/** What is asked of an engine: a request of the API, or a command of the docker client. */

/** "GET /path" without a version, or "$ docker …" as a shell takes it. */
export type Ask = `$ ${string}` | `${"GET" | "HEAD" | "POST" | "PUT" | "DELETE"} /${string}`;

export type Call =
  | Ask
  /** With a body, and a name by which later calls have the answer's `Id`: "{name}" in their path. */
  | readonly [Ask, Body]
  | readonly [Ask, Body, string];

/** An object is sent as JSON, a text as it is but called JSON, bytes as a tar archive. */
export type Body = object | string | Buffer;

export function partsOf(call: Call): { readonly ask: Ask; readonly body?: Body; readonly save?: string } {
  if (typeof call === "string") return { ask: call };
  const [ask, body, save] = call;
  return { ask, body, ...(save !== undefined && { save }) };
}

/** Each call's own name: a call that comes again is told from the first by its number. */
export function namesOf(calls: readonly Call[]): string[] {
  const counts = new Map<string, number>();
  return calls.map((call) => {
    const { ask, body } = partsOf(call);
    const text = body === undefined || Buffer.isBuffer(body) ? ask : `${ask} ${printBody(body)}`;
    const count = (counts.get(text) ?? 0) + 1;
    counts.set(text, count);
    return count === 1 ? text : `${text} #${count}`;
  });
}

function printBody(body: object | string): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}
