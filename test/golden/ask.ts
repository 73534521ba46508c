/** Asks one engine everything in turn, by its socket or through the docker client, and keeps what it said. */
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { run, tryRun } from "../lab/shell.ts";
import { type Ask, type Body, type Call, namesOf, partsOf } from "./calls/call.ts";
import { Normal } from "./normal.ts";

/** Both engines know it; fields that came later are not asked for. */
const version = "1.41";
const callTimeoutMs = 60_000;
const frameHeaderBytes = 8;
const streamNames = ["stdin", "stdout", "stderr"] as const;

export interface Asked {
  readonly socket: string;
  /** An empty directory: the client's home, and where commands run. */
  readonly home: string;
  /** Paths of this engine's own that its answers name. */
  readonly own: readonly string[];
}

/** What was said to one call, with everything that no two engines say alike put into words such as "<id>". */
export type Answer =
  | {
      readonly status: number;
      readonly type: string;
      readonly body: unknown;
      /** Of a path in a container, from its header. */
      readonly stat?: unknown;
    }
  | { readonly code: number; readonly out: string; readonly err: string };

export interface Recorded {
  readonly call: string;
  readonly answer: Answer;
}

export interface AskOptions {
  /** Default: everything is asked. */
  readonly isAsked?: (ask: Ask) => boolean;
  readonly onCall?: (name: string) => void;
}

export async function askAll(
  asked: Asked,
  calls: readonly Call[],
  { isAsked = () => true, onCall = () => undefined }: AskOptions = {},
): Promise<Recorded[]> {
  const saved = new Map<string, string>();
  const normal = new Normal(asked.own);
  const recorded: Recorded[] = [];
  for (const [index, name] of namesOf(calls).entries()) {
    const { ask, body, save } = partsOf(calls[index] as Call);
    if (!isAsked(ask)) continue;
    onCall(name);
    if (ask.startsWith("$ ")) {
      recorded.push({ call: name, answer: normal.command(await command(asked, ask.slice(2))) });
      continue;
    }
    const said = await send(asked, substituted(ask, saved), body);
    const parsed = await parse(said);
    if (save !== undefined) saved.set(save, idOf(parsed.body));
    recorded.push({ call: name, answer: normal.answer(parsed) });
  }
  return recorded;
}

async function command(
  { socket, home }: Asked,
  script: string,
): Promise<{ code: number; out: string; err: string }> {
  const env = { HOME: home, DOCKER_HOST: `unix://${socket}`, DOCKER_API_VERSION: version, LC_ALL: "C" };
  const argv = ["sh", "-c", `cd "$HOME" && ${script}`];
  const { code, stdout, stderr } = await tryRun(argv, { env, timeoutMs: callTimeoutMs });
  return { code, out: stdout, err: stderr };
}

function substituted(ask: Ask, saved: ReadonlyMap<string, string>): string {
  return ask.replace(/\{(\w+)\}/g, (whole, name: string) => saved.get(name) ?? whole);
}

interface Said {
  readonly status: number;
  readonly type: string;
  readonly stat: string | undefined;
  readonly bytes: Buffer;
}

async function send({ socket }: Asked, ask: string, body: Body | undefined): Promise<Said> {
  const [method = "", path = ""] = ask.split(/ (.*)/s);
  const escaped = path.replace(/[^\x21-\x7e]|["{}[\]()^<>|\\]/g, (text) => encodeURIComponent(text));
  const isArchive = Buffer.isBuffer(body);
  const bytes =
    body === undefined || isArchive ? body : typeof body === "string" ? body : JSON.stringify(body);
  const type = isArchive ? "application/x-tar" : "application/json";
  const request = httpRequest({
    socketPath: socket,
    method,
    path: `/v${version}${escaped}`,
    headers: body === undefined ? {} : { "content-type": type },
    signal: AbortSignal.timeout(callTimeoutMs),
  });
  request.end(bytes);
  try {
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const pieces: Buffer[] = [];
    for await (const piece of response) pieces.push(piece as Buffer);
    const stat = response.headers["x-docker-container-path-stat"];
    return {
      status: response.statusCode ?? 0,
      type: response.headers["content-type"] ?? "",
      stat: typeof stat === "string" ? stat : undefined,
      bytes: Buffer.concat(pieces),
    };
  } catch (cause) {
    throw new Error(`no whole answer to ${ask}`, { cause });
  }
}

async function parse({ status, type, stat, bytes }: Said): Promise<Extract<Answer, { status: number }>> {
  return {
    status,
    type,
    body: bytes.toString("latin1", 257, 262) === "ustar" ? await listTar(bytes) : parseBody(type, bytes),
    ...(stat !== undefined && { stat: JSON.parse(Buffer.from(stat, "base64").toString("utf8")) as unknown }),
  };
}

/** JSON, lines of JSON, streams that were sent in one, or text. */
function parseBody(type: string, bytes: Buffer): unknown {
  if (bytes.length >= frameHeaderBytes && bytes.readUInt32BE(0) % 2 ** 24 === 0) {
    const streams = demultiplexed(bytes);
    if (streams !== undefined) return streams;
  }
  const text = bytes.toString("utf8");
  if (!type.startsWith("application/json")) return text;
  const lines = text.split(/\r?\n/).filter((line) => line !== "");
  try {
    if (lines.length === 0) return "";
    return lines.length === 1 ? JSON.parse(text) : lines.map((line) => JSON.parse(line) as unknown);
  } catch {
    return text;
  }
}

function demultiplexed(bytes: Buffer): Record<string, string> | undefined {
  const streams: Record<string, string> = {};
  let at = 0;
  while (at + frameHeaderBytes <= bytes.length) {
    const name = streamNames[bytes.readUInt8(at)];
    const end = at + frameHeaderBytes + bytes.readUInt32BE(at + 4);
    if (name === undefined || end > bytes.length) return undefined;
    streams[name] = `${streams[name] ?? ""}${bytes.toString("utf8", at + frameHeaderBytes, end)}`;
    at = end;
  }
  return at === bytes.length ? streams : undefined;
}

function idOf(body: unknown): string {
  const { Id } = body as { readonly Id?: unknown };
  if (typeof Id !== "string")
    throw new Error(`an answer without the Id that later calls need: ${JSON.stringify(body)}`);
  return Id;
}

/** Names in an archive, with modes, owners and sizes. */
async function listTar(bytes: Buffer): Promise<string> {
  const listed = await run(["tar", "-tv", "--numeric-owner"], { input: bytes });
  return listed.replaceAll(/ +(\d+) \d{4}-\d\d-\d\d \d\d:\d\d /g, " $1 ");
}
