import { request } from "node:http";

/** An answer that was not a success; the message is the server's own. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

export interface CallOptions {
  readonly body?: unknown;
  /** Default 30 s. */
  readonly timeoutMs?: number;
}

/**
 * One call of the Docker-compatible API over a unix socket.
 *
 * @param path - Without version, such as `/services?status=true`; asked for as API 1.41, which Docker 20.10 and we both speak.
 * @returns The parsed answer, `undefined` when it has no body.
 * @throws {ApiError} for a status that is not 2xx; any other error means that there was no answer.
 */
export function call<T>(socket: string, method: string, path: string, options: CallOptions = {}): Promise<T> {
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        socketPath: socket,
        method,
        path: `/v1.41${path}`,
        headers:
          body === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
        timeout: options.timeoutMs ?? 30_000,
      },
      (response) => {
        let said = "";
        response.setEncoding("utf8").on("data", (chunk: string) => (said += chunk));
        response.on("error", reject);
        response.on("end", () => {
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) return resolve(parse(said) as T);
          const message = (parse(said) as { message?: string } | undefined)?.message ?? said;
          reject(new ApiError(status, `${method} ${path}: ${status}: ${message}`));
        });
      },
    );
    outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer in time: ${method} ${path}`)));
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

function parse(said: string): unknown {
  if (said.trim() === "") return undefined;
  try {
    return JSON.parse(said);
  } catch {
    return { message: said };
  }
}
