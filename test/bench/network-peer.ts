/** One end of what `network.ts` measures, as a process in the namespace it measures from; prints a number. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import type { Socket } from "node:net";

import packet from "dns-packet";

import { median } from "./report.ts";

const exchangeBytes = 64;
const warmUp = 200;
/** However slow the other end is. */
const mostMs = 5_000;
const receiveBytes = 1_048_576;
const [mode = "", host = "", port = "0", count = "0"] = process.argv.slice(2);

async function exchange(socket: Socket): Promise<void> {
  socket.write(Buffer.alloc(exchangeBytes));
  for (let bytes = 0; bytes < exchangeBytes;) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    bytes += chunk.length;
  }
}

async function open(): Promise<Socket> {
  const socket = connect({ host, port: Number(port), noDelay: true });
  await once(socket, "connect");
  return socket;
}

/** Median microseconds of 64 bytes there and back. */
async function roundTrip(): Promise<number> {
  const socket = await open();
  const times: number[] = [];
  const endMs = performance.now() + mostMs;
  for (let index = 0; index < Number(count) + warmUp && performance.now() < endMs; index += 1) {
    const startMs = performance.now();
    await exchange(socket);
    if (index >= warmUp) times.push((performance.now() - startMs) * 1_000);
  }
  socket.destroy();
  return median(times);
}

/** Median microseconds of a connection that carries one exchange. */
async function connections(): Promise<number> {
  const times: number[] = [];
  const endMs = performance.now() + mostMs;
  for (let index = 0; index < Number(count) && performance.now() < endMs; index += 1) {
    const startMs = performance.now();
    const socket = await open();
    await exchange(socket);
    socket.resetAndDestroy(); // Leaves no TIME_WAIT, of which a client has only so many.
    times.push((performance.now() - startMs) * 1_000);
  }
  return median(times);
}

const asked = 64;
const lostMs = 200;
/** The first question makes the other end build its tables. */
const warmUpMs = 1_000;
const names = 10_000;
const addressRecordBytes = 16;

/** Answers a second, with 64 questions under way for so many seconds. */
async function answers(): Promise<number> {
  // Made before, so that asking costs little of the machine that answers.
  const questions = Array.from({ length: names }, (_, index) =>
    packet.encode({
      type: "query",
      id: index,
      flags: packet.RECURSION_DESIRED,
      questions: [{ type: "A", name: `s${(index * 7_919) % names}` }],
    }),
  );
  const socket = createSocket({ type: "udp4", recvBufferSize: receiveBytes });
  socket.connect(53, host);
  await once(socket, "connect");
  let heard = 0;
  let next = 0;
  /** When each question under way was asked, by its number; what is lost is asked again. */
  const askedMs = new Float64Array(asked);
  const ask = (id: number): void => {
    const question = Buffer.from(questions[next % names] ?? []);
    next += 1;
    question.writeUInt16BE(id, 0);
    askedMs[id] = performance.now();
    socket.send(question);
  };
  socket.on("message", (reply) => {
    const id = reply.readUInt16BE(0);
    // One record: a service's virtual IP.
    if (reply.readUInt16BE(6) === 1 && reply.length > addressRecordBytes) heard += 1;
    if (id < asked) ask(id);
  });
  for (let id = 0; id < asked; id += 1) ask(id);
  await new Promise((resolve) => setTimeout(resolve, warmUpMs));
  heard = 0;
  const startMs = performance.now();
  const again = setInterval(() => {
    const lateMs = performance.now() - lostMs;
    for (const [id, atMs] of askedMs.entries()) if (atMs < lateMs) ask(id);
  }, lostMs);
  await new Promise((resolve) => setTimeout(resolve, Number(count) * 1_000));
  clearInterval(again);
  socket.close();
  return heard / ((performance.now() - startMs) / 1_000);
}

switch (mode) {
  case "serve":
    createServer({ noDelay: true }, (socket) => socket.on("error", () => undefined).pipe(socket)).listen(
      Number(port),
      host,
    );
    break;
  case "round-trip":
    console.log(await roundTrip());
    break;
  case "connections":
    console.log(await connections());
    break;
  case "names":
    console.log(await answers());
    break;
}
