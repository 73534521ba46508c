/** Pulls from registries that cut, lie, hide behind certificates or send other forms than most; over a real containerd. */
import { createHash, randomBytes } from "node:crypto";
import { execFileSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import t from "tap";

import { type Blob, buildImage, buildLayer, text } from "../lab/image.ts";
import { certifiedAddress, createAuthority } from "../worker/engine/authority.ts";
import { containerdBytes, insideNamespaces, startTestHost } from "./containerd.ts";
import { serveImage as serve } from "./fake-registry.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("registries");
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker, refused } = door;
t.teardown(async () => {
  await door.close();
  await host.stop();
});

const storedBytes = (): number => containerdBytes(host);

const noise = buildLayer([text("noise", randomBytes(6 << 20).toString("base64"))]);
const large = buildImage([noise], { Cmd: ["sh"] });

await t.test("a download that is cut goes on where it ended, as often as it gets further", async (t) => {
  let cuts = 0;
  const registry = await serve(t, large, (request, response, next) => {
    if (request.url?.endsWith(noise.blob.digest) !== true || cuts >= 5) return next();
    cuts++;
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(start > 0 ? 206 : 200, { "content-length": noise.blob.data.length - start });
    response.write(noise.blob.data.subarray(start, start + (1 << 20) + (512 << 10)), () =>
      response.destroy(),
    );
    return undefined;
  });
  t.match(await docker("pull", `${registry.host}/test/image:1`), /Status: Downloaded newer image/);
  const ranges = registry.seen.flatMap((line) => / bytes=(\d+)-$/.exec(line)?.[1] ?? []).map(Number);
  t.ok(ranges.length >= 3, `resumed: ${ranges.join(" ")}`);
  t.strictSame(
    ranges,
    ranges.toSorted((a, b) => a - b),
    "never from the beginning again",
  );
  t.ok(ranges.every((start) => start > 0));
});

await t.test("what is removed gives its disk back", async (t) => {
  const before = storedBytes();
  await docker("rmi", ...(await docker("images", "-q")).split("\n"));
  t.ok(before - storedBytes() > 2 * noise.blob.data.length, `${before - storedBytes()} bytes came back`);
  t.strictSame(await engine.images(), []);
});

await t.test("content that is not what its digest says is refused, and nothing of it is kept", async (t) => {
  const registry = await serve(t, large, (request, response, next) => {
    if (request.url?.endsWith(noise.blob.digest) !== true) return next();
    return response.end(Buffer.alloc(noise.blob.data.length));
  });
  const before = storedBytes();
  t.match(await refused("pull", `${registry.host}/test/image:1`), noise.blob.digest);
  t.strictSame(await engine.images(), []);
  t.ok(storedBytes() - before < 1 << 20, "the wrong bytes are gone");
});

await t.test("manifests that are too large, no manifests, or speak of too much are refused", async (t) => {
  const cases: [string, Buffer, RegExp][] = [
    ["large", Buffer.alloc((4 << 20) + 1, 0x20), /more than 4194304 bytes/],
    ["nonsense", Buffer.from("[[["), /not a JSON object/],
    [
      "layers",
      Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          config: describe(large.config),
          layers: Array.from({ length: 600 }, () => describe(noise.blob)),
        }),
      ),
      /600 layers, at most 512 are accepted/,
    ],
    ["old", Buffer.from(JSON.stringify({ schemaVersion: 1 })), /schema 1 manifests are too old/],
  ];
  for (const [name, bytes, wanted] of cases) {
    const registry = await serve(t, large, (_request, response) => response.end(bytes));
    t.match(await refused("pull", `${registry.host}/test/image:${name}`), wanted, name);
  }
});

await t.test("layers packed with zstd are unpacked", async (t) => {
  const plain = buildLayer([text("packed", "with zstd\n")]);
  const image = buildImage([{ ...plain, blob: zstd(gunzipSync(plain.blob.data)) }], { Cmd: ["sh"] });
  const registry = await serve(t, image, (_request, _response, next) => next());
  t.match(await docker("pull", `${registry.host}/test/image:1`), /Status: Downloaded newer image/);
  await docker("rmi", `${registry.host}/test/image:1`);
});

await t.test("a registry with an own authority, and one that wants to see a certificate", async (t) => {
  const authority = await createAuthority("Company");
  const server = await authority.issue("registry", "server");
  const client = await authority.issue("host", "client");
  const small = buildImage([buildLayer([text("a", "b\n")])], {});
  const tls = {
    cert: server.certificatePem,
    key: server.keyPem,
    ca: authority.certificatePem,
    requestCert: true,
    rejectUnauthorized: true,
  };
  const registry = await serve(t, small, (_request, _response, next) => next(), tls);
  // Not on loopback, where nothing is verified; the network namespace is this test's own.
  execFileSync("ip", ["address", "add", certifiedAddress, "dev", "lo"]);
  const name = registry.host.replace("127.0.0.1", certifiedAddress);
  t.match(await refused("pull", `${name}/test/image:1`), /certificate/);
  const own = join(host.directory, "certs.d", name);
  await mkdir(own, { recursive: true });
  await writeFile(join(own, "ca.crt"), authority.certificatePem);
  await writeFile(join(own, "client.cert"), client.certificatePem);
  await writeFile(join(own, "client.key"), client.keyPem);
  t.match(await docker("pull", `${name}/test/image:1`), /Status: Downloaded newer image/);
});

await t.test("pull -a takes all tags; a search says where to look", async (t) => {
  const image = buildImage([buildLayer([text("tag", "1\n")])], {});
  const registry = await serve(t, image, (request, response, next) => {
    if (request.url === "/v2/test/image/tags/list") {
      response.setHeader("link", '</v2/test/image/tags/list?last=1>; rel="next"');
      return response.end('{"tags":["1"]}');
    }
    if (request.url === "/v2/test/image/tags/list?last=1") return response.end('{"tags":["2"]}');
    if (request.url?.endsWith("/manifests/2") === true) request.url = "/v2/test/image/manifests/1";
    return next();
  });
  await docker("pull", "-a", `${registry.host}/test/image`);
  t.equal(await docker("images", "--format", "{{.Tag}}", `${registry.host}/test/image`), "1\n2");
});

await t.test("login asks the registry", async (t) => {
  const wanted = `Basic ${Buffer.from("u:right").toString("base64")}`;
  const registry = await serve(t, large, (request, response) => {
    if (request.headers.authorization === wanted) return response.end();
    return response.writeHead(401, { "www-authenticate": 'Basic realm="r"' }).end();
  });
  t.match(await docker("login", "-u", "u", "-p", "right", registry.host), /Login Succeeded/);
  t.match(
    await refused("login", "-u", "u", "-p", "wrong", registry.host),
    /failed with status: 401 Unauthorized/,
  );
});

function describe({ mediaType, digest, data }: Blob): object {
  return { mediaType, digest, size: data.length };
}

/** One frame of raw blocks (RFC 8878): what any reader of zstd reads, without a compressor. */
function zstd(tar: Buffer): Blob {
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0]);
  header.writeUInt32LE(tar.length, 5);
  const blocks: Buffer[] = [];
  const blockBytes = 64 << 10;
  for (let start = 0; start < tar.length; start += blockBytes) {
    const block = tar.subarray(start, start + blockBytes);
    const head = Buffer.alloc(3);
    head.writeUIntLE((block.length << 3) | (start + blockBytes >= tar.length ? 1 : 0), 0, 3);
    blocks.push(head, block);
  }
  const data = Buffer.concat([header, ...blocks]);
  return {
    data,
    digest: `sha256:${createHash("sha256").update(data).digest("hex")}`,
    mediaType: "application/vnd.oci.image.layer.v1.tar+zstd",
  };
}
