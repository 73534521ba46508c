import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import t from "tap";

import { relayTcp, relayUdp } from "../../../worker/network/relay.ts";

const hasIpv6 = Object.values(networkInterfaces())
  .flat()
  .some((each) => each?.address === "::1");
const skip = hasIpv6 ? false : "this host has no IPv6";

t.test("a connection goes on to the task, each way until its end", { skip }, async (t) => {
  const task = createServer({ allowHalfOpen: true }, (socket) => {
    let heard = "";
    socket.on("data", (bytes) => (heard += bytes.toString()));
    socket.on("end", () => socket.end(`heard ${heard}`)); // After the caller's end: it must not close both ways.
  }).listen(0, "127.0.0.1");
  await once(task, "listening");
  const { port } = task.address() as { port: number };
  let address: string | undefined = "127.0.0.1";
  const relay = await relayTcp("::", 0, { address: () => address, port });
  t.teardown(() => {
    relay.close();
    task.close();
  });
  const ask = async (text: string): Promise<string> => {
    const socket = connect({ host: "::1", port: relay.port, allowHalfOpen: true });
    let answer = "";
    socket.on("data", (bytes) => (answer += bytes.toString()));
    socket.end(text);
    await once(socket, "close");
    return answer;
  };
  t.equal(await ask("hello"), "heard hello");
  const long = "x".repeat(1_000_000);
  t.equal((await ask(long)).length, long.length + "heard ".length);
  address = undefined;
  t.equal(await ask("nobody").catch(() => ""), "", "however it was turned away");
});

t.test("a task that is not there ends the caller's connection", { skip }, async (t) => {
  const relay = await relayTcp("::1", 0, { address: () => "127.0.0.1", port: 1 });
  t.teardown(() => relay.close());
  const socket = connect({ host: "::1", port: relay.port });
  socket.on("error", () => undefined);
  await once(socket, "close");
  await t.rejects(relayTcp("::1", relay.port, { address: () => undefined, port: 1 }), { code: "EADDRINUSE" });
});

t.test("datagrams find their way back to whoever sent them", { skip }, async (t) => {
  const task = createSocket("udp4");
  task.on("message", (bytes, { port, address }) => task.send(`re: ${bytes.toString()}`, port, address));
  task.bind(0, "127.0.0.1");
  await once(task, "listening");
  const relay = await relayUdp("::", 0, { address: () => "127.0.0.1", port: task.address().port });
  const callers = [createSocket("udp6"), createSocket("udp6")];
  t.teardown(() => {
    relay.close();
    task.close();
    for (const caller of callers) caller.close();
  });
  for (const [index, caller] of callers.entries()) {
    for (const text of ["one", "two"]) {
      caller.send(`${text} ${index}`, relay.port, "::1");
      const [answer] = (await once(caller, "message")) as [Buffer];
      t.equal(answer.toString(), `re: ${text} ${index}`);
    }
  }
});
