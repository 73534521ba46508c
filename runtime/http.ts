import { ClusterError, errorCodes, toClusterError } from "../model/errors.ts";

/** Newest version of the Engine API that is spoken here, and the oldest that is accepted. */
export const apiVersion = "1.50";
/** Of shoald itself; what clients show as the version of the engine. */
export const productVersion = "0.1.0";
export const minApiVersion = "1.24";

/** What every response of the front door and of the manager's API carries. */
export const commonHeaders: Readonly<Record<string, string>> = {
  server: `Docker/${productVersion} (linux)`,
  "api-version": apiVersion,
  ostype: "linux",
  "docker-experimental": "false",
};

/** Of a request's body to a manager: the largest config in base64 with room to spare, below one gRPC message. */
export const bodyLimitBytes = 3 * 1024 * 1024;

/**
 * Of a request's line and headers together. Filters travel in the line, and dockerode writes a whole spec into that of an
 * update. With the largest body it still fits one gRPC message to the leader.
 */
export const headerLimitBytes = 512 * 1024;

export function bodyTooLarge(limitBytes: number): ClusterError {
  return new ClusterError("too-large", `request body too large: at most ${limitBytes} bytes are accepted`);
}

/** What Node refuses before it is a request; `code` is the error's. */
export function malformedRequest(code: string): {
  readonly status: number;
  readonly message: string;
} {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return {
        status: 431,
        message: `request header too large: at most ${headerLimitBytes} bytes are accepted`,
      };
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return { status: 408, message: "the request was not sent in time" };
    default:
      return { status: 400, message: "malformed HTTP request" };
  }
}

/** Exactly this: the Go client compares the whole header, a charset makes it print raw JSON. */
export const jsonContentType = "application/json";

export const notFoundMessage = "page not found";

export interface VersionedUrl {
  /** "1.41" of "/v1.41/info"; the newest version where the URL names none. */
  readonly version: string;
  /** Path and query without the version, such as "/info?x=1". */
  readonly url: string;
}

/** Takes the version off a URL. Whether it is one we speak is for `versionProblem`. */
export function splitVersion(url: string): VersionedUrl {
  const match = /^\/v(\d+\.\d+)(\/.*|\?.*|)$/.exec(url);
  if (match === null) return { version: apiVersion, url };
  const rest = match[2] ?? "";
  return { version: match[1] ?? apiVersion, url: rest.startsWith("/") ? rest : `/${rest}` };
}

/** The text for a client that is too new or too old; undefined when its version is fine. */
export function versionProblem(version: string): string | undefined {
  if (version === apiVersion) return undefined;
  if (compareVersions(version, apiVersion) > 0) {
    return `client version ${version} is too new. Maximum supported API version is ${apiVersion}`;
  }
  if (compareVersions(version, minApiVersion) < 0) {
    return `client version ${version} is too old. Minimum supported API version is ${minApiVersion}, please upgrade your client to a newer version`;
  }
  return undefined;
}

/** Negative, zero or positive, as `a` is older than, equal to or newer than `b`; both "major.minor". */
export function compareVersions(a: string, b: string): number {
  const [majorA = 0, minorA = 0] = a.split(".").map(Number);
  const [majorB = 0, minorB = 0] = b.split(".").map(Number);
  return majorA - majorB || minorA - minorB;
}

/** Status and body of a failed request; anything but a `ClusterError` is shown as `internal error`. */
export function errorResponse(reason: unknown): {
  readonly status: number;
  readonly body: { readonly message: string };
} {
  const error = toClusterError(reason);
  return { status: errorCodes[error.code].http, body: { message: error.message.trim() } };
}

/**
 * A JSON request body as the Engine API takes it: empty means no fields.
 *
 * @param contentType - The header as sent; only "application/json", with parameters, is accepted for a body.
 * @throws {ClusterError} `invalid-argument` with the API's own texts.
 */
export function parseJsonBody(contentType: string | undefined, body: string): unknown {
  if (body.trim() === "") return {};
  const mediaType = (contentType ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (mediaType !== jsonContentType) {
    throw new ClusterError(
      "invalid-argument",
      `unsupported Content-Type header (${contentType ?? ""}): must be '${jsonContentType}'`,
    );
  }
  try {
    return JSON.parse(body) as unknown;
  } catch (cause) {
    const detail = (cause as Error).message;
    const text = detail.includes("after JSON") ? "unexpected content after JSON" : `invalid JSON: ${detail}`;
    throw new ClusterError("invalid-argument", text, { cause });
  }
}

/** Query booleans of the Engine API: absent, "", 0, no, false and none are false. */
export function queryFlag(value: string | null | undefined): boolean {
  return (
    value !== null && value !== undefined && !["", "0", "no", "false", "none"].includes(value.toLowerCase())
  );
}

/** Wanted values by key, from either JSON shape that clients send. */
export type Filters = ReadonlyMap<string, readonly string[]>;

/**
 * The `filters` query parameter: `{"label":{"a=b":true}}` or `{"label":["a=b"]}`.
 *
 * @param allowed - Keys the route knows.
 * @throws {ClusterError} `invalid-argument` for another key or what is no JSON of these shapes.
 */
export function parseFilters(text: string | null | undefined, allowed: readonly string[]): Filters {
  const filters = new Map<string, string[]>();
  if (text === null || text === undefined || text === "") return filters;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text) as unknown;
  } catch (cause) {
    throw new ClusterError("invalid-argument", "invalid filter", { cause });
  }
  if (parsed === null) return filters; // Clients whose language writes "no filters" so.
  if (typeof parsed !== "object" || Array.isArray(parsed)) {
    throw new ClusterError("invalid-argument", "invalid filter");
  }
  for (const [key, value] of Object.entries(parsed)) {
    if (!allowed.includes(key)) throw new ClusterError("invalid-argument", `invalid filter '${key}'`);
    filters.set(key, filterValues(value));
  }
  return filters;
}

function filterValues(value: unknown): string[] {
  if (value === null) return [];
  if (Array.isArray(value)) {
    return value.map((each) => {
      if (typeof each === "object") throw new ClusterError("invalid-argument", "invalid filter");
      return String(each);
    });
  }
  if (typeof value === "object") {
    return Object.entries(value)
      .filter(([, wanted]) => wanted === true)
      .map(([text]) => text);
  }
  if (typeof value === "string" || typeof value === "boolean") return [String(value)];
  throw new ClusterError("invalid-argument", "invalid filter");
}

/** Unix milliseconds as the API prints time; undefined is the API's "never". */
export function apiTime(atMs: number | undefined): string {
  if (atMs === undefined || atMs === 0) return "0001-01-01T00:00:00Z";
  return timeText(atMs);
}

/** The same of a time that may be the epoch itself. */
export function timeText(atMs: number): string {
  return new Date(atMs).toISOString().replace(/\.?0*Z$/, "Z");
}
