/** Registries behind TLS of several kinds, and mirrors of Docker Hub. */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer, type ServerOptions } from "node:https";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import t, { type Test } from "tap";

import type { Reference } from "../../../worker/engine/reference.ts";
import { fetchManifest } from "../../../worker/engine/pull.ts";
import { readBody } from "../../../worker/engine/registry-answers.ts";
import { Registry } from "../../../worker/engine/registry.ts";
import { RegistryHosts } from "../../../worker/engine/registry-hosts.ts";
import { createAuthority } from "./authority.ts";

const none = new AbortController().signal;
const manifest = Buffer.from("{}");
const digest = `sha256:${createHash("sha256").update(manifest).digest("hex")}`;
const directory = await mkdtemp(join(tmpdir(), "shoal-registry-hosts-"));
t.teardown(() => rm(directory, { recursive: true }));
const authority = await createAuthority("Company");
const server = await authority.issue("registry", "server");
const client = await authority.issue("host", "client");
let directories = 0;

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

const sendManifest: Handler = (_request, response) => {
  response.setHeader("docker-content-digest", digest);
  response.end(manifest);
};

async function serve(
  t: Test,
  handler: Handler,
  tls?: ServerOptions,
): Promise<{ host: string; seen: string[] }> {
  const seen: string[] = [];
  const listener: Handler = (request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers.authorization ?? "-"}`);
    handler(request, response);
  };
  const listening = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  listening.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
  t.teardown(() => listening.close());
  return { host: `127.0.0.1:${(listening.address() as AddressInfo).port}`, seen };
}

/** A directory with these files for one host. */
async function certificates(host: string, files: Readonly<Record<string, string>>): Promise<string> {
  const own = join(directory, String(directories++));
  await mkdir(join(own, host), { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(join(own, host, name), text);
  return own;
}

function registryOf(t: Test, settings: ConstructorParameters<typeof Registry>[0]): Registry {
  const registry = new Registry(settings);
  t.teardown(() => registry.close());
  return registry;
}

function referenceOf(host: string): Reference {
  return { domain: host, path: "a/b", tag: "1" };
}

const tls = { cert: server.certificatePem, key: server.keyPem };

t.test(
  "a registry with a certificate of an own authority needs that authority in its directory",
  async (t) => {
    const { host } = await serve(t, sendManifest, tls);
    await t.rejects(registryOf(t, { insecure: [] }).manifest(referenceOf(host), undefined, none), {
      code: "unavailable",
      message: /unable to (verify the first|get local issuer) certificate/,
    });
    const own = await certificates(host, { "company.crt": authority.certificatePem, README: "" });
    const registry = registryOf(t, {
      insecure: [],
      certificateDirectories: [join(directory, "absent"), own],
    });
    t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
  },
);

t.test("certificates that change are used without a restart; damaged ones are named", async (t) => {
  const { host } = await serve(t, sendManifest, tls);
  const other = await createAuthority("Other");
  const own = await certificates(host, { "ca.crt": other.certificatePem });
  const registry = registryOf(t, { insecure: [], certificateDirectories: [own] });
  await t.rejects(registry.manifest(referenceOf(host), undefined, none), { code: "unavailable" });
  await writeFile(join(own, host, "ca.crt"), authority.certificatePem);
  await utimes(join(own, host, "ca.crt"), 1, 1);
  t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
  await writeFile(join(own, host, "x.cert"), "nonsense");
  await t.rejects(registry.manifest(referenceOf(host), undefined, none), {
    code: "failed-precondition",
    message: /missing key .*x\.key for client certificate .*x\.cert/,
  });
  await writeFile(join(own, host, "x.key"), "nonsense");
  await t.rejects(registry.manifest(referenceOf(host), undefined, none), {
    code: "failed-precondition",
    message: `cannot use the certificates for the registry ${host}`,
  });
});

t.test("a registry that wants a certificate of its clients gets the one of its directory", async (t) => {
  const strict = { ...tls, ca: authority.certificatePem, requestCert: true, rejectUnauthorized: true };
  const { host } = await serve(t, sendManifest, strict);
  const roots = { "ca.crt": authority.certificatePem };
  const without = await certificates(host, roots);
  const refused = registryOf(t, { insecure: [], certificateDirectories: [without] });
  await t.rejects(refused.manifest(referenceOf(host), undefined, none), { code: "unavailable" });
  const files = { ...roots, "client.cert": client.certificatePem, "client.key": client.keyPem };
  const own = await certificates(host, files);
  const registry = registryOf(t, { insecure: [], certificateDirectories: [own] });
  t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
});

t.test("an insecure registry may have any certificate, or none", async (t) => {
  for (const options of [tls, undefined]) {
    const { host } = await serve(t, sendManifest, options);
    const registry = registryOf(t, { insecure: ["127.0.0.0/8"] });
    t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
    t.equal((await registry.head(referenceOf(host), undefined, none)).digest, digest);
  }
});

t.test("an insecure registry that breaks off is not taken for one without TLS", async (t) => {
  let mode: "broken" | "plain" | "secure" = "broken";
  const plain = createServer(sendManifest);
  const secure = createTlsServer(tls, sendManifest);
  const sockets: Socket[] = [];
  const cut = (): void => {
    for (const socket of sockets.splice(0)) socket.destroy();
  };
  const front = createTcpServer((socket) => {
    sockets.push(socket);
    if (mode !== "broken") return void (mode === "plain" ? plain : secure).emit("connection", socket);
    socket.on("error", () => undefined);
    socket.once("data", () => void socket.resetAndDestroy());
  });
  await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
  t.teardown(() => front.close());
  const host = `127.0.0.1:${(front.address() as AddressInfo).port}`;
  const hosts = new RegistryHosts({ insecure: [host] }, { idleTimeoutMs: 1_000, connectTimeoutMs: 1_000 });
  t.teardown(() => hosts.close());
  t.equal((await hosts.base(host, none)).protocol, "https:");
  mode = "plain";
  t.equal((await hosts.base(host, none)).protocol, "http:", "asked again");
  mode = "secure";
  t.equal((await hosts.base(host, none)).protocol, "http:", "kept while requests succeed");
  hosts.forget(host);
  t.equal((await hosts.base(host, none)).protocol, "https:");

  mode = "plain";
  const registry = registryOf(t, { insecure: [host] });
  t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
  cut();
  mode = "secure";
  await t.rejects(registry.manifest(referenceOf(host), undefined, none), { code: "unavailable" });
  t.equal((await registry.manifest(referenceOf(host), undefined, none)).digest, digest);
  cut();
});

t.test(
  "an insecure registry that closes on a TLS greeting is asked without it, and without credentials",
  async (t) => {
    const seen: (string | undefined)[] = [];
    let status = 401;
    const plain = createServer((request, response) => {
      seen.push(`${request.url} ${request.headers.authorization ?? "-"}`);
      if (request.url === "/v2/") response.writeHead(status).end();
      else sendManifest(request, response);
    });
    const front = createTcpServer((socket) => {
      socket.on("error", () => undefined);
      socket.once("data", (greeting) => {
        const isTls = greeting[0] === 0x16;
        if (isTls) return void socket.destroy();
        socket.pause();
        socket.unshift(greeting);
        plain.emit("connection", socket);
        socket.resume();
      });
    });
    await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
    t.teardown(() => front.close());
    const host = `127.0.0.1:${(front.address() as AddressInfo).port}`;
    const hosts = new RegistryHosts({ insecure: [host] }, { idleTimeoutMs: 1_000, connectTimeoutMs: 1_000 });
    t.teardown(() => hosts.close());
    t.equal((await hosts.base(host, none)).protocol, "http:");
    t.strictSame(seen, ["/v2/ -"]);
    hosts.forget(host);
    status = 400;
    t.equal((await hosts.base(host, none)).protocol, "https:", "as a server with TLS answers");
  },
);

t.test("which hosts are insecure: by name, with a port or without, by block", (t) => {
  const hosts = new RegistryHosts(
    { insecure: ["a:5000", "b", "10.0.0.0/8", "fd00::/8"] },
    { idleTimeoutMs: 1_000, connectTimeoutMs: 1_000 },
  );
  const cases = {
    "a:5000": true,
    "a:5001": false,
    a: false,
    b: true,
    "b:1": true,
    "10.1.2.3:5000": true,
    "11.1.2.3": false,
    "[fd00::1]:5000": true,
  };
  for (const [host, wanted] of Object.entries(cases)) t.equal(hosts.isInsecure(host), wanted, host);
  hosts.close();
  t.end();
});

t.test(
  "a mirror is asked before Docker Hub, without credentials, and is left alone after it failed",
  async (t) => {
    const broken = createTcpServer((socket) => void socket.destroy());
    await new Promise<void>((resolve) => broken.listen(0, "127.0.0.1", resolve));
    t.teardown(() => broken.close());
    const { port } = broken.address() as AddressInfo;
    let connections = 0;
    broken.on("connection", () => connections++);
    const empty = await serve(t, (_request, response) => response.writeHead(404).end());
    const mirror = await serve(t, sendManifest);
    const registry = registryOf(t, {
      insecure: [],
      mirrors: [`http://127.0.0.1:${port}`, `http://${empty.host}`, `http://${mirror.host}`],
    });
    const reference = { domain: "docker.io", path: "library/bb", tag: "1" };
    const auth = { username: "u", password: "p" };
    t.equal((await registry.manifest(reference, auth, none)).digest, digest);
    t.equal((await registry.head(reference, auth, none)).digest, digest);
    t.equal(connections, 3, "tried three times, then not for a while");
    t.strictSame(empty.seen, ["GET /v2/library/bb/manifests/1 -", "HEAD /v2/library/bb/manifests/1 -"]);
    t.strictSame(mirror.seen, empty.seen);
  },
);

t.test("a mirror whose manifests are broken or others than were asked for is left alone", async (t) => {
  const text = '{"schemaVersion":2,"config":{},"layers":[]}'.replace("{}", `{"digest":"${digest}","size":2}`);
  const wanted = `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const lying = await serve(t, (_request, response) => response.end(text.replace("2", "3")));
  const cut = await serve(t, (_request, response) => {
    response.writeHead(200, { "content-length": 100 });
    response.write("{", () => response.destroy());
  });
  const good = await serve(t, (_request, response) => response.end(text));
  const mirrors = [lying, cut, good].map(({ host }) => `http://${host}`);
  const registry = registryOf(t, { insecure: [], mirrors });
  const reference = { domain: "docker.io", path: "library/bb", digest: wanted };
  for (let time = 0; time < 2; time++)
    t.equal((await fetchManifest(registry, reference, undefined, none)).descriptor.digest, wanted);
  t.strictSame(
    [lying, cut, good].map(({ seen }) => seen.length),
    [1, 1, 2],
  );
});

t.test("a mirror whose blob breaks off is left alone, one whose reader gives up is not", async (t) => {
  const cut = await serve(t, (request, response) => {
    response.writeHead(200, { "content-length": 100 });
    response.write("{", () => {
      if (request.url?.endsWith("cut") === true) response.destroy();
    });
  });
  const registry = registryOf(t, { insecure: [], mirrors: [`http://${cut.host}`] });
  const reference = { domain: "docker.io", path: "library/bb", tag: "1" };
  const life = new AbortController();
  const given = await registry.blob(reference, "kept", 0, undefined, life.signal);
  life.abort(new Error("no longer wanted"));
  await t.rejects(readBody(given, 1_000));
  const broken = await registry.blob(reference, "cut", 0, undefined, none);
  t.equal(registry.mirrorOf(broken), cut.host, "asked again");
  await t.rejects(readBody(broken, 1_000));
  const other = await serve(t, (_request, response) => response.end("{}"));
  const both = registryOf(t, { insecure: [], mirrors: [cut, other].map(({ host }) => `http://${host}`) });
  await t.rejects(readBody(await both.blob(reference, "cut", 0, undefined, none), 1_000));
  t.equal(both.mirrorOf(await both.blob(reference, "cut", 0, undefined, none)), other.host);
});

t.test("login: what the registry says of credentials", async (t) => {
  const { host, seen } = await serve(t, (request, response) => {
    if (request.url?.startsWith("/token") === true) {
      const right = request.headers.authorization === `Basic ${Buffer.from("u:right").toString("base64")}`;
      if (right) response.end('{"token":"T"}');
      else response.writeHead(401).end();
    } else if (request.headers.authorization === "Bearer T") response.end();
    else
      response
        .writeHead(401, { "www-authenticate": `Bearer realm="http://${host}/token",service="s"` })
        .end();
  });
  const registry = registryOf(t, { insecure: [host] });
  await registry.login(host, { username: "u", password: "right" }, none);
  t.strictSame(
    seen.map((line) => line.replace(/ (-|B.*)$/, "")),
    ["GET /v2/", "GET /token?service=s", "GET /v2/"],
  );
  await t.rejects(registry.login(host, { username: "u", password: "wrong" }, none), {
    code: "unauthenticated",
    message: `Get "https://${host}/v2/": unauthorized: incorrect username or password`,
  });
});

t.test("a token that ends in the middle of a pull is renewed", async (t) => {
  let issued = 0;
  const { host } = await serve(t, (request, response) => {
    if (request.url === "/token?service=s&scope=x" || request.url?.startsWith("/token") === true)
      response.end(`{"token":"T${++issued}","expires_in":3600}`);
    else if (request.headers.authorization === `Bearer T${issued}` && issued > 0) {
      if (request.headers.range === undefined) return response.end("half");
      response.writeHead(206).end("rest");
    } else
      response
        .writeHead(401, { "www-authenticate": `Bearer realm="http://${host}/token",service="s"` })
        .end();
    return undefined;
  });
  const registry = registryOf(t, { insecure: [host] });
  const auth = { username: "u", password: "p" };
  (await registry.blob(referenceOf(host), digest, 0, auth, none)).resume();
  issued++; // The registry has forgotten the token.
  const rest = await registry.blob(referenceOf(host), digest, 4, auth, none);
  t.equal(rest.statusCode, 206);
  rest.resume();
});

t.test(
  "a registry's authority, and its being insecure, hold for what it names; its client certificate does not",
  async (t) => {
    const shown: boolean[] = [];
    const asking = { ...tls, ca: authority.certificatePem, requestCert: true, rejectUnauthorized: false };
    const elsewhere = await serve(
      t,
      (request, response) => {
        shown.push(Object.keys((request.socket as TLSSocket).getPeerCertificate()).length > 0);
        if (request.url?.startsWith("/token") === true) response.end('{"token":"T"}');
        else response.end("blob");
      },
      asking,
    );
    const registry = await serve(
      t,
      (request, response) => {
        shown.push(Object.keys((request.socket as TLSSocket).getPeerCertificate()).length > 0);
        if (request.headers.authorization !== "Bearer T") {
          const realm = `https://${elsewhere.host}/token`;
          response.writeHead(401, { "www-authenticate": `Bearer realm="${realm}"` }).end();
        } else response.writeHead(307, { location: `https://${elsewhere.host}/blob` }).end();
      },
      asking,
    );
    const own = await certificates(registry.host, {
      "ca.crt": authority.certificatePem,
      "client.cert": client.certificatePem,
      "client.key": client.keyPem,
    });
    const reference = referenceOf(registry.host);
    const trusting = registryOf(t, { insecure: [], certificateDirectories: [own] });
    (await trusting.blob(reference, digest, 0, undefined, none)).resume();
    t.strictSame(shown, [true, false, true, false]);
    await t.rejects(trusting.blob(referenceOf(elsewhere.host), digest, 0, undefined, none), {
      code: "unavailable",
    });
    const insecure = registryOf(t, { insecure: [registry.host] });
    (await insecure.blob(reference, digest, 0, { identityToken: "i" }, none)).resume();
  },
);

t.test("the directory of a registry with the usual port written out is found", async (t) => {
  const own = await certificates("registry.test:443", { "x.cert": "nonsense" });
  const hosts = new RegistryHosts(
    { insecure: [], certificateDirectories: [own] },
    { idleTimeoutMs: 1_000, connectTimeoutMs: 1_000 },
  );
  t.teardown(() => hosts.close());
  const url = await hosts.base("registry.test:443", none);
  await t.rejects(hosts.agentOf(url, "registry.test:443"), { message: /missing key .*x\.key/ });
  await t.resolves(hosts.agentOf(url, "registry.test"));
});

t.test(
  "a registry that names itself without TLS is sent the upload, and the credentials, over TLS",
  async (t) => {
    const { host, seen } = await serve(
      t,
      (request, response) => {
        if (request.headers.authorization === undefined)
          response.writeHead(401, { "www-authenticate": "Basic realm=r" }).end();
        else if (request.method === "POST") response.writeHead(202, { location: `http://${host}/own` }).end();
        else request.resume().on("end", () => response.writeHead(201).end());
      },
      tls,
    );
    const own = await certificates(host, { "ca.crt": authority.certificatePem });
    const registry = registryOf(t, { insecure: [], certificateDirectories: [own] });
    const auth = { username: "u", password: "p" };
    const begun = await registry.beginUpload(referenceOf(host), { digest, from: undefined }, auth, none);
    t.equal(begun?.location.href, `https://${host}/own`);
    const blob = { location: begun?.location ?? new URL("x:"), digest, size: 0, body: async function* () {} };
    await registry.upload(referenceOf(host), blob, auth, none);
    t.match(seen.at(-1), /^PUT \/own\?digest=\S+ Basic /);
  },
);
