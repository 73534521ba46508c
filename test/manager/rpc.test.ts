import { type ChannelCredentials, Client, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, connect as connectTcp, createServer, type Socket } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import t, { type Test } from "tap";
import { createRoot } from "../../manager/ca/root.ts";
import { callManager, ManagerChannels } from "../../manager/peers.ts";
import {
  authorize,
  bidi,
  type CallContext,
  callersOf,
  type Doors,
  onBehalfHeader,
  originOf,
  type Roster,
  type RpcPath,
  services,
  unary,
} from "../../manager/rpc.ts";
import { outcomeUnknownText } from "../../model/errors.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import type { NodeRole } from "../../model/node.ts";
import { CertificateAuthorityService, GetRootResponse, IssueResponse } from "../../proto/gen/shoal/ca.ts";
import {
  ControlService,
  ForwardResponse,
  JoinGroupResponse,
  LeaveGroupResponse,
} from "../../proto/gen/shoal/control.ts";
import { DispatcherService } from "../../proto/gen/shoal/dispatcher.ts";
import { fromServiceError } from "../../proto/status.ts";
import { channelOptions, createGrpcServer, type GrpcListener, listenGrpc } from "../../runtime/grpc.ts";
import { silentLog } from "../../runtime/log.ts";
import {
  anonymousChannelCredentials,
  channelCredentials,
  type TlsIdentity,
  TlsKeeper,
  unverifiedChannelCredentials,
} from "../../runtime/tls.ts";
import { caDeps, clusterId, identityOf, nodeIdOf } from "./ca/certificates.ts";

const ids = {
  server: nodeIdOf("s"),
  worker: nodeIdOf("w"),
  manager: nodeIdOf("m"),
  removed: nodeIdOf("r"),
  demoted: nodeIdOf("d"),
};

const roster: Roster = {
  clusterId,
  isRemoved: (nodeId) => nodeId === ids.removed,
  roleInEffect: (nodeId) => (nodeId === ids.demoted ? "worker" : undefined),
};

const allPaths = services.flatMap((service) => Object.values(service).map(({ path }) => path as RpcPath));

t.test("no RPC is without an entry, and no entry without an RPC", (t) => {
  t.strictSame(Object.keys(callersOf).toSorted(), allPaths.toSorted());
  for (const path of allPaths) t.ok(callersOf[path].length > 0, path);
  t.end();
});

t.test("over real sockets, every RPC refuses whoever it is not for", async (t) => {
  const root = await createRoot(caDeps);
  const foreignRoot = await createRoot(caDeps);
  const { listener, keeper } = await serve(t, root);
  t.ok(listener.port > 0);
  const foreign = await identityOf(foreignRoot, ids.manager, "manager");
  const callers = {
    none: anonymousChannelCredentials(root.certificatePem),
    foreign: channelCredentials({ ...foreign, rootPem: root.certificatePem }),
    "other cluster": channelCredentials(
      await identityOf(root, ids.manager, "manager", { clusterId: "x".repeat(25) as ClusterId }),
    ),
    "no node": channelCredentials(await identityOf(root, "nobody" as NodeId, "manager")),
    removed: channelCredentials(await identityOf(root, ids.removed, "manager")),
    demoted: channelCredentials(await identityOf(root, ids.demoted, "manager")),
    worker: channelCredentials(await identityOf(root, ids.worker, "worker")),
    manager: channelCredentials(await identityOf(root, ids.manager, "manager")),
  };
  const anyone = Object.keys(callers);
  const expected: Record<RpcPath, readonly string[]> = {
    "/shoal.v1.CertificateAuthority/GetRoot": anyone,
    "/shoal.v1.CertificateAuthority/Issue": anyone,
    "/shoal.v1.CertificateAuthority/Renew": ["demoted", "worker", "manager"],
    "/shoal.v1.Control/Forward": ["manager"],
    "/shoal.v1.Control/JoinGroup": ["manager"],
    "/shoal.v1.Control/LeaveGroup": ["manager"],
    "/shoal.v1.Dispatcher/Session": ["demoted", "worker", "manager"],
  };
  for (const [name, credentials] of Object.entries(callers)) {
    const client = new Client(`127.0.0.1:${listener.port}`, credentials, channelOptions());
    for (const path of allPaths) {
      const outcome = await call(client, path);
      const want = expected[path].includes(name) ? "ok" : "permission-denied";
      t.equal(outcome, want, `${path} by ${name}`);
    }
    client.close();
  }

  // The certificate is replaced while the listener runs.
  const renewed = await identityOf(root, ids.server, "manager");
  keeper.replace(renewed);
  const shown = await certificateShownBy(listener.port);
  t.equal(
    shown.serialNumber,
    new X509Certificate(renewed.certificatePem).serialNumber,
    "the new certificate is shown",
  );
});

t.test("who shows no certificate does not stay, and never keeps a node out", async (t) => {
  const root = await createRoot(caDeps);
  const { listener } = await serve(t, root, undefined, { count: 2, lifeMs: 5_000, handshakes: 9 });
  const open = async (identity?: TlsIdentity): Promise<{ socket: TLSSocket; heard: Promise<string> }> => {
    const shown = identity && { cert: identity.certificatePem, key: identity.keyPem };
    const trust = { rejectUnauthorized: false, ALPNProtocols: ["h2"] };
    const socket = connect({ port: listener.port, host: "127.0.0.1", ...trust, ...shown });
    t.teardown(() => socket.destroy());
    socket.on("error", () => {}).resume();
    const greeted = new Promise<string>((resolve) => socket.once("data", () => resolve("greeted")));
    const refused = new Promise<string>((resolve) => socket.once("close", () => resolve("refused")));
    await once(socket, "secureConnect");
    return { socket, heard: Promise.race([greeted, refused]) };
  };
  const expected = await identityOf(root, ids.worker, "worker");
  const strangers = [await open(), await open()];
  const left = Promise.all(strangers.map(({ socket }) => once(socket, "close")));
  const { socket: third } = await open();
  if (!third.closed) await once(third, "close"); // One too many, refused at once.
  t.notOk(strangers.some(({ socket }) => socket.closed));
  const { socket: node } = await open(expected);
  await left;
  t.notOk(node.closed, "a node stays");
  const { heard } = await open();
  t.equal(await heard, "greeted", "their places are free again");
});

t.test("connections that say nothing take no places of others", async (t) => {
  const root = await createRoot(caDeps);
  const { listener } = await serve(t, root, undefined, { count: 9, lifeMs: 5_000, handshakes: 2 });
  const silent = (): Socket => {
    const socket = connectTcp({ host: "127.0.0.1", port: listener.port }).on("error", () => {});
    t.teardown(() => socket.destroy());
    return socket;
  };
  const first = [silent(), silent()];
  await Promise.all(first.map((socket) => once(socket, "connect")));
  await once(silent(), "close"); // One too many.
  t.notOk(first.some(({ closed }) => closed));
  const shake = async (localAddress: string): Promise<void> => {
    const from = connectTcp({ host: "127.0.0.1", port: listener.port, localAddress });
    const socket = connect({ socket: from, rejectUnauthorized: false, ALPNProtocols: ["h2"] });
    t.teardown(() => socket.destroy());
    socket.on("error", () => {});
    await once(socket, "data"); // The other side has greeted, so it is over there, too.
  };
  await shake("127.0.0.2"); // Another address has places of its own.
  first[0]?.destroy();
  for (let round = 0; round < 3; round += 1) await shake("127.0.0.3"); // Those that are over hold none.
});

t.test("a stranger says little at a time, a node much", async (t) => {
  const root = await createRoot(caDeps);
  const { listener } = await serve(t, root);
  const address = `127.0.0.1:${listener.port}`;
  const own = await identityOf(root, ids.worker, "worker");
  const ask = (credentials: ChannelCredentials, bytes: number): Promise<string> => {
    const client = new Client(address, credentials, channelOptions());
    t.teardown(() => client.close());
    const raw = (value: Buffer): Buffer => value;
    const unknownField = Buffer.concat([Buffer.from([0xfa, 0x01, ...varint(bytes)]), Buffer.alloc(bytes)]);
    return new Promise((resolve) => {
      client.makeUnaryRequest(getRootPath, raw, raw, unknownField, (error) =>
        resolve(error === null ? "ok" : fromServiceError(error).code),
      );
    });
  };
  const stranger = unverifiedChannelCredentials();
  t.equal(await ask(stranger, 16_000), "ok");
  t.equal(await ask(stranger, 100_000), "too-large");
  t.equal(await ask(channelCredentials(own), 100_000), "ok");
});

t.test("a client speaks only to a manager of its own cluster", async (t) => {
  const root = await createRoot(caDeps);
  const foreignRoot = await createRoot(caDeps);
  const { listener } = await serve(t, root);
  const own = await identityOf(root, ids.worker, "worker");
  const cases = [
    { name: "its own root", identity: own, serverName: "swarm-manager", want: "ok" },
    { name: "by node id", identity: own, serverName: ids.server, want: "ok" },
    { name: "another node id", identity: own, serverName: ids.manager, want: "unavailable" },
    { name: "another root", identity: { ...own, rootPem: foreignRoot.certificatePem }, want: "unavailable" },
  ];
  for (const { name, identity, serverName, want } of cases) {
    const options = channelOptions(serverName);
    const client = new Client(`127.0.0.1:${listener.port}`, channelCredentials(identity), options);
    t.equal(await call(client, "/shoal.v1.Dispatcher/Session"), want, name);
    client.close();
  }
  const joiner = new Client(`127.0.0.1:${listener.port}`, unverifiedChannelCredentials(), channelOptions());
  t.equal(await call(joiner, "/shoal.v1.CertificateAuthority/GetRoot"), "ok", "a joiner's first contact");
  joiner.close();
});

t.test("TLS below 1.3 is refused", async (t) => {
  const root = await createRoot(caDeps);
  const { listener } = await serve(t, root);
  const error = await new Promise<unknown>((resolve) => {
    const socket = connect({
      host: "127.0.0.1",
      port: listener.port,
      maxVersion: "TLSv1.2",
      rejectUnauthorized: false,
    });
    socket.once("error", resolve);
    socket.once("secureConnect", () => resolve("connected"));
  });
  t.match(error, { code: /ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION/ });
});

t.test("a port that is taken is an error of the call, not of the process", async (t) => {
  const root = await createRoot(caDeps);
  const { listener, keeper } = await serve(t, root);
  const server = createGrpcServer();
  const again = listenGrpc({ server, keeper, host: "127.0.0.1", port: listener.port, log: silentLog });
  await t.rejects(again, { code: "EADDRINUSE" });
  server.forceShutdown();
});

t.test("a certificate without a node's names is refused", (t) => {
  const peer = {
    kind: "verified",
    address: "127.0.0.1",
    commonName: ids.manager,
    organizationalUnit: "swarm-ca",
    organization: clusterId,
  } as const;
  t.throws(() => authorize(roster, "/shoal.v1.Control/Forward", peer), { code: "permission-denied" });
  t.end();
});

t.test("only a manager may speak for another node, and for none that was removed", (t) => {
  const call = (role: NodeRole, onBehalf?: string): CallContext => ({
    peer: { kind: "node", address: "10.0.0.1", nodeId: ids[role], role },
    signal: new AbortController().signal,
    header: (name) => (name === onBehalfHeader ? onBehalf : undefined),
  });
  t.match(originOf(roster, call("worker")), { nodeId: ids.worker, forwarded: false });
  t.match(originOf(roster, call("manager", ids.worker)), {
    nodeId: ids.worker,
    role: "manager",
    forwarded: true,
  });
  t.throws(() => originOf(roster, call("worker", ids.manager)), { code: "permission-denied" });
  t.throws(() => originOf(roster, call("manager", ids.removed)), {
    code: "permission-denied",
    message: /was removed/,
  });
  t.throws(() => originOf(roster, { ...call("worker"), peer: { kind: "anonymous", address: "" } }), {
    code: "permission-denied",
  });
  t.end();
});

t.test("a call whose connection breaks before the answer has an unknown outcome, and says so", async (t) => {
  const root = await createRoot(caDeps);
  let asked: () => void = () => {};
  const arrived = new Promise<void>((resolve) => (asked = resolve));
  const { listener, keeper } = await serve(t, root, () => {
    asked();
    return new Promise(() => {});
  });
  const sockets: Socket[] = [];
  const relay = createServer((socket) => {
    const onward = connectTcp({ host: "127.0.0.1", port: listener.port });
    sockets.push(
      socket.on("error", () => {}),
      onward.on("error", () => {}),
    );
    socket.pipe(onward).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
  using channels = new ManagerChannels(keeper);
  t.teardown(() => relay.close());
  const client = channels.to(`127.0.0.1:${(relay.address() as AddressInfo).port}`);
  const request = { method: "POST", url: "/services/create", headers: {}, body: Buffer.alloc(0) };
  const called = callManager(client, ControlService.forward, request, { timeoutMs: 10_000 });
  await arrived;
  for (const socket of sockets) socket.destroy();
  await t.rejects(called, { code: "unavailable", message: outcomeUnknownText });
});

t.test("a host that answered nothing is dialled anew once it is back", async (t) => {
  const root = await createRoot(caDeps);
  const { listener, keeper } = await serve(t, root);
  const host = { isAway: true };
  const swallowed: Socket[] = [];
  const relay = createServer((socket) => {
    socket.on("error", () => {});
    if (host.isAway) return void swallowed.push(socket);
    const onward = connectTcp({ host: "127.0.0.1", port: listener.port }).on("error", () => {});
    socket.pipe(onward).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
  t.teardown(() => {
    for (const socket of swallowed) socket.destroy();
    relay.close();
  });
  using channels = new ManagerChannels(keeper);
  const address = `127.0.0.1:${(relay.address() as AddressInfo).port}`;
  const request = { method: "POST", url: "/services/create", headers: {}, body: Buffer.alloc(0) };
  const ask = (): Promise<ForwardResponse> =>
    callManager(channels.to(address), ControlService.forward, request, { timeoutMs: 10_000 });
  await t.rejects(ask(), { code: "no-leader", message: /cannot reach/ });
  host.isAway = false;
  t.equal(swallowed.length, 1);
  await ask();
});

async function serve(
  t: Test,
  root: Awaited<ReturnType<typeof createRoot>>,
  forward = async (): Promise<ForwardResponse> => ForwardResponse.create(),
  strangers?: Parameters<typeof listenGrpc>[0]["strangers"],
) {
  const identity: TlsIdentity = await identityOf(root, ids.server, "manager");
  const keeper = new TlsKeeper(identity);
  const server = createGrpcServer();
  const strangerServer = createGrpcServer("strangers");
  let listener: GrpcListener | undefined;
  const doors: Doors = {
    roster,
    log: silentLog,
    peerOf: (call) => listener?.peerOf(call) ?? { kind: "anonymous", address: "" },
  };
  for (const each of [server, strangerServer]) {
    each.addService(CertificateAuthorityService, {
      getRoot: answer(doors, "/shoal.v1.CertificateAuthority/GetRoot", GetRootResponse.create()),
      issue: answer(doors, "/shoal.v1.CertificateAuthority/Issue", IssueResponse.create()),
      renew: answer(doors, "/shoal.v1.CertificateAuthority/Renew", IssueResponse.create()),
    });
    each.addService(ControlService, {
      forward: unary(doors, "/shoal.v1.Control/Forward", forward),
      joinGroup: answer(doors, "/shoal.v1.Control/JoinGroup", JoinGroupResponse.create()),
      leaveGroup: answer(doors, "/shoal.v1.Control/LeaveGroup", LeaveGroupResponse.create()),
    });
    each.addService(DispatcherService, {
      session: bidi(doors, "/shoal.v1.Dispatcher/Session", async () => {}),
    });
  }
  const options = { server, strangerServer, keeper, host: "127.0.0.1", port: 0, log: silentLog };
  listener = await listenGrpc(strangers === undefined ? options : { ...options, strangers });
  const closing = listener;
  t.teardown(() => closing.close());
  return { listener, keeper };
}

const getRootPath = "/shoal.v1.CertificateAuthority/GetRoot";

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}

function answer<Response>(doors: Doors, path: RpcPath, response: Response) {
  return unary(doors, path, async (_request: unknown) => response);
}

/** Calls with an empty message, whatever the RPC's types are. */
function call(client: Client, path: RpcPath): Promise<string> {
  const method = services.flatMap((service) => Object.values(service)).find((method) => method.path === path);
  return new Promise((resolve) => {
    const done = (error: ServiceError | null): void =>
      resolve(error === null ? "ok" : fromServiceError(error).code);
    const raw = (value: Buffer): Buffer => value;
    const options = { deadline: Date.now() + 5_000 };
    if (method?.requestStream === true) {
      const stream = client.makeBidiStreamRequest(path, raw, raw, new Metadata(), options);
      stream.on("error", done);
      stream.on("data", () => {});
      stream.on("status", ({ code }) => {
        if (code === status.OK) done(null);
      });
    } else {
      client.makeUnaryRequest(path, raw, raw, Buffer.alloc(0), new Metadata(), options, done);
    }
  });
}

function certificateShownBy(port: number): Promise<X509Certificate> {
  return new Promise((resolve, reject) => {
    const socket = connect(
      { host: "127.0.0.1", port, rejectUnauthorized: false, ALPNProtocols: ["h2"] },
      () => {
        const certificate = socket.getPeerX509Certificate();
        socket.destroy();
        if (certificate === undefined) reject(new Error("no certificate was shown"));
        else resolve(certificate);
      },
    );
    socket.on("error", reject);
  });
}
