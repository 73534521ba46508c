import { type AddressInfo, createServer, type Socket } from "node:net";
import t, { type Test } from "tap";
import { requestCertificate } from "../../daemon/certificate.ts";
import { printJoinToken, rootDigestOf } from "../../model/join-token.ts";

const token = printJoinToken({ rootDigest: rootDigestOf(new Uint8Array(32)), secret: "0".repeat(25) });

/** "host:port" of this host where somebody else than a manager listens. */
async function listen(t: Test, serve: (socket: Socket) => void): Promise<string> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`; // It listens by TCP.
}

async function failureOf(remotes: readonly string[]): Promise<Error> {
  const request = { token, availability: "active", hostname: "h", nowMs: 0 } as const;
  try {
    await requestCertificate({ ...request, remotes }, new AbortController().signal);
  } catch (error) {
    return error as Error;
  }
  throw new Error("it joined");
}

for (const [name, answer] of [
  ["a web server", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"],
  ["one that hangs up", ""],
] as const) {
  t.test(`joining by the port of ${name} says so in words, not in those of OpenSSL`, async (t) => {
    const remote = await listen(t, (socket) => socket.once("data", () => socket.end(answer)));
    const { message: failure } = await failureOf([remote]);
    t.match(failure, /^cannot join by 127\.0\.0\.1:\d+: what listens there is no manager's cluster port/);
    t.notMatch(failure, /SSL routines|error:0A/);
  });
}

t.test("a manager that does not answer is passed over, and said so in words", async (t) => {
  const silent = await listen(t, () => {});
  const other = await listen(t, (socket) => socket.destroy());
  const { message } = await failureOf([silent, other]);
  t.match(message, `cannot join by ${other}`, "the next one was asked");
  const alone = await failureOf([silent]);
  t.match(alone.message, `no manager answered at ${silent} within 5 s`);
  t.notMatch(alone.message, /LB pick|Deadline/);
});
