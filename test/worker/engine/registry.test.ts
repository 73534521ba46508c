import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import t, { type Test } from "tap";

import type { Reference } from "../../../worker/engine/reference.ts";
import { verifiedManifest } from "../../../worker/engine/pull.ts";
import { readBody } from "../../../worker/engine/registry-answers.ts";
import { Registry } from "../../../worker/engine/registry.ts";

const none = new AbortController().signal;
const manifest = Buffer.from("{}");
const digest = `sha256:${createHash("sha256").update(manifest).digest("hex")}`;

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(
  t: Test,
  handler: Handler,
): Promise<{ host: string; seen: string[]; reference: Reference; registry: Registry }> {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers.authorization ?? "-"}`);
    handler(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const registry = new Registry({ insecure: [host] });
  t.teardown(() => {
    registry.close();
    server.close();
  });
  return { host, seen, reference: { domain: host, path: "a/b", tag: "1" }, registry };
}

function sendManifest(response: ServerResponse): void {
  response.setHeader("docker-content-digest", digest);
  response.end(manifest);
}

function refuse(response: ServerResponse, challenge: string): void {
  response
    .writeHead(401, { "www-authenticate": challenge })
    .end('{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}');
}

t.test("a token is fetched once with the credentials and used for what follows", async (t) => {
  const { host, seen, reference, registry } = await serve(t, (request, response) => {
    if (request.url?.startsWith("/token") === true) response.end('{"token":"T"}');
    else if (request.headers.authorization === "Bearer T") sendManifest(response);
    else refuse(response, `Bearer realm="http://${host}/token",service="s",scope="repository:a/b:pull"`);
  });
  const auth = { username: "u", password: "p" };
  t.equal((await registry.manifest(reference, auth, none)).digest, digest);
  t.equal((await registry.head(reference, auth, none)).digest, digest);
  const basic = `Basic ${Buffer.from("u:p").toString("base64")}`;
  t.strictSame(seen, [
    "GET /v2/a/b/manifests/1 -",
    `GET /token?scope=repository%3Aa%2Fb%3Apull&service=s ${basic}`,
    "GET /v2/a/b/manifests/1 Bearer T",
    "HEAD /v2/a/b/manifests/1 Bearer T",
  ]);
});

t.test("an identity token is exchanged, not sent as a password", async (t) => {
  const { host, seen, reference, registry } = await serve(t, (request, response) => {
    if (request.url === "/token") response.end('{"access_token":"X","expires_in":300}');
    else if (request.headers.authorization === "Bearer X") sendManifest(response);
    else refuse(response, `Bearer realm="http://${host}/token"`);
  });
  await registry.manifest(reference, { identityToken: "refresh" }, none);
  t.equal(seen[1], "POST /token -");
});

t.test("basic authentication; without credentials the refusal is Docker's", async (t) => {
  const { reference, registry } = await serve(t, (request, response) => {
    if (request.headers.authorization?.startsWith("Basic ") === true) sendManifest(response);
    else refuse(response, 'Basic realm="r"');
  });
  t.equal((await registry.manifest(reference, { username: "u", password: "p" }, none)).digest, digest);
  await t.rejects(registry.manifest(reference, undefined, none), {
    code: "unauthenticated",
    message: /^pull access denied for a\/b, repository does not exist or may require 'docker login'/,
  });
});

t.test("credentials follow no redirect to another host", async (t) => {
  const other = await serve(t, (_request, response) => sendManifest(response));
  const { seen, reference, registry } = await serve(t, (request, response) => {
    if (request.headers.authorization === undefined) refuse(response, 'Basic realm="r"');
    else response.writeHead(307, { location: `http://${other.host}/blob` }).end();
  });
  await registry.manifest(reference, { username: "u", password: "p" }, none);
  t.equal(seen.length, 2);
  t.strictSame(other.seen, ["GET /blob -"]);
});

t.test("a token service in the clear gets no credentials unless its host is listed", async (t) => {
  const { reference, registry } = await serve(t, (_request, response) => sendManifest(response));
  const strict = new Registry({ insecure: [] });
  t.teardown(() => strict.close());
  await t.rejects(
    strict.manifest(reference, undefined, AbortSignal.timeout(5_000)),
    { code: "unavailable" },
    "an unlisted registry is asked over TLS",
  );
  t.equal((await registry.manifest(reference, undefined, none)).digest, digest);
});

t.test("a token service that answers nonsense is named", async (t) => {
  for (const nonsense of ["null", "<html>", "[]", '{"token":7}']) {
    const { host, reference, registry } = await serve(t, (request, response) => {
      if (request.url === "/token") response.end(nonsense);
      else refuse(response, `Bearer realm="http://${host}/token"`);
    });
    await t.rejects(registry.manifest(reference, { identityToken: "x" }, none), {
      code: "unauthenticated",
      message: `the token service http://${host} sent no token`,
    });
  }
});

t.test("a manifest that is not what the registry calls it is refused", async (t) => {
  const lie = `sha256:${"0".repeat(64)}`;
  const { reference, registry } = await serve(t, (_request, response) => {
    response.setHeader("docker-content-digest", lie).end(manifest);
  });
  const remote = await registry.manifest(reference, undefined, none);
  t.throws(() => verifiedManifest(reference, remote), {
    code: "data-loss",
    message: `manifest of a/b: ${digest} came where ${lie} was asked for`,
  });
});

t.test("passing troubles are tried again, others are told", async (t) => {
  let failures = 2;
  const { reference, registry } = await serve(t, (request, response) => {
    if (request.url?.endsWith("/missing") === true) {
      response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
    } else if (failures-- > 0) response.writeHead(503).end();
    else sendManifest(response);
  });
  t.equal((await registry.manifest(reference, undefined, none)).digest, digest);
  await t.rejects(registry.manifest({ ...reference, tag: "missing" }, undefined, none), {
    code: "not-found",
    message: /not found: manifest unknown: manifest unknown$/,
  });
});

t.test("what is too large is not read to its end; a blob is asked for from an offset", async (t) => {
  const { seen, reference, registry } = await serve(t, (request, response) => {
    if (request.headers.range === "bytes=3-") response.writeHead(206).end("def");
    else response.end(Buffer.alloc(5 << 20));
  });
  await t.rejects(registry.manifest(reference, undefined, none), { code: "failed-precondition" });
  const response = await registry.blob(reference, digest, 3, undefined, none);
  t.equal((await readBody(response, 10)).toString(), "def");
  t.equal(seen.at(-1), `GET /v2/a/b/blobs/${digest} -`);
});

t.test("a registry that lets nobody connect is given up, at once and for good", async (t) => {
  const held: Socket[] = [];
  const silent = createTcpServer((socket) => held.push(socket.on("error", () => {})));
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  const first = once(silent, "connection");
  const host = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const registry = new Registry({ insecure: [] }, { connectTimeoutMs: 20 });
  t.teardown(() => {
    registry.close();
    for (const socket of held) socket.destroy();
    silent.close();
  });
  await t.rejects(
    registry.manifest({ domain: host, path: "a/b", tag: "1" }, undefined, AbortSignal.timeout(20_000)),
    { code: "unavailable", message: `cannot ask the registry: no connection to ${host} within 0.02 s` },
  );
  await first; // The limit may be over before the other side has taken it.
  t.equal(held.length, 1, "a connection that was not made is not tried again");
});

t.test("an upload goes where the registry says; credentials only to the registry itself", async (t) => {
  const received: string[] = [];
  const elsewhere = await serve(t, (request, response) => {
    request.on("data", (piece: Buffer) => received.push(piece.toString("utf8")));
    request.on("end", () => response.writeHead(201).end());
  });
  const { seen, host, reference, registry } = await serve(t, (request, response) => {
    if (request.url === "/token?scope=repository%3Aa%2Fb%3Apull%2Cpush") return response.end('{"token":"W"}');
    if (request.headers.authorization !== "Bearer W")
      return refuse(response, `Bearer realm="http://${host}/token",scope="repository:a/b:pull,push"`);
    if (request.method === "HEAD") return response.writeHead(404).end();
    const location =
      request.url?.includes("mount=") === true ? "/own?x=1" : `http://${elsewhere.host}/there?x=1`;
    if (request.method === "POST") return response.writeHead(202, { location }).end();
    request.resume();
    return request.on("end", () => response.writeHead(201).end());
  });
  async function* body(): AsyncGenerator<Buffer> {
    yield Buffer.from("con");
    yield Buffer.from("tent");
  }
  const blob = { digest, size: 7, body };
  const auth = { username: "u", password: "p" };
  t.equal(await registry.hasBlob(reference, digest, auth, none), false);
  const own = await registry.beginUpload(reference, { digest, from: "c/d" }, auth, none);
  await registry.upload(reference, { ...blob, location: own?.location ?? new URL("x:") }, auth, none);
  const other = await registry.beginUpload(reference, { digest, from: undefined }, auth, none);
  await registry.upload(reference, { ...blob, location: other?.location ?? new URL("x:") }, auth, none);
  await registry.putManifest(reference, "application/x", manifest, auth, none);
  const escaped = encodeURIComponent(digest);
  t.strictSame(seen.slice(2), [
    `HEAD /v2/a/b/blobs/${digest} Bearer W`,
    `POST /v2/a/b/blobs/uploads/?mount=${escaped}&from=c%2Fd Bearer W`,
    `PUT /own?x=1&digest=${escaped} Bearer W`,
    "POST /v2/a/b/blobs/uploads/ Bearer W",
    "PUT /v2/a/b/manifests/1 Bearer W",
  ]);
  t.strictSame(elsewhere.seen, [`PUT /there?x=1&digest=${escaped} -`]);
  t.equal(received.join(""), "content");
});

t.test("a layer that the registry does not take from another repository is sent", async (t) => {
  for (const status of [201, 401, 403, 404, 405]) {
    const { host, seen, reference, registry } = await serve(t, (request, response) => {
      if (request.url?.startsWith("/token?") === true)
        return status === 401 && request.url.includes("c%2Fd")
          ? response.writeHead(401).end()
          : response.end('{"token":"W"}');
      const isMount = request.url?.includes("mount=") === true;
      const scope = `repository:a/b:pull,push${isMount ? " repository:c/d:pull" : ""}`;
      if (request.headers.authorization !== "Bearer W")
        return refuse(response, `Bearer realm="http://${host}/token",scope="${scope}"`);
      if (isMount) return response.writeHead(status).end();
      return response.writeHead(202, { location: "/own" }).end();
    });
    const begun = await registry.beginUpload(reference, { digest, from: "c/d" }, undefined, none);
    if (status === 201) t.equal(begun, undefined, "taken over");
    else t.equal(begun?.location.pathname, "/own", String(status));
    t.ok(
      seen.includes("GET /token?scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%2Fd%3Apull -"),
      "each scope is a parameter of its own",
    );
  }
});

t.test("a push that is refused says why", async (t) => {
  const { reference, registry } = await serve(t, (_request, response) => {
    response.writeHead(403).end('{"errors":[{"code":"DENIED","message":"not yours"}]}');
  });
  await t.rejects(registry.beginUpload(reference, { digest, from: undefined }, undefined, none), {
    code: "permission-denied",
    message: "denied: not yours",
  });
});

t.test("empty pages of tags without end are given up", async (t) => {
  const { seen, reference, registry } = await serve(t, (_request, response) => {
    response.setHeader("link", `</v2/a/b/tags/list?page=${seen.length}>; rel="next"`).end('{"tags":[]}');
    if (seen.length > 1_500) response.socket?.destroy();
  });
  await t.rejects(registry.tags(reference, undefined, none), { code: "resource-exhausted" });
});

t.test("a signed manifest of the first schema is called that, not another than was asked for", async (t) => {
  const { reference, registry } = await serve(t, (_request, response) => {
    response.setHeader("docker-content-digest", `sha256:${"0".repeat(64)}`);
    response.setHeader("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws");
    response.end('{"schemaVersion":1}');
  });
  const remote = await registry.manifest(reference, undefined, none);
  t.throws(() => verifiedManifest(reference, remote), { message: /schema 1 manifests are too old/ });
});

t.test("tags come page by page; a list without end is given up", async (t) => {
  const { reference, registry } = await serve(t, (request, response) => {
    const last = Number(/last=(\d+)/.exec(request.url ?? "")?.[1] ?? 0);
    if (request.url?.startsWith("/v2/endless/") === true || last < 2)
      response.setHeader("link", `</v2/a/b/tags/list?last=${last + 1}>; rel="next"`);
    const tags =
      request.url?.startsWith("/v2/endless/") === true
        ? Array.from({ length: 4_000 }, () => "x")
        : [`t${last}`, 5];
    response.end(JSON.stringify({ tags }));
  });
  t.strictSame(await registry.tags(reference, undefined, none), ["t0", "t1", "t2"]);
  await t.rejects(registry.tags({ ...reference, path: "endless" }, undefined, none), {
    code: "resource-exhausted",
  });
});

async function* twoPieces(): AsyncGenerator<Buffer> {
  yield Buffer.from("con");
  yield Buffer.from("tent");
}

t.test("a registry may take its time to confirm what was sent whole, but not to answer", async (t) => {
  const answers: (() => void)[] = [];
  const { host, reference } = await serve(t, (request, response) => {
    if (request.method === "GET") return; // Never.
    request.resume().on("end", () => answers.push(() => response.writeHead(201).end()));
  });
  const registry = new Registry({ insecure: [host] }, { idleTimeoutMs: 100 });
  t.teardown(() => registry.close());
  const blob = { location: new URL(`http://${host}/own`), digest, size: 7, body: twoPieces };
  const upload = registry.upload(reference, blob, undefined, none);
  await t.rejects(registry.blob(reference, digest, 0, undefined, none), {
    message: `cannot ask the registry: no answer from ${host} within 0.1 s`,
  });
  t.equal(answers.length, 1, "all of it has come");
  for (const answer of answers) answer();
  await upload;
});

t.test(
  "a token that says it lives for seconds is used for a minute, and renewed where it ended in an upload",
  async (t) => {
    let issued = 0;
    let valid = "";
    const { host, seen, reference, registry } = await serve(t, (request, response) => {
      if (request.url?.startsWith("/token") === true) {
        valid = `Bearer T${++issued}`;
        return response.end(`{"token":"T${issued}","expires_in":5}`);
      }
      if (request.headers.authorization !== valid)
        return refuse(response, `Bearer realm="http://${host}/token"`);
      if (request.method === "POST") return response.writeHead(202, { location: "/own" }).end();
      let sent = "";
      request.on("data", (piece: Buffer) => (sent += piece.toString("utf8")));
      return request.on("end", () => response.writeHead(sent === "content" ? 201 : 400).end());
    });
    const begun = await registry.beginUpload(reference, { digest, from: undefined }, undefined, none);
    const blob = { location: begun?.location ?? new URL("x:"), digest, size: 7, body: twoPieces };
    await registry.upload(reference, blob, undefined, none);
    t.equal(issued, 1);
    valid = "ended";
    await registry.upload(reference, blob, undefined, none);
    t.equal(issued, 2);
    t.strictSame(
      seen.slice(-3).map((line) => line.replace(/\?\S*/, "")),
      ["PUT /own Bearer T1", "GET /token -", "PUT /own Bearer T2"],
    );
  },
);
