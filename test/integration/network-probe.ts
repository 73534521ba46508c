/**
 * A small server or client to be run inside a namespace: `serve PORT TEXT`, `get HOST PORT`,
 * `echo-udp PORT`, `ask-udp HOST PORT`. Clients print what they got, or the error's code.
 */
import { createSocket } from "node:dgram";
import { connect, createServer } from "node:net";

const timeoutMs = 5_000;
const [mode = "", first = "", second = ""] = process.argv.slice(2);

switch (mode) {
  case "serve":
    createServer((socket) => socket.on("error", () => undefined).end(second)).listen(
      Number(first),
      "0.0.0.0",
    );
    break;
  case "get": {
    const socket = connect({ host: first, port: Number(second) });
    socket.setTimeout(timeoutMs, () => finish("TIMEOUT"));
    socket.on("error", (reason: NodeJS.ErrnoException) => finish(reason.code ?? "ERROR"));
    socket.on("data", (chunk) => finish(chunk.toString()));
    socket.on("end", () => finish("CLOSED"));
    break;
  }
  case "echo-udp": {
    const socket = createSocket("udp4");
    socket.on("message", (message, { port, address }) => socket.send(message, port, address));
    socket.bind(Number(first));
    break;
  }
  case "ask-udp": {
    const socket = createSocket("udp4");
    setTimeout(() => finish("TIMEOUT"), timeoutMs);
    socket.on("message", (message) => finish(message.toString()));
    socket.on("error", (reason: NodeJS.ErrnoException) => finish(reason.code ?? "ERROR"));
    socket.connect(Number(second), first, () => socket.send("hello"));
    break;
  }
}

function finish(text: string): void {
  process.stdout.write(text, () => process.exit(0));
}
