import { type ClientRequest, type IncomingMessage, request } from "node:http";
import { isAbsolute } from "node:path";

const apiPrefix = "/v1.50";
const defaultHost = "unix:///run/shoal/shoal.sock";
/** Longest that a request other than a stream may take; the server's own deadline is 20 s. */
const requestTimeoutMs = 60_000;

/** What the daemon answered when it was not a success. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

/** The Engine API of one host, as JSON in and JSON out. */
export interface Client {
  get<T>(path: string, query?: Query): Promise<T>;
  post<T>(
    path: string,
    query?: Query,
    body?: unknown,
    headers?: Readonly<Record<string, string>>,
  ): Promise<T>;
  delete(path: string, query?: Query): Promise<void>;
  /** The raw body of a streaming answer. */
  stream(path: string, query?: Query, signal?: AbortSignal): Promise<IncomingMessage>;
}

/** @param host - `unix:///path` or `tcp://host:port`; else `SHOAL_HOST`, `DOCKER_HOST`, or the usual socket. */
export function openClient(host: string | undefined): Client {
  const target = parseHost(host ?? process.env["SHOAL_HOST"] ?? process.env["DOCKER_HOST"] ?? defaultHost);

  async function call<T>(
    method: string,
    path: string,
    query?: Query,
    body?: unknown,
    headers = {},
  ): Promise<T> {
    const response = await send(
      target,
      method,
      path,
      query,
      body,
      headers,
      AbortSignal.timeout(requestTimeoutMs),
    );
    const text = await readAll(response);
    if ((response.statusCode ?? 500) >= 400) throw failure(response, text);
    return (text === "" ? undefined : JSON.parse(text)) as T;
  }

  return {
    get: (path, query) => call("GET", path, query),
    post: (path, query, body, headers) => call("POST", path, query, body, headers),
    delete: (path, query) => call("DELETE", path, query),
    async stream(path, query, signal) {
      const response = await send(target, "GET", path, query, undefined, {}, signal);
      if ((response.statusCode ?? 500) >= 400) throw failure(response, await readAll(response));
      return response;
    },
  };
}

/** The `filters` query parameter: key → values. */
export function filters(values: Readonly<Record<string, readonly string[]>>): string {
  return JSON.stringify(
    Object.fromEntries(
      Object.entries(values).map(([key, list]) => [
        key,
        Object.fromEntries(list.map((value) => [value, true])),
      ]),
    ),
  );
}

type Target = { readonly socketPath: string } | { readonly host: string; readonly port: number };

function parseHost(host: string): Target {
  if (host.startsWith("unix://")) return { socketPath: host.slice("unix://".length) };
  if (isAbsolute(host)) return { socketPath: host };
  const match = /^(?:tcp|http):\/\/([^:/]+):(\d+)\/?$/.exec(host);
  if (match === null) {
    throw new Error(`cannot use host '${host}': expected unix:///path/to/socket or tcp://address:port`);
  }
  return { host: match[1] ?? "", port: Number(match[2]) };
}

function send(
  target: Target,
  method: string,
  path: string,
  query: Query | undefined,
  body: unknown,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal | undefined,
): Promise<IncomingMessage> {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {}))
    if (value !== undefined) parameters.set(key, String(value));
  const search = parameters.size > 0 ? `?${parameters.toString()}` : "";
  const payload = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const call: ClientRequest = request(
      {
        ...target,
        method,
        path: `${apiPrefix}${path}${search}`,
        headers: {
          host: "shoal",
          ...(payload === undefined
            ? { "content-length": 0 }
            : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
          ...headers,
        },
        ...(signal && { signal }),
      },
      resolve,
    );
    call.once("error", (cause) => reject(new Error(connectText(target, cause), { cause })));
    call.end(payload);
  });
}

function connectText(target: Target, cause: NodeJS.ErrnoException): string {
  const where =
    "socketPath" in target ? `unix://${target.socketPath}` : `tcp://${target.host}:${target.port}`;
  if (cause.code === "ENOENT" || cause.code === "ECONNREFUSED") {
    return `Cannot connect to the Shoal daemon at ${where}. Is shoald running?`;
  }
  if (cause.code === "EACCES")
    return `permission denied while trying to connect to the Shoal daemon at ${where}`;
  return `error during connect to ${where}: ${cause.message}`;
}

async function readAll(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

function failure(response: IncomingMessage, text: string): ApiError {
  const status = response.statusCode ?? 500;
  try {
    const { message } = JSON.parse(text) as { message?: string };
    if (message !== undefined) return new ApiError(status, `Error response from daemon: ${message}`);
  } catch {
    // Not JSON: some proxy's answer, shown as it is below.
  }
  return new ApiError(
    status,
    `Error response from daemon: status ${status}${text === "" ? "" : `: ${text.trim()}`}`,
  );
}
