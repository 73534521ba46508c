/** Attach and exec: requests that turn their connection into a stream both ways. */
import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError, errorText } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { parseJsonBody, queryFlag, splitVersion } from "../../runtime/http.ts";
import { consoleSize, type Exec } from "../containers/execs.ts";
import { Fields } from "../containers/fields.ts";
import type { ExecSession } from "../engine/exec-session.ts";
import type { TerminalSize } from "../engine/task.ts";
import type { OutputChunk } from "../logs/raw.ts";
import type { AttachedOutput } from "./attached-output.ts";
import { findContainer } from "./container.ts";
import type { ContainerDeps } from "./container-routes.ts";
import { parseDetachKeys } from "./detach-keys.ts";
import {
  carry,
  type Exchange,
  exchange,
  type ExchangeEnd,
  finish,
  refuse,
  seize,
  type Seized,
  turn,
  upgradeBody,
  withoutUpgrade,
} from "./hijack.ts";
import { bodyOf, jsonLimitBytes, queryOf, wildcard } from "./request.ts";
import { socketQuery, webSocketOf } from "./web-socket.ts";
import { anyOf } from "../../runtime/signal.ts";

/** Output that a command's children may still write after its own end. */
const trailingMs = 2_000;
const terminalMost = 65_535;
const turningPaths = [
  { kind: "socket", of: "GET", pattern: /^\/containers\/(.+)\/attach\/ws$/ },
  { kind: "attach", of: "POST", pattern: /^\/containers\/(.+)\/attach$/ },
  { kind: "exec", of: "POST", pattern: /^\/exec\/([^/]+)\/start$/ },
] as const;

export interface AttachDeps extends ContainerDeps {
  readonly attached: AttachedOutput;
}

export function attachRoutes(app: FastifyInstance, deps: AttachDeps): void {
  app.server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const turning = turningOf(request);
    if (turning === undefined) return withoutUpgrade(app.server, request, { socket, head });
    socket.on("error", () => socket.destroy());
    const seized = { socket, head, isUpgrade: true, isTurned: false };
    upgraded(deps, request, turning, seized).catch((error: unknown) => fail(deps, seized, error));
  });
  app.post("/exec/*", async (request, reply) => {
    const [id = "", action = ""] = wildcard(request).split("/");
    if (action === "resize") {
      await deps.containers.execs.resize(id, sizeOf(queryOf(request)));
      return reply.code(200).send();
    }
    if (action !== "start") throw new ClusterError("not-found", "page not found");
    const body = new Fields(await bodyOf(request));
    const exec = deps.containers.execs.require(id);
    if (body.flag("Detach")) {
      await deps.containers.execs.start(id, { attached: false, ...startOptions(body) });
      return reply.code(200).send();
    }
    const seized = takeOver(request, reply);
    await serveExec(deps, exec, body, seized, deps.versionOf(request)).catch((error: unknown) =>
      fail(deps, seized, error),
    );
    return reply;
  });
  app.get("/exec/*", async (request, reply) => {
    const [id = "", action = ""] = wildcard(request).split("/");
    if (action !== "json") throw new ClusterError("not-found", "page not found");
    return sendJson(reply, 200, printExec(deps.containers.execs.require(id)));
  });
}

/** `POST /containers/{id}/attach` without an upgrade. */
export async function attach(
  deps: AttachDeps,
  id: string,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const open = await openAttach(deps, id, queryOf(request));
  const seized = takeOver(request, reply);
  const version = deps.versionOf(request);
  await serveAttach(deps, id, open, seized, (what) => exchange(seized, { ...what, version })).catch(
    (error: unknown) => fail(deps, seized, error),
  );
  return reply;
}

export function sizeOf(query: URLSearchParams): TerminalSize {
  const read = (name: string): number => {
    const value = Number(query.get(name) ?? "");
    if (!Number.isInteger(value) || value < 0 || value > terminalMost) {
      throw new ClusterError(
        "invalid-argument",
        `strconv.ParseUint: parsing ${JSON.stringify(query.get(name) ?? "")}: invalid syntax`,
      );
    }
    return value;
  };
  return { height: read("h"), width: read("w") };
}

/** A request that turns its connection. */
interface Turning {
  readonly kind: "socket" | "attach" | "exec";
  /** Of what, as the path has it. */
  readonly name: string;
  readonly url: string;
  /** Of the API. */
  readonly version: string;
}

function turningOf({ method, url: whole = "/" }: IncomingMessage): Turning | undefined {
  const { url, version } = splitVersion(whole);
  const [path = ""] = url.split("?");
  for (const { kind, of, pattern } of turningPaths) {
    const name = method === of ? pattern.exec(path)?.[1] : undefined;
    if (name !== undefined) return { kind, name, url, version };
  }
  return undefined;
}

async function upgraded(
  deps: AttachDeps,
  request: IncomingMessage,
  { kind, name, url, version }: Turning,
  seized: Seized,
): Promise<void> {
  const asked = decoded(name);
  switch (kind) {
    case "socket": {
      const { id } = await findContainer(deps, asked);
      const open = await openAttach(deps, id, socketQuery(queryOf({ url }), version));
      const stream = await webSocketOf(request, seized).catch(async (error: unknown) => {
        open.life.abort();
        for await (const chunk of open.output) if (chunk) break; // What nobody begins to read, nothing closes.
        throw error;
      });
      return serveAttach(deps, id, open, stream, (what) => carry(stream.socket, stream.head, what, "raw"));
    }
    case "attach": {
      // Some clients put their options into a body as well: it is no input of the container's.
      seized.head = (await upgradeBody(request, seized, jsonLimitBytes)).rest;
      const { id } = await findContainer(deps, asked);
      return serveAttach(deps, id, await openAttach(deps, id, queryOf({ url })), seized, (what) =>
        exchange(seized, { ...what, version }),
      );
    }
    case "exec": {
      const { text, rest } = await upgradeBody(request, seized, jsonLimitBytes);
      const body = new Fields(parseJsonBody(request.headers["content-type"], text));
      seized.head = rest;
      return serveExec(deps, deps.containers.execs.require(asked), body, seized, version);
    }
  }
}

function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch (cause) {
    throw new ClusterError("invalid-argument", `not a path: ${name}`, { cause });
  }
}

interface OpenAttach {
  readonly tty: boolean;
  readonly output: AsyncIterable<OutputChunk>;
  readonly wantsInput: boolean;
  readonly endsInput: boolean;
  readonly detachKeys: Uint8Array;
  readonly life: AbortController;
}

async function openAttach(deps: AttachDeps, id: string, query: URLSearchParams): Promise<OpenAttach> {
  const flag = (name: string): boolean => queryFlag(query.get(name));
  const detachKeys = parseDetachKeys(query.get("detachKeys") ?? "");
  const record = await deps.containers.engine.inspect(id);
  if (record === undefined) throw new ClusterError("not-found", `No such container: ${id}`);
  if (record.status.state === "running" && record.status.paused === true) {
    throw new ClusterError("conflict", `container ${id} is paused, unpause the container before attach`);
  }
  const life = new AbortController();
  const stream = flag("stream");
  // Opened before the client is told: it starts the container next, and nothing may be missed.
  const output = await deps.containers.engine
    .attach(
      id,
      {
        stdout: flag("stdout"),
        stderr: flag("stderr"),
        from: flag("logs") ? "start" : "now",
        follow: stream,
      },
      anyOf(life.signal, deps.ending).signal, // Until `life` is over.
    )
    .catch((error: unknown) => {
      life.abort();
      throw error;
    });
  const { StdinOnce = false } = deps.containers.record(id)?.config ?? {};
  return {
    tty: record.tty,
    output,
    wantsInput: flag("stdin") && stream,
    endsInput: StdinOnce && !record.tty,
    detachKeys,
    life,
  };
}

async function serveAttach(
  deps: AttachDeps,
  id: string,
  { tty, output, wantsInput, endsInput, detachKeys, life }: OpenAttach,
  seized: Seized,
  carried: (what: Omit<Exchange, "version">) => Promise<ExchangeEnd>,
): Promise<void> {
  try {
    const input = wantsInput ? deps.containers.engine.stdin(id) : undefined;
    await deps.containers.emit(id, "attach");
    const carrying = carried({
      tty,
      output: [output],
      ...(input !== undefined && { input }),
      onInputEnd: endsInput ? "end" : "nothing",
      detachKeys: input === undefined || !tty ? undefined : detachKeys,
      ending: deps.ending,
    });
    deps.attached.add(id, carrying);
    const end = await carrying;
    if (end === "detached") await deps.containers.emit(id, "detach");
    // Who alone held its input has gone: the process learns that nothing more comes.
    if (end === "client-gone" && endsInput && !deps.ending.aborted) await input?.end();
  } finally {
    life.abort();
    if (seized.isTurned) finish(deps, seized);
  }
}

async function serveExec(
  deps: AttachDeps,
  exec: Exec,
  body: Fields,
  seized: Seized,
  version: string,
): Promise<void> {
  const { config, id } = exec;
  const options = startOptions(body);
  const tty = options.tty || config.tty;
  const detachKeys = tty ? parseDetachKeys(config.detachKeys) : undefined;
  const { ending } = deps;
  let session: ExecSession;
  try {
    // The answer leaves before the command starts: clients such as docker-py lose output that comes together with it.
    const onAccepted = (): void => turn(seized, { tty, version });
    session = await deps.containers.execs.start(id, { attached: true, ...options, onAccepted });
  } catch (error) {
    if (!seized.isTurned) throw error;
    // The client reads the reason as output, and the code where it looks for codes.
    const output = [saying(Buffer.from(`${errorText(error)}\r\n`))];
    await exchange(seized, { tty, version, output, onInputEnd: "nothing", detachKeys: undefined, ending });
    return finish(deps, seized);
  }
  try {
    const end = await exchange(seized, {
      tty,
      version,
      output: outputsOf(session, deps),
      ...(session.stdin !== undefined && { input: session.stdin }),
      onInputEnd: "end",
      detachKeys,
      ending,
    });
    // Whoever looks the code up after the stream's end finds it.
    if (end === "output-ended") await session.exited;
    if (end === "client-gone" && !tty) await session.stdin?.end();
    if (end === "detached") await deps.containers.emit(exec.containerId, "exec_detach", { execID: id });
  } finally {
    // Read on to nowhere: a command whose client is gone must not wait for it.
    session.stdout?.resume();
    session.stderr?.resume();
    finish(deps, seized);
  }
}

/** Each ends with its pipe, or a while after the command: its children may hold the pipe for ever. */
function outputsOf(session: ExecSession, { clock }: AttachDeps): AsyncIterable<OutputChunk>[] {
  const pipes = [
    { stream: "stdout" as const, socket: session.stdout },
    { stream: "stderr" as const, socket: session.stderr },
  ];
  const given = pipes.flatMap(({ stream, socket }) => (socket === undefined ? [] : [{ stream, socket }]));
  void session.exited.then(() => {
    for (const { socket } of given) {
      const cancel = clock.after(trailingMs, () => socket.destroy());
      socket.once("close", cancel);
    }
  });
  if (given.length > 0) return given.map(({ stream, socket }) => chunksOf(stream, socket));
  return [endingWith(session.exited)];
}

async function* chunksOf(
  stream: OutputChunk["stream"],
  socket: NonNullable<ExecSession["stdout"]>,
): AsyncGenerator<OutputChunk> {
  try {
    for await (const bytes of socket.iterator({ destroyOnReturn: false }))
      yield { stream, bytes: bytes as Buffer };
  } catch (error) {
    // Closed by us, see above.
    if ((error as NodeJS.ErrnoException).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  }
}

async function* saying(bytes: Uint8Array): AsyncGenerator<OutputChunk> {
  yield { stream: "stdout", bytes };
}

/** Nothing to see, and no end before the command's. */
async function* endingWith(exited: Promise<number>): AsyncGenerator<OutputChunk> {
  await exited;
  yield* [];
}

function takeOver(request: FastifyRequest, reply: FastifyReply): Seized {
  reply.hijack();
  return seize(request.raw);
}

function startOptions(body: Fields): { readonly tty: boolean; readonly size?: TerminalSize } {
  const size = consoleSize(body);
  return { tty: body.flag("Tty"), ...(size !== undefined && { size }) };
}

function fail({ log }: AttachDeps, seized: Seized, error: unknown): void {
  if (!(error instanceof ClusterError)) log.error({ error }, "a hijacked request failed");
  if (!seized.socket.destroyed) refuse(seized, error);
}

function printExec({ id, containerId, config, state, exitCode, pid }: Exec): object {
  const [entrypoint = "", ...args] = config.cmd;
  return {
    ID: id,
    Running: state === "running",
    ExitCode: exitCode ?? null,
    ProcessConfig: {
      tty: config.tty,
      entrypoint,
      arguments: args,
      privileged: config.privileged,
      ...(config.user !== "" && { user: config.user }),
    },
    OpenStdin: config.attachStdin,
    OpenStderr: config.attachStderr,
    OpenStdout: config.attachStdout,
    CanRemove: state === "ended",
    ContainerID: containerId,
    DetachKeys: config.detachKeys,
    Pid: pid,
  };
}
