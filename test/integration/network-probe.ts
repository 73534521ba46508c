/**
 * A small server or client to be run inside a namespace: `serve PORT TEXT [ADDRESS]`, `tell PORT NAME` (answers with
 * its name and the client's address), `get HOST PORT [LOCAL PORT]`, `survey HOST PORT` (many connections, a line each), `hold HOST PORT` (says what it got at every line it is
 * given), `refusal HOST PORT` (the error's code, and whether it came at once), `echo-udp PORT`, `tell-udp PORT NAME`, `ask-udp HOST PORT`, `survey-udp HOST PORT`, `resolver` (answers every question with 9.9.9.9),
 * `resolve udp|tcp SERVER NAME`. Clients print what they got, or the error's code.
 */
import { createSocket } from "node:dgram";
import { connect, createServer, isIPv6 } from "node:net";

import dns from "dns-packet";

const timeoutMs = 5_000;
/** Without a refusal the kernel gives up after three seconds and more. */
const atOnceMs = 2_000;
/** Which of two tasks answers is chance: that one of them is missed so often happens once in two thousand million surveys. */
const surveySize = 32;
const [mode = "", first = "", second = "", third = ""] = process.argv.slice(2);

switch (mode) {
  case "serve":
    createServer((socket) => socket.on("error", () => undefined).end(second)).listen(
      Number(first),
      third === "" ? "0.0.0.0" : third,
    );
    break;
  case "tell":
    createServer((socket) => {
      const from = `${second} ${plain(socket.remoteAddress ?? "")}`;
      socket.on("error", () => undefined).on("data", () => socket.write(from));
      socket.write(from);
    }).listen(Number(first));
    break;
  case "tell-udp": {
    const socket = createSocket("udp6");
    socket.on("message", (_, { port, address }) => socket.send(`${second} ${plain(address)}`, port, address));
    socket.bind(Number(first));
    break;
  }
  case "survey": {
    const said: string[] = [];
    const ask = (): void => {
      const socket = connect({ host: first, port: Number(second) });
      const next = (text: string): void => {
        socket
          .removeAllListeners()
          .on("error", () => undefined)
          .destroy();
        said.push(text);
        if (said.length < surveySize) ask();
        else finish(said.join("\n"));
      };
      socket.setTimeout(timeoutMs, () => next("TIMEOUT"));
      socket.on("error", (reason: NodeJS.ErrnoException) => next(reason.code ?? "ERROR"));
      socket.on("data", (chunk) => next(chunk.toString()));
      socket.on("end", () => next("CLOSED"));
    };
    ask();
    break;
  }
  case "hold": {
    const socket = connect({ host: first, port: Number(second) });
    socket.on("error", (reason: NodeJS.ErrnoException) => finish(reason.code ?? "ERROR"));
    socket.on("end", () => finish("CLOSED"));
    socket.on("data", (chunk) => process.stdout.write(`${chunk.toString()}\n`));
    process.stdin.on("data", () => socket.write("again"));
    break;
  }
  case "get": {
    const local = third === "" ? {} : { localPort: Number(third) };
    const socket = connect({ host: first, port: Number(second), ...local });
    socket.setTimeout(timeoutMs, () => finish("TIMEOUT"));
    socket.on("error", (reason: NodeJS.ErrnoException) => finish(reason.code ?? "ERROR"));
    socket.on("data", (chunk) => finish(chunk.toString()));
    socket.on("end", () => finish("CLOSED"));
    break;
  }
  case "refusal": {
    const startMs = performance.now();
    const socket = connect({ host: first, port: Number(second) });
    socket.setTimeout(timeoutMs, () => finish("TIMEOUT"));
    socket.on("error", (reason: NodeJS.ErrnoException) =>
      finish(`${reason.code} ${performance.now() - startMs < atOnceMs ? "at once" : "late"}`),
    );
    socket.on("connect", () => finish("CONNECTED"));
    break;
  }
  case "echo-udp": {
    const socket = createSocket("udp4");
    socket.on("message", (message, { port, address }) => socket.send(message, port, address));
    socket.bind(Number(first));
    break;
  }
  case "ask-udp": {
    const socket = createSocket(isIPv6(first) ? "udp6" : "udp4");
    setTimeout(() => finish("TIMEOUT"), timeoutMs);
    socket.on("message", (message) => finish(message.toString()));
    socket.on("error", (reason: NodeJS.ErrnoException) => finish(reason.code ?? "ERROR"));
    socket.connect(Number(second), first, () => socket.send("hello"));
    break;
  }
  case "survey-udp": {
    const said: string[] = [];
    const ask = (): void => {
      const socket = createSocket(isIPv6(first) ? "udp6" : "udp4");
      const next = (text: string): void => {
        clearTimeout(timer);
        socket.removeAllListeners().close();
        said.push(text);
        if (said.length < surveySize) ask();
        else finish(said.join("\n"));
      };
      const timer = setTimeout(() => next("TIMEOUT"), timeoutMs);
      socket.on("message", (message) => next(message.toString()));
      socket.on("error", (reason: NodeJS.ErrnoException) => next(reason.code ?? "ERROR"));
      socket.connect(Number(second), first, () => socket.send("hello"));
    };
    ask();
    break;
  }
  case "resolver": {
    const reply = ({ id, questions }: dns.DecodedPacket): dns.Packet => ({
      type: "response",
      ...(id === undefined ? {} : { id }),
      ...(questions === undefined ? {} : { questions }),
      answers: [{ type: "A", name: questions?.[0]?.name ?? "", data: "9.9.9.9" }],
    });
    const socket = createSocket("udp4");
    socket.on("message", (message, { port, address }) =>
      socket.send(dns.encode(reply(dns.decode(message))), port, address),
    );
    socket.bind(53);
    createServer((stream) =>
      stream.on("data", (chunk) => stream.end(dns.streamEncode(reply(dns.decode(chunk.subarray(2)))))),
    ).listen(53, "0.0.0.0");
    break;
  }
  case "resolve": {
    const query: dns.Packet = {
      type: "query",
      id: 7,
      flags: dns.RECURSION_DESIRED,
      questions: [{ type: "A", name: third }],
    };
    if (first === "tcp") {
      const stream = connect({ host: second, port: 53 }, () => stream.write(dns.streamEncode(query)));
      stream.on("data", (chunk) => printAnswers(dns.decode(chunk.subarray(2))));
    } else {
      const socket = createSocket("udp4");
      socket.on("message", (message) => printAnswers(dns.decode(message)));
      socket.send(dns.encode(query), 53, second);
    }
    setTimeout(() => finish("TIMEOUT"), timeoutMs);
    break;
  }
}

function printAnswers({ answers, flag_tc: truncated }: dns.DecodedPacket): void {
  const found = answers?.flatMap((answer) => (answer.type === "A" ? [answer.data] : [])) ?? [];
  finish(`${found.length}${truncated ? " truncated" : ""} ${found.toSorted().join(" ")}`.trim());
}

/** A caller's address of IPv4, where the socket is of both families. */
function plain(address: string): string {
  return address.replace(/^::ffff:/, "");
}

function finish(text: string): void {
  process.stdout.write(text, () => process.exit(0));
}
