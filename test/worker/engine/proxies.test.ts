/** Ways to registries that lead through a proxy. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import t, { type Test } from "tap";

import { noProxies, type ProxySettings } from "../../../proto/host.ts";
import { maskCredentials, Proxies } from "../../../worker/engine/proxies.ts";
import { Registry } from "../../../worker/engine/registry.ts";
import { createAuthority } from "./authority.ts";

const none = new AbortController().signal;
const manifest = Buffer.from("{}");
const digest = `sha256:${createHash("sha256").update(manifest).digest("hex")}`;
const authority = await createAuthority("Company");
const server = await authority.issue("registry", "server");
const tls = { cert: server.certificatePem, key: server.keyPem };

const exceptions = [
  {
    noProxy: "",
    proxied: "a.test b.a.test:5000 10.1.2.3 [fd00::1]:5000",
    direct: "localhost:5000 127.3.0.1 [::1]:1",
  },
  { noProxy: "*", proxied: "", direct: "a.test 10.1.2.3" },
  { noProxy: "a.test", proxied: "xa.test b.test", direct: "a.test A.test b.a.test:5000" },
  { noProxy: ".a.test, *.b.test", proxied: "a.test b.test", direct: "x.a.test x.b.test" },
  { noProxy: "a.test:5000,c.test:443", proxied: "a.test", direct: "a.test:5000 c.test" },
  { noProxy: "10.0.0.0/8,fd00::/8", proxied: "11.1.1.1 a.test", direct: "10.1.2.3 10.1.2.3:5000 [fd00::1]" },
  {
    noProxy: "10.1.2.3,[fd00::1]:5000,fd00::2",
    proxied: "10.1.2.4 [fd00::1]",
    direct: "10.1.2.3 [fd00::1]:5000 [fd00::2]",
  },
  { noProxy: " ,:80,10.0.0.0/99,A.TEST ", proxied: "10.1.2.3", direct: "a.test" },
];

for (const { noProxy, proxied, direct } of exceptions) {
  t.test(`NO_PROXY "${noProxy}"`, (t) => {
    const proxies = new Proxies({ httpProxy: "http://plain:1", httpsProxy: "secure:2", noProxy });
    const of = (host: string): string | undefined => proxies.of(new URL(`https://${host}/v2/`))?.origin;
    for (const host of proxied.split(" ").filter(Boolean)) t.equal(of(host), "http://secure:2", host);
    for (const host of direct.split(" ")) t.equal(of(host), undefined, host);
    t.end();
  });
}

t.test("what has no TLS is asked through HTTP_PROXY, and a proxy of another kind is refused", (t) => {
  const proxies = new Proxies({
    httpProxy: "http://plain:1",
    httpsProxy: "socks5://u:secret@x",
    noProxy: "",
  });
  t.equal(proxies.of(new URL("http://a.test/"))?.origin, "http://plain:1");
  t.throws(() => proxies.of(new URL("https://a.test/")), {
    code: "failed-precondition",
    message: "cannot use the proxy socks5://xxxxx:xxxxx@x",
  });
  t.end();
});

t.test("passwords of proxies are not shown", (t) => {
  t.equal(maskCredentials("http://me:secret@proxy:3128"), "http://xxxxx:xxxxx@proxy:3128");
  t.equal(maskCredentials("http://proxy:3128"), "http://proxy:3128");
  t.equal(maskCredentials("proxy:3128"), "proxy:3128");
  t.equal(maskCredentials("me:secret@proxy:3128"), "xxxxx:xxxxx@proxy:3128");
  t.equal(maskCredentials("http://me:sec ret@no proxy"), "http://xxxxx:xxxxx@no proxy");
  t.end();
});

async function listen(t: Test, listening: Server | ReturnType<typeof createTcpServer>): Promise<number> {
  const sockets = new Set<Socket>();
  listening.on("connection", (socket: Socket) => sockets.add(socket));
  listening.listen(0, "127.0.0.1");
  await once(listening, "listening");
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    listening.close();
  });
  return (listening.address() as AddressInfo).port;
}

/** Leads every name to one port here. */
async function proxy(
  t: Test,
  target: number,
  refusal?: string,
): Promise<{ address: string; seen: string[] }> {
  const seen: string[] = [];
  const note = ({ method, url, headers }: IncomingMessage): void => {
    const by = Buffer.from(headers["proxy-authorization"]?.slice("Basic ".length) ?? "", "base64").toString();
    seen.push(`${method} ${url} ${by}`);
  };
  const listening = createServer((asked, answer) => {
    note(asked);
    const { pathname } = new URL(asked.url ?? "");
    const { method } = asked;
    const onward = request({ host: "127.0.0.1", port: target, method, path: pathname }, (response) => {
      answer.writeHead(response.statusCode ?? 500, response.headers);
      response.pipe(answer);
    });
    onward.end();
  });
  listening.on("connect", (asked: IncomingMessage, socket: Socket) => {
    note(asked);
    if (refusal !== undefined) return void socket.end(`HTTP/1.1 ${refusal}\r\n\r\n`);
    socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
    const onward = connect(target, "127.0.0.1");
    for (const end of [socket, onward]) end.on("error", () => undefined);
    onward.pipe(socket).pipe(onward);
    onward.on("close", () => socket.destroy());
  });
  return { address: `127.0.0.1:${await listen(t, listening)}`, seen };
}

function registryOf(
  t: Test,
  proxies: Partial<ProxySettings>,
  insecure: string[],
  connectTimeoutMs = 5_000,
): Registry {
  const registry = new Registry({ insecure, proxies: { ...noProxies, ...proxies } }, { connectTimeoutMs });
  t.teardown(() => registry.close());
  return registry;
}

function answer(
  _request: IncomingMessage,
  response: { setHeader(n: string, v: string): void; end(b: Buffer): void },
) {
  response.setHeader("docker-content-digest", digest);
  response.end(manifest);
}

const reference = { domain: "registry.test:5000", path: "a/b", tag: "1" };

t.test(
  "a registry with TLS is reached by a tunnel, with the proxy's credentials; its certificate counts",
  async (t) => {
    const { address, seen } = await proxy(t, await listen(t, createTlsServer(tls, answer)));
    const httpsProxy = `http://me:p%40ss@${address}`;
    const registry = registryOf(t, { httpsProxy }, [reference.domain]);
    t.equal((await registry.manifest(reference, undefined, none)).digest, digest);
    t.match(seen[0], "CONNECT registry.test:5000 me:p@ss");
    await t.rejects(registryOf(t, { httpsProxy }, []).manifest(reference, undefined, none), {
      code: "unavailable",
      message: /certificate/,
    });
  },
);

t.test("a registry without TLS is asked through the proxy with its whole address", async (t) => {
  const { address, seen } = await proxy(t, await listen(t, createServer(answer)));
  const proxies = { httpProxy: `http://me:secret@${address}`, httpsProxy: address };
  const registry = registryOf(t, proxies, [reference.domain]);
  t.equal((await registry.manifest(reference, undefined, none)).digest, digest);
  t.match(seen.at(-1), "GET http://registry.test:5000/v2/a/b/manifests/1 me:secret");
});

t.test("what a proxy says that refuses is not taken for the registry's answer", async (t) => {
  const { address } = await proxy(t, 1, '401 No\r\nWWW-Authenticate: Basic realm="x"');
  const registry = registryOf(t, { httpsProxy: address }, []);
  const auth = { username: "me", password: "secret" };
  await t.rejects(registry.manifest(reference, auth, none), {
    code: "unavailable",
    message: `the proxy ${address} answered: 401 No`,
  });
});

t.test(
  "a proxy that does not answer, or is not there, is waited for no longer than a registry",
  async (t) => {
    const address = `127.0.0.1:${await listen(t, createTcpServer())}`;
    for (const proxies of [{ httpsProxy: address }, { httpsProxy: `https://${address}` }]) {
      await t.rejects(registryOf(t, proxies, [], 50).manifest(reference, undefined, none), {
        code: "unavailable",
        message: `cannot reach the proxy ${address}: no answer within 0.05 s`,
      });
    }
    await t.rejects(registryOf(t, { httpsProxy: "127.0.0.1:1" }, []).manifest(reference, undefined, none), {
      code: "unavailable",
      message: /cannot reach the proxy 127.0.0.1:1: .*ECONNREFUSED/,
    });
  },
);

t.test("who gives up while a proxy does not answer is not kept waiting", async (t) => {
  const caller = new AbortController();
  const silent = createTcpServer(() => caller.abort(new Error("enough")));
  const address = `127.0.0.1:${await listen(t, silent)}`;
  const registry = registryOf(t, { httpsProxy: address }, [], 30_000);
  await t.rejects(registry.manifest(reference, undefined, caller.signal), { message: "enough" });
});
