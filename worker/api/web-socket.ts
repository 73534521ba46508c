/** Attach over a WebSocket, for clients that have no raw connections: browsers, and consoles built in them. */
import type { IncomingMessage } from "node:http";
import { createWebSocketStream, WebSocketServer } from "ws";
import { ClusterError } from "../../model/errors.ts";
import { compareVersions } from "../../runtime/http.ts";
import type { Seized } from "./hijack.ts";

/** Of one message: keys, or what was pasted. */
const messageLimitBytes = 1024 * 1024;
const standardStreams = ["stdin", "stdout", "stderr"];

const server = new WebSocketServer({
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: messageLimitBytes,
});

/**
 * Says yes. What is written to the stream goes out as binary messages, whatever comes in is input.
 *
 * @throws {ClusterError} `invalid-argument` for what is no handshake; the client was told.
 */
export function webSocketOf(request: IncomingMessage, seized: Seized): Promise<Seized> {
  return new Promise((resolve, reject) => {
    seized.socket.once("close", () =>
      reject(new ClusterError("invalid-argument", "no WebSocket was opened")),
    );
    seized.isTurned = true; // From here on the library answers, also what is no handshake.
    server.handleUpgrade(request, seized.socket, seized.head, (socket) => {
      const stream = createWebSocketStream(socket);
      stream.on("error", () => stream.destroy());
      // Either side's end is the end of both.
      socket.once("close", () => stream.destroy());
      resolve({ ...seized, socket: stream, head: Buffer.alloc(0) });
    });
  });
}

/** Before 1.42 there is no choice of streams, and output is always followed. */
export function socketQuery(query: URLSearchParams, version: string): URLSearchParams {
  const asked = new URLSearchParams(query);
  if (compareVersions(version, "1.42") < 0) for (const name of standardStreams) asked.set(name, "1");
  return asked;
}
