/** Images that are removed while others that share with them are pulled, pushed or saved; over a real containerd. */
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import t from "tap";

import { newContainerId, systemRandom } from "../../runtime/random.ts";
import { readBlob } from "../../worker/engine/blobs.ts";
import { Connection } from "../../worker/engine/connection.ts";
import { ContainerdImages } from "../../worker/engine/containerd-images.ts";
import type { PullProgress } from "../../worker/engine/engine.ts";
import { Images } from "../../worker/engine/images.ts";
import { createLease, deleteLease } from "../../worker/engine/leases.ts";
import { chainIds, removeSnapshot, snapshotExists } from "../../worker/engine/snapshots.ts";
import { architecture, buildImage, buildLayer, type Image, type Layer, text } from "../lab/image.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { containerdBytes, insideNamespaces, startTestHost } from "./containerd.ts";
import { createGate, serveImage } from "./fake-registry.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("leases");
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker, refused } = door;
const connection = new Connection(host.settings.containerd, host.settings.containerdRoot);
const none = new AbortController().signal;
t.teardown(async () => {
  connection.close();
  await door.close();
  await host.stop();
});

const base = buildLayer([text("base", "shared\n")]);
const first = buildImage([base, buildLayer([text("a", "1\n")])], { Cmd: ["a"] });
const own = buildLayer([text("b", "2\n")]);
const second = buildImage([base, own], { Cmd: ["b"] });
const topOfSecond = chainIds([base.diffId, own.diffId]).at(-1) ?? "";

/** What nothing holds is gone afterwards. */
async function collect(): Promise<void> {
  const lease = "test-collect";
  await createLease(connection, lease, 60_000, none);
  await deleteLease(connection, lease, "now");
}

/** Whether a container can be made of it. */
async function isUsable(image: string): Promise<boolean> {
  const id = newContainerId(systemRandom);
  const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
  await engine.create({ id, name: "user", image, spec: plainSpec, ...rest }, none);
  await engine.remove(id);
  return true;
}

function shortOf(digest: string): string {
  return digest.slice("sha256:".length, "sha256:".length + 12);
}

await t.test("a pull keeps the layers that it found, whoever else is removed meanwhile", async (t) => {
  const one = await serveImage(t, first, (_request, _response, next) => next());
  const release = createGate();
  const two = await serveImage(t, second, (request, _response, next) => {
    if (request.url?.endsWith(own.blob.digest) !== true) return next();
    return void release.opened.then(next);
  });
  await docker("pull", "-q", `${one.host}/test/image:1`);
  const unpacked = createGate();
  const onProgress = (progress: PullProgress): void => {
    if (progress.kind === "complete" && progress.layer === shortOf(base.blob.digest)) unpacked.open();
  };
  const pull = engine.pull(`${two.host}/test/image:1`, { onProgress }, none);
  await unpacked.opened;
  await docker("rmi", `${one.host}/test/image:1`);
  t.ok(await snapshotExists(connection, base.diffId), "the shared layer stays for the pull");
  release.open();
  t.equal((await pull).chainId, topOfSecond);
  t.ok(await isUsable(`${two.host}/test/image:1`));
});

await t.test("an image whose layers were lost is pulled again, not called up to date", async (t) => {
  const registry = await serveImage(t, second, (_request, _response, next) => next());
  const name = `${registry.host}/test/image:1`;
  await docker("pull", "-q", name);
  await removeSnapshot(connection, topOfSecond);
  t.match(await docker("pull", name), /Status: Downloaded newer image/);
  t.ok(await isUsable(name));
  await removeSnapshot(connection, topOfSecond);
  const byDigest = `${registry.host}/test/image@${second.manifest.digest}`;
  await docker("pull", "-q", byDigest);
  t.ok(await isUsable(byDigest));
});

await t.test("two platforms of one index stand side by side, and go one by one", async (t) => {
  const platforms = ["amd64", "arm64"].map((name) => ({ architecture: name, os: "linux" }));
  const images = platforms.map((platform) =>
    buildImage([buildLayer([text("platform", JSON.stringify(platform))])], { Cmd: ["p"] }, platform),
  );
  const index = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: images.map(({ manifest: { mediaType, digest, data } }, at) => ({
        mediaType,
        digest,
        size: data.length,
        platform: platforms[at],
      })),
    }),
  );
  const [amd, arm] = images;
  if (amd === undefined || arm === undefined) throw new Error("two images were made");
  const blobs = new Map(
    images
      .flatMap((image) => [...image.layers, image.config, image.manifest])
      .map((blob) => [blob.digest, blob]),
  );
  const registry = await serveImage(t, amd, (request, response, next) => {
    if (request.url?.endsWith("/manifests/1") === true) return response.end(index);
    const blob = blobs.get(request.url?.split("/").at(-1) ?? "");
    return blob === undefined ? next() : response.end(blob.data);
  });
  const name = `${registry.host}/test/image:1`;
  const ids = async (): Promise<string[]> =>
    (await docker("images", "-aq", "--no-trunc")).split("\n").toSorted();
  await docker("image", "prune", "-af");
  const snapshotOf = ({ config }: typeof amd): string =>
    (JSON.parse(config.data.toString("utf8")) as { rootfs: { diff_ids: string[] } }).rootfs.diff_ids[0] ?? "";
  for (const [platform, image, others] of [
    ["linux/amd64", amd, []],
    ["linux/arm64", arm, [amd]],
    ["linux/amd64", amd, [arm]],
  ] as const) {
    await docker("pull", "-q", "--platform", platform, name);
    await collect();
    t.equal(await docker("image", "inspect", "--format", "{{.Id}}", name), image.config.digest, platform);
    t.strictSame(await ids(), [image, ...others].map(({ config }) => config.digest).toSorted());
    for (const each of [image, ...others]) t.ok(await snapshotExists(connection, snapshotOf(each)));
  }
  t.equal(await docker("images", "-q", "--no-trunc", "--filter", "dangling=true"), arm.config.digest);
  await docker("image", "prune", "-f");
  t.notOk(await snapshotExists(connection, snapshotOf(arm)), "its disk comes back although the index stays");
  t.ok(await isUsable(name));
  await docker("rmi", name);
  t.notOk(await snapshotExists(connection, snapshotOf(amd)));
});

function noiseLayer(): Layer {
  return buildLayer([text("noise", randomBytes(3 << 20).toString("base64"))]);
}

/** Names of the leases of pulls. */
async function pullLeases(): Promise<string[]> {
  const { leases } = await connection.call(connection.leases, "list", { filters: [] });
  return leases.map(({ id }) => id).filter((id) => id.startsWith("shoal-pull-"));
}

await t.test("prune gives back what failed pulls left, and leaves alone what is being pulled", async (t) => {
  const [left, taken] = [noiseLayer(), noiseLayer()];
  const broken = await serveImage(t, buildImage([left, own], { Cmd: ["b"] }), (request, response, next) =>
    request.url?.endsWith(own.blob.digest) === true ? response.writeHead(404).end() : next(),
  );
  const before = containerdBytes(host);
  await refused("pull", `${broken.host}/test/none:nosuch`);
  t.strictSame(await pullLeases(), [], "what the registry does not have leaves nothing");
  await refused("pull", `${broken.host}/test/image:1`);
  const release = createGate();
  const slow = await serveImage(t, buildImage([taken, own], { Cmd: ["b"] }), (request, _response, next) =>
    request.url?.endsWith(own.blob.digest) === true ? void release.opened.then(next) : next(),
  );
  const unpacked = createGate();
  const onProgress = ({ kind }: PullProgress): void => {
    if (kind === "complete") unpacked.open();
  };
  const pull = engine.pull(`${slow.host}/test/image:1`, { onProgress }, none);
  await unpacked.opened;
  t.equal((await pullLeases()).length, 2);
  await docker("image", "prune", "-f");
  t.equal((await pullLeases()).length, 1);
  release.open();
  t.ok(await isUsable((await pull).reference));
  await docker("image", "prune", "-af");
  t.ok(containerdBytes(host) - before < 1 << 20, `${containerdBytes(host) - before} bytes are left`);
});

await t.test("a pull ends before it takes the last of the disk, and gives back what it took", async (t) => {
  const piece = Buffer.alloc(1 << 20);
  const endless = {
    mediaType: own.blob.mediaType,
    digest: `sha256:${"e".repeat(64)}`,
    data: { length: 200 << 20 },
  };
  const { config, layers, manifest } = buildImage([noiseLayer(), own], { Cmd: ["b"] });
  const wanted = JSON.parse(manifest.data.toString("utf8")) as { layers: object[] };
  wanted.layers[1] = { mediaType: endless.mediaType, digest: endless.digest, size: endless.data.length };
  const data = Buffer.from(JSON.stringify(wanted));
  const digest = `sha256:${createHash("sha256").update(data).digest("hex")}`;
  const lying = { config, layers, manifest: { ...manifest, data, digest } };
  const { stateDir } = host.settings;
  let isFull = false;
  const registry = await serveImage(t, lying, (request, response, next) => {
    if (request.url?.endsWith(endless.digest) !== true) return next();
    if (!isFull) execFileSync("mount", ["-t", "tmpfs", "-o", "size=100m", "full", stateDir]);
    isFull = true;
    response.on("error", () => undefined);
    Readable.from(Array.from({ length: 200 }, () => piece)).pipe(response);
    return undefined;
  });
  const before = containerdBytes(host);
  t.match(await refused("pull", `${registry.host}/test/image:1`), /no space left on device/);
  execFileSync("umount", [stateDir]);
  t.strictSame(await pullLeases(), []);
  t.ok(containerdBytes(host) - before < 1 << 20, `${containerdBytes(host) - before} bytes are left`);
});

await t.test("two images with one layer are stored at the same time", async (t) => {
  const layer = noiseLayer();
  const { digest, data, mediaType } = layer.blob;
  const release = createGate();
  const begun = createGate();
  const slow = async function* (offset: number): AsyncGenerator<Buffer> {
    begun.open();
    await release.opened;
    yield data.subarray(offset);
  };
  const add = (name: string): Promise<unknown> => {
    const configBytes = buildImage([layer], { Cmd: [name] }).config.data;
    const descriptor = { mediaType, digest, size: data.length };
    const names = [`docker.io/library/${name}:1`];
    return engine.imageStore.add({ configBytes, layers: [{ descriptor, source: slow }], names }, none);
  };
  const first = add("one");
  await begun.opened;
  const second = add("two");
  second.catch(() => undefined); // Awaited below.
  release.open();
  await t.resolves(first);
  await t.resolves(second);
  t.ok(await isUsable("one:1"));
  t.ok(await isUsable("two:1"));
  await docker("image", "prune", "-af");
});

await t.test("an image that is removed while it is saved or pushed is sent whole", async (t) => {
  const sent = buildImage([noiseLayer(), own], { Cmd: ["b"] });
  const source = await serveImage(t, sent, (_request, _response, next) => next());
  const name = `${source.host}/test/image:1`;
  await docker("pull", "-q", name);
  const archive = (await engine.imageStore.save([name], none))[Symbol.asyncIterator]();
  await archive.next();
  await docker("rmi", name);
  let savedBytes = 0;
  for (let piece = await archive.next(); piece.done !== true; piece = await archive.next())
    savedBytes += piece.value.length;
  t.ok(savedBytes > 3 << 20);

  await docker("pull", "-q", name);
  const asked = createGate();
  const release = createGate();
  const received: string[] = [];
  const target = await serveImage(t, sent, (request, response) => {
    if (request.method === "HEAD") {
      asked.open();
      return void release.opened.then(() => response.writeHead(404).end());
    }
    const location = "/upload";
    if (request.method === "POST") return void response.writeHead(202, { location }).end();
    received.push(request.url ?? "");
    request.resume().on("end", () => response.writeHead(201).end());
    return undefined;
  });
  const copy = `${target.host}/test/image:2`;
  await docker("tag", name, copy);
  const push = engine.imageStore.push(copy, {}, none);
  push.catch(() => undefined); // Awaited below.
  await asked.opened;
  await docker("rmi", name, copy);
  await collect();
  release.open();
  t.equal((await push).digest, sent.manifest.digest);
  t.match(received.at(-1), "/manifests/2");
  await collect();

  await docker("pull", "-q", name);
  const [stored] = await engine.imageStore.list();
  if (stored === undefined) throw new Error("it was pulled");
  const held = await engine.imageStore.hold(
    [stored, { ...stored, image: { ...stored.image, reference: "gone" } }],
    none,
  );
  await docker("rmi", name);
  t.equal(held.contents.length, 1);
  for (const { digest } of sent.layers) await t.resolves(readBlob(connection, digest, 16 << 20));
  await held[Symbol.asyncDispose]();
  await collect();
  await t.rejects(readBlob(connection, own.blob.digest, 1 << 20), { code: "not-found" });
});

await t.test("prune leaves an image of which a container was made meanwhile", async (t) => {
  const registry = await serveImage(t, first, (_request, _response, next) => next());
  await docker("pull", "-q", `${registry.host}/test/image:1`);
  const images = new Images({
    connection,
    registries: { insecure: [] },
    platform: { os: "linux", architecture },
    directory: host.directory,
  });
  t.teardown(() => images.close());
  let asked = 0;
  const users = (): { id: string; running: boolean }[] =>
    asked++ < 2 ? [] : [{ id: "late", running: false }];
  const store = new ContainerdImages({
    connection,
    images,
    directory: host.directory,
    users,
    emit: () => undefined,
  });
  t.strictSame(await store.prune(() => true), { records: [], reclaimedBytes: 0 });
  t.ok(asked > 2);
  t.ok(await isUsable(`${registry.host}/test/image:1`));
  await docker("image", "prune", "-af");
});

await t.test("an image is found by its whole id, its name, or a prefix that no other's id has", async (t) => {
  // Two whose ids begin alike, and a name that looks like it.
  const beginnings = new Map<string, Image>();
  let pair: readonly [Image, Image] | undefined;
  for (let number = 0; pair === undefined; number++) {
    const image = buildImage([own], { Cmd: [String(number)] });
    const beginning = image.config.digest.slice(7, 11);
    const other = beginnings.get(beginning);
    if (other !== undefined && /[a-f]/.test(beginning)) pair = [other, image];
    beginnings.set(beginning, image);
  }
  const registries = [];
  for (const image of pair)
    registries.push(await serveImage(t, image, (_request, _response, next) => next()));
  for (const { host: at } of registries) await docker("pull", "-q", `${at}/test/image:1`);
  const [one, two] = pair.map(({ config }) => config.digest.slice(7)) as [string, string];
  const common = one.slice(0, 4);
  for (const command of ["inspect", "image inspect", "rmi", `save -o ${host.directory}/none.tar`])
    t.match(await refused(...command.split(" "), common), /No such (image|object)/, command);
  t.match(await refused("tag", common, "x"), /No such image/);
  const unlike = one.split("").findIndex((digit, at) => digit !== two[at]) + 1;
  const idOf = (text: string): Promise<string> => docker("image", "inspect", "--format", "{{.Id}}", text);
  for (const id of [one, two])
    for (const text of [id, `sha256:${id}`, id.slice(0, unlike), `sha256:${id.slice(0, unlike)}`])
      t.equal(await idOf(text), `sha256:${id}`);
  await docker("tag", two, one.slice(0, 12));
  t.equal(await idOf(one.slice(0, 12)), `sha256:${two}`, "a name comes before the beginning of an id");
  t.equal(await docker("rmi", one.slice(0, 12)), `Untagged: ${one.slice(0, 12)}:latest`);
  t.equal(await idOf(one.slice(0, 12)), `sha256:${one}`);
  await docker("image", "prune", "-af");
});
