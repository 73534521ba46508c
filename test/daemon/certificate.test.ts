import { type AddressInfo, createServer } from "node:net";
import t, { type Test } from "tap";
import { requestCertificate } from "../../daemon/certificate.ts";
import { printJoinToken, rootDigestOf } from "../../model/join-token.ts";

const token = printJoinToken({ rootDigest: rootDigestOf(new Uint8Array(32)), secret: "0".repeat(25) });

/** Joins by a port of this host where somebody else listens. */
async function join(t: Test, answer: string): Promise<unknown> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end(answer));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo; // It listens by TCP.
  const request = { token, availability: "active", hostname: "h", nowMs: 0 } as const;
  return requestCertificate({ ...request, remotes: [`127.0.0.1:${port}`] }, new AbortController().signal);
}

for (const [name, answer] of [
  ["a web server", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"],
  ["one that hangs up", ""],
] as const) {
  t.test(`joining by the port of ${name} says so in words, not in those of OpenSSL`, async (t) => {
    const failure = await join(t, answer).then(
      () => "joined",
      (error: unknown) => (error as Error).message,
    );
    t.match(failure, /^cannot join by 127\.0\.0\.1:\d+: what listens there is no manager's cluster port/);
    t.notMatch(failure, /SSL routines|error:0A/);
  });
}
