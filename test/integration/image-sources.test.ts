/** Pulls and pushes of images of several platforms, through mirrors, and of those who join them; over a real containerd. */
import t from "tap";

import { Connection } from "../../worker/engine/connection.ts";
import { Images } from "../../worker/engine/images.ts";
import { architecture, buildImage, buildLayer, text } from "../lab/image.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";
import { createGate, serveImage } from "./fake-registry.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("sources");
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker } = door;
const connection = new Connection(host.settings.containerd);
const none = new AbortController().signal;
t.teardown(async () => {
  connection.close();
  await door.close();
  await host.stop();
});

const layer = buildLayer([text("a", "1\n")]);
const image = buildImage([layer], { Cmd: ["a"] });

await t.test("a mirror with broken content is left alone, and the next one asked", async (t) => {
  const lying = await serveImage(t, image, (request, response, next) =>
    request.url?.endsWith(layer.blob.digest) === true
      ? response.end(Buffer.alloc(layer.blob.data.length))
      : next(),
  );
  const good = await serveImage(t, image, (_request, _response, next) => next());
  const images = new Images({
    connection,
    registries: { insecure: [], mirrors: [lying, good].map((each) => `http://${each.host}`) },
    platform: { os: "linux", architecture },
    directory: host.directory,
  });
  t.teardown(() => images.close());
  const pulled = await images.pull("test/image:1", {}, none);
  t.equal(pulled.image.id, image.config.digest);
  t.equal(lying.seen.filter((line) => line.endsWith(layer.blob.digest)).length, 1);
  await docker("image", "prune", "-af");
});

await t.test("who joins a pull is told what it resolved to", async (t) => {
  const release = createGate();
  const asked = createGate();
  const registry = await serveImage(t, image, (request, _response, next) => {
    if (request.url?.endsWith(layer.blob.digest) !== true) return next();
    asked.open();
    return void release.opened.then(next);
  });
  const name = `${registry.host}/test/image:1`;
  const first = engine.pull(name, {}, none);
  await asked.opened;
  const kinds: string[] = [];
  const second = engine.pull(name, { onProgress: ({ kind }) => void kinds.push(kind) }, none);
  release.open();
  await Promise.all([first, second]);
  t.equal(kinds[0], "resolved");
  t.equal(kinds.at(-1), "done");
  await docker("image", "prune", "-af");
});

await t.test("what a registry says of an image is compared with its digest", async (t) => {
  const registry = await serveImage(t, image, (request, response, next) =>
    request.url?.endsWith(image.config.digest) === true ? response.end("{}") : next(),
  );
  await t.rejects(engine.resolve(`${registry.host}/test/image:1`, undefined, none), { code: "data-loss" });
});

await t.test("a variant that was not pulled is asked for; what fits best is up to date", async (t) => {
  const arm = { os: "linux", architecture: "arm" };
  const images = ["v6", "v7"].map((variant) => buildImage([layer], { Cmd: ["a"] }, { ...arm, variant }));
  const index = (count: number): Buffer =>
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        manifests: images.slice(0, count).map(({ manifest }, at) => ({
          mediaType: manifest.mediaType,
          digest: manifest.digest,
          size: manifest.data.length,
          platform: { ...arm, variant: ["v6", "v7"][at] },
        })),
      }),
    );
  const parts = new Map(
    images.flatMap(({ config, manifest }) => [config, manifest]).map((blob) => [blob.digest, blob.data]),
  );
  let count = 2;
  const registry = await serveImage(t, image, (request, response, next) => {
    if (request.url?.endsWith("/manifests/1") === true) return response.end(index(count));
    const part = parts.get(request.url?.split("/").at(-1) ?? "");
    return part === undefined ? next() : response.end(part);
  });
  const name = `${registry.host}/test/image:1`;
  const pull = (platform: string): Promise<string> => docker("pull", "--platform", platform, name);
  const idOf = (): Promise<string> => docker("image", "inspect", "--format", "{{.Id}}", name);
  await pull("linux/arm/v6");
  t.equal(await idOf(), images[0]?.config.digest);
  t.match(await pull("linux/arm/v7"), /Downloaded newer image/);
  t.equal(await idOf(), images[1]?.config.digest);
  count = 1;
  t.match(await pull("linux/arm/v6"), /Downloaded newer image/);
  t.match(await pull("linux/arm/v7"), /Image is up to date/);
  t.equal(await idOf(), images[0]?.config.digest);
  await docker("image", "prune", "-af");
});

await t.test(
  "a tag and push of an image of several platforms is known by the registry's digest",
  async (t) => {
    const { manifest } = image;
    const index = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        manifests: [
          {
            mediaType: manifest.mediaType,
            digest: manifest.digest,
            size: manifest.data.length,
            platform: { os: "linux", architecture },
          },
        ],
      }),
    );
    const source = await serveImage(t, image, (request, response, next) =>
      request.url?.endsWith("/manifests/1") === true ? response.end(index) : next(),
    );
    const name = `${source.host}/test/image:1`;
    await docker("pull", "-q", name);
    await docker("tag", name, `${host.registry}/own:1`);
    await docker("push", `${host.registry}/own:1`);
    t.match(
      await docker("image", "inspect", "--format", "{{.RepoDigests}}", name),
      `${host.registry}/own@${manifest.digest}`,
    );
    t.match(await docker("pull", `${host.registry}/own:1`), /Image is up to date/);
    await docker("rmi", name, `${host.registry}/own:1`);
    t.strictSame(await engine.images(), []);
  },
);
