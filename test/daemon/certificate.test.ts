import { type sendUnaryData, type ServerUnaryCall, status } from "@grpc/grpc-js";
import { type AddressInfo, createServer, type Socket } from "node:net";
import t, { type Test } from "tap";
import { renewCertificate, requestCertificate } from "../../daemon/certificate.ts";
import { createRoot, type Root } from "../../manager/ca/root.ts";
import { printJoinToken, rootDigestOf } from "../../model/join-token.ts";
import type { NodeIdentity } from "../../proto/host.ts";
import {
  CertificateAuthorityService,
  type IssueResponse,
  type RenewRequest,
} from "../../proto/gen/shoal/ca.ts";
import { createGrpcServer, listenGrpc } from "../../runtime/grpc.ts";
import { silentLog } from "../../runtime/log.ts";
import { TlsKeeper } from "../../runtime/tls.ts";
import { caDeps, clusterId, identityOf, nodeIdOf } from "../manager/ca/certificates.ts";

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

/** A manager that answers each renewal so; it may look at what is asked. */
async function manager(
  t: Test,
  root: Root,
  answer: (
    request: RenewRequest,
  ) => Partial<IssueResponse> | { readonly code: number; readonly details: string },
): Promise<string> {
  const server = createGrpcServer();
  const refuse = (_call: unknown, done: sendUnaryData<never>): void => done({ code: status.UNIMPLEMENTED });
  server.addService(CertificateAuthorityService, {
    getRoot: refuse,
    issue: refuse,
    renew: (
      { request }: ServerUnaryCall<RenewRequest, IssueResponse>,
      done: sendUnaryData<IssueResponse>,
    ) => {
      const given = answer(request);
      if ("code" in given) return done(given);
      const none = {
        nodeId: "",
        clusterId: "",
        role: "worker",
        certificatePem: "",
        rootPem: "",
        managers: [],
      };
      return done(null, { ...none, ...given });
    },
  });
  const keeper = new TlsKeeper(await identityOf(root, nodeIdOf("m"), "manager"));
  const listener = await listenGrpc({ server, keeper, host: "127.0.0.1", port: 0, log: silentLog });
  t.teardown(async () => {
    await listener.close();
    server.forceShutdown();
  });
  return `127.0.0.1:${listener.port}`;
}

async function worker(root: Root, managers: readonly string[]): Promise<NodeIdentity> {
  const identity = await identityOf(root, nodeIdOf("w"), "worker");
  return { ...identity, nodeId: nodeIdOf("w"), clusterId, role: "worker", managers } as NodeIdentity;
}

const { signal } = new AbortController();

t.test("a manager that does not believe the certificate, by its own clock, is passed over", async (t) => {
  const root = await createRoot(caDeps);
  const fresh = await identityOf(root, nodeIdOf("w"), "worker");
  const nowMs = Date.now();
  const wrong = await manager(t, root, () => {
    return { code: status.PERMISSION_DENIED, details: "the certificate is not accepted: CERT_HAS_EXPIRED" };
  });
  let told = 0;
  const right = await manager(t, root, (request) => {
    told = request.nowMs;
    return { certificatePem: fresh.certificatePem };
  });
  const renewed = await renewCertificate(await worker(root, [wrong, right]), nowMs, signal);
  t.equal(renewed.certificatePem, fresh.certificatePem);
  t.equal(told, nowMs, "the node says what time it is");
});

t.test(
  "a certificate that is not valid by the node's own clock does not take the place of one that is",
  async (t) => {
    const root = await createRoot(caDeps);
    const early = await identityOf(root, nodeIdOf("w"), "worker");
    const remote = await manager(t, root, () => ({ certificatePem: early.certificatePem }));
    const identity = await worker(root, [remote]);
    const threeHoursAgoMs = Date.now() - 3 * 3_600_000;
    await t.rejects(renewCertificate(identity, threeHoursAgoMs, signal), {
      code: "failed-precondition",
      message: /valid from .* the present certificate stays in use/,
    });
  },
);
