/**
 * Connections that a request turns into a stream of bytes both ways: attach and exec. A client asks for
 * it with `Upgrade: tcp` and gets 101, or without and gets 200; from then on the socket is ours.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { ClusterError } from "../../model/errors.ts";
import { compareVersions, errorResponse, jsonContentType } from "../../runtime/http.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Input } from "../engine/local.ts";
import type { OutputChunk } from "../logs/raw.ts";
import { DetachFilter } from "./detach-keys.ts";
import { framed } from "./log-frame.ts";

/** A client that does not close its side once all was said is closed on after this long. */
const lingerMs = 2_000;
/** For a client to take what has not left yet, which is no more than a connection holds. */
const unreadMs = 600_000;
/** Those of a request that are about its connection alone. */
const offerHeaders = new Set(["upgrade", "connection", "http2-settings"]);

/** A socket whose request has been read, and what came after it. */
export interface Seized {
  readonly socket: Duplex;
  /** Bytes that arrived with the request. */
  head: Buffer;
  readonly isUpgrade: boolean;
  /** It was said yes to: what goes out now is the stream. */
  isTurned: boolean;
}

/**
 * A request that offers a protocol which nobody takes up is an ordinary one (RFC 9110, section 7.8), such as those of Java's clients,
 * which offer TLS with everything. The server has let go of its socket: it gets it back with the same request without the offer.
 */
export function withoutUpgrade(
  server: Server,
  { method = "", url = "", rawHeaders }: IncomingMessage,
  { socket, head }: Pick<Seized, "socket" | "head">,
): void {
  const lines = [`${method} ${url} HTTP/1.1`];
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] ?? "";
    if (!offerHeaders.has(name.toLowerCase())) lines.push(`${name}: ${rawHeaders[at + 1] ?? ""}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), head]));
  server.emit("connection", socket);
}

/** Takes the socket of an ordinary request away from the HTTP server. */
export function seize(request: IncomingMessage): Seized {
  const { socket } = request;
  for (const event of ["data", "end", "drain", "timeout", "error"]) socket.removeAllListeners(event);
  // A listener takes the socket from the HTTP parser; what comes waits until somebody reads.
  socket.on("data", nobody).pause().off("data", nobody);
  socket.setTimeout(0);
  socket.on("error", () => socket.destroy());
  return { socket, head: Buffer.alloc(0), isUpgrade: false, isTurned: false };
}

function nobody(): void {}

/** A refusal before the connection was turned. */
export function refuse({ socket, isTurned }: Pick<Seized, "socket" | "isTurned">, reason: unknown): void {
  if (isTurned) return void socket.destroy();
  const { status, body } = errorResponse(reason);
  const text = `${JSON.stringify(body)}\n`;
  socket.resume(); // What is not read to its end is never closed.
  socket.end(
    `HTTP/1.1 ${status} Refused\r\nContent-Type: ${jsonContentType}\r\n` +
      `Content-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
  );
}

export interface Exchange {
  readonly tty: boolean;
  /** Of the API, as the request's path has it. */
  readonly version: string;
  readonly output: readonly AsyncIterable<OutputChunk>[];
  readonly input?: Input;
  /** What the client's end of input means to the process. */
  readonly onInputEnd: "end" | "nothing";
  /** Undefined: the client cannot detach. */
  readonly detachKeys: Uint8Array | undefined;
  /** Ends the exchange from our side. */
  readonly ending: AbortSignal;
}

export type ExchangeEnd = "output-ended" | "detached" | "client-gone";

/** Says yes, where nobody has, and carries bytes until the output ends, the client goes away or detaches. */
export function exchange(seized: Seized, what: Exchange): Promise<ExchangeEnd> {
  if (!seized.isTurned) turn(seized, what);
  return carry(seized.socket, seized.head, what, what.tty ? "raw" : "framed");
}

/** Says yes; `exchange` goes on from there. */
export function turn(seized: Seized, what: Pick<Exchange, "tty" | "version">): void {
  const { socket, isUpgrade } = seized;
  seized.isTurned = true;
  const isMultiplexed = !what.tty && compareVersions(what.version, "1.42") >= 0;
  const type = `application/vnd.docker.${isMultiplexed && isUpgrade ? "multiplexed" : "raw"}-stream`;
  const status = isUpgrade
    ? "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp"
    : "HTTP/1.1 200 OK";
  socket.write(`${status}\r\nContent-Type: ${type}\r\n\r\n`);
}

/**
 * The same on a connection that was said yes to.
 *
 * @param head - What came of the client's input already.
 * @param form - "framed": each piece of output says which stream it is of.
 */
export async function carry(
  socket: Duplex,
  head: Buffer,
  what: Omit<Exchange, "version">,
  form: "raw" | "framed",
): Promise<ExchangeEnd> {
  const over = new AbortController();
  const gone = new Promise<ExchangeEnd>((resolve) => {
    socket.once("close", () => resolve("client-gone"));
    what.ending.addEventListener("abort", () => resolve("client-gone"), { once: true, signal: over.signal });
  });
  const detached = new Promise<ExchangeEnd>((resolve) => {
    takeInput(socket, head, what, () => resolve("detached"));
  });
  const written = Promise.all(what.output.map((chunks) => send(socket, chunks, form))).catch(
    (error: unknown) => {
      if (!(error instanceof ClusterError)) throw error;
      if (over.signal.aborted) return; // Nobody reads any more.
      // The client must not take it for the end of all output.
      if (form === "framed") socket.write(framed("error", Buffer.from(error.message)));
      else socket.write(`\r\n${error.message}\r\n`);
    },
  );
  const end = await Promise.race([written.then(() => "output-ended" as const), detached, gone]);
  written.catch(() => undefined); // Of no interest once the race is over.
  over.abort();
  if (end === "detached" && what.tty) socket.write("\r\n");
  if (what.ending.aborted) socket.destroy();
  return end;
}

/** All has been said: the client sees the end, and what it still sends is of no use. */
export function finish(
  { clock, ending }: { readonly clock: Clock; readonly ending: AbortSignal },
  { socket }: Pick<Seized, "socket">,
): void {
  if (socket.destroyed) return;
  const destroy = (): void => void socket.destroy();
  ending.addEventListener("abort", destroy, { once: true });
  const giveUp = clock.after(unreadMs, destroy);
  socket.once("close", () => {
    giveUp();
    ending.removeEventListener("abort", destroy);
  });
  // Closing with input unread would take the last output from the client.
  socket.resume();
  socket.end();
  // Not before all of it has left: a client that is slow to read would lose the last.
  whenFinished(socket, () => {
    const cancel = clock.after(lingerMs, () => socket.destroy());
    socket.once("close", cancel);
    if (socket.readableEnded) socket.destroy();
    else socket.once("end", () => socket.destroy());
  });
}

function whenFinished(socket: Duplex, then: () => void): void {
  if (socket.writableFinished) then();
  else socket.once("finish", then);
}

function takeInput(
  socket: Duplex,
  head: Buffer,
  { input, onInputEnd, detachKeys }: Omit<Exchange, "version">,
  onDetach: () => void,
): void {
  const filter = detachKeys === undefined ? undefined : new DetachFilter(detachKeys);
  let isDetached = false;
  const take = (bytes: Buffer): void => {
    if (input === undefined || isDetached || bytes.length === 0) return;
    const passed = filter === undefined ? { bytes, isDetached: false } : filter.pass(bytes);
    socket.pause();
    void input
      .write(passed.bytes)
      .catch(() => undefined) // The process is gone; its output ends as well.
      .then(() => socket.resume());
    if (passed.isDetached) {
      isDetached = true;
      onDetach();
    }
  };
  take(head);
  socket.on("data", take);
  socket.once("end", () => {
    if (onInputEnd === "end" && !isDetached) void input?.end().catch(() => undefined);
  });
  socket.resume();
}

async function send(
  socket: Duplex,
  chunks: AsyncIterable<OutputChunk>,
  form: "raw" | "framed",
): Promise<void> {
  for await (const { stream, bytes } of chunks) {
    if (socket.destroyed) return;
    const isTaken = socket.write(form === "raw" ? bytes : framed(stream, bytes));
    if (!isTaken) await drained(socket);
  }
}

function drained(socket: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      socket.off("drain", settle).off("close", settle);
      resolve();
    };
    socket.on("drain", settle).on("close", settle);
  });
}

/** The body of a request that asked for an upgrade: the HTTP parser has left it to us. */
export async function upgradeBody(
  request: IncomingMessage,
  { socket, head }: Pick<Seized, "socket" | "head">,
  limitBytes: number,
): Promise<{ readonly text: string; readonly rest: Buffer }> {
  const length = Number(request.headers["content-length"] ?? 0);
  if (
    !Number.isInteger(length) ||
    length < 0 ||
    length > limitBytes ||
    "transfer-encoding" in request.headers
  ) {
    throw new ClusterError(
      "invalid-argument",
      `request body too large: at most ${limitBytes} bytes of a known length are accepted`,
    );
  }
  let bytes = head;
  while (bytes.length < length) {
    const more = await next(socket);
    if (more === undefined) throw new ClusterError("invalid-argument", "the request's body ended early");
    bytes = Buffer.concat([bytes, more]);
  }
  return { text: bytes.toString("utf8", 0, length), rest: bytes.subarray(length) };
}

function next(socket: Duplex): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const settle = (bytes?: Buffer): void => {
      socket.off("data", settle).off("end", none).off("close", none);
      socket.pause();
      resolve(bytes);
    };
    const none = (): void => settle();
    socket.on("data", settle).on("end", none).on("close", none);
    socket.resume();
  });
}
