/** A client that closes its side of a turned connection once it has said all, and goes on reading. */
import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";

const headEnd = "\r\n\r\n";
const frameHeaderBytes = 8;

export interface HalfClose {
  readonly body?: object;
  readonly isUpgrade: boolean;
  readonly input: string;
  /** What the client does once it has closed its side. */
  readonly afterwards?: () => Promise<unknown>;
}

/** The status, and all that came back until the other side closed as well, out of its frames. */
export async function halfClosed(
  socketPath: string,
  path: string,
  { body, isUpgrade, input, afterwards }: HalfClose,
): Promise<{ readonly status: string; readonly out: string }> {
  const socket = connect({ path: socketPath, allowHalfOpen: true });
  const closed = once(socket, "close");
  const text = body === undefined ? "" : JSON.stringify(body);
  const upgrade = isUpgrade ? "Connection: Upgrade\r\nUpgrade: tcp\r\n" : "";
  socket.write(
    `POST /v1.50${path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n` +
      `${upgrade}Content-Length: ${text.length}${headEnd}${text}`,
  );
  let all = Buffer.alloc(0);
  // As clients do: nothing is said before the connection is turned.
  const turned = new Promise<void>((resolve) => {
    socket.on("data", (piece: Buffer) => {
      all = Buffer.concat([all, piece]);
      if (all.includes(headEnd)) resolve();
    });
  });
  await Promise.race([turned, closed]);
  socket.end(input);
  await afterwards?.();
  await closed;
  let out = "";
  let at = all.indexOf(headEnd) + headEnd.length;
  while (at < all.length) {
    const end = at + frameHeaderBytes + all.readUInt32BE(at + 4);
    out += all.toString("utf8", at + frameHeaderBytes, end);
    at = end;
  }
  return { status: all.toString("latin1", 9, 12), out };
}

/** A command with all three streams; its id. */
export async function createExec(
  socketPath: string,
  container: string,
  Cmd: readonly string[],
): Promise<string> {
  const asked = request({
    socketPath,
    path: `/v1.50/containers/${container}/exec`,
    method: "POST",
    headers: { "content-type": "application/json" },
  });
  asked.end(JSON.stringify({ AttachStdin: true, AttachStdout: true, AttachStderr: true, Cmd }));
  const [answer] = (await once(asked, "response")) as [AsyncIterable<Buffer>];
  let text = "";
  for await (const piece of answer) text += String(piece);
  return (JSON.parse(text) as { Id: string }).Id;
}
