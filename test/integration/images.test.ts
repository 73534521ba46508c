/** Images of a host through the unmodified docker client, over a real containerd and registry. */
import t from "tap";

import { newContainerId, systemRandom } from "../../runtime/random.ts";
import { loadSchema } from "../api/schema.ts";
import { buildImage, buildLayer, busyboxLayer, pushImage, text } from "../lab/image.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";
import { openTestDoor } from "./front-door.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("images");
const none = new AbortController().signal;
const engine = await host.openEngine();
const door = await openTestDoor(host, engine);
const { docker, refused } = door;
const schema = loadSchema();
const repository = `${host.registry}/test/bb`;

t.teardown(async () => {
  await door.close();
  await host.stop();
});

const base = await busyboxLayer();
const first = buildImage([base, buildLayer([text("version", "1\n")])], {
  Cmd: ["sleep", "600"],
  Env: ["A=b"],
  Labels: { team: "red" },
  Entrypoint: ["env"],
  Volumes: { "/data": {} },
});
const second = buildImage([base, buildLayer([text("version", "2\n")])], { Cmd: ["sleep", "600"] });
await pushImage(host.registry, "test/bb", "1", first);
await pushImage(host.registry, "test/bb", "2", second);

async function idOf(reference: string): Promise<string> {
  return docker("image", "inspect", "--format", "{{.Id}}", reference);
}

await t.test("pull by tag shows every layer, a second pull that nothing is new", async (t) => {
  const printed = await docker("pull", `${repository}:1`);
  t.match(printed, /^1: Pulling from test\/bb\n/);
  t.match(printed, /[0-9a-f]{12}: Pull complete/);
  t.match(
    printed,
    `Digest: ${first.manifest.digest}\nStatus: Downloaded newer image for ${repository}:1\n${repository}:1`,
  );
  t.match(await docker("pull", `${repository}:1`), `Status: Image is up to date for ${repository}:1`);
  t.equal(await idOf(`${repository}:1`), first.config.digest);
});

await t.test("pull by digest and by name with tag and digest", async (t) => {
  const byDigest = `${repository}@${second.manifest.digest}`;
  t.match(await docker("pull", byDigest), `Status: Downloaded newer image for ${byDigest}`);
  t.equal(await idOf(byDigest), second.config.digest);
  t.equal(
    await docker("pull", "-q", `${repository}:2@${second.manifest.digest}`),
    `${repository}:2@${second.manifest.digest}`,
  );
  await docker("rmi", byDigest);
});

await t.test("what cannot be pulled is refused before any progress", async (t) => {
  t.match(
    await refused("pull", `${repository}:none`),
    /manifest for 127\.0\.0\.1:5000\/test\/bb:none not found: manifest unknown/,
  );
  t.match(
    await docker("pull", "--platform", "linux/arm/v7", `${repository}:1`),
    /WARNING: image with reference .*:1 was found but its platform \(linux\/[a-z0-9]+\) does not match the specified platform \(linux\/arm\)/,
  );
  const answer = await door.ask("POST", `/images/create?fromImage=${repository}&tag=none`);
  t.equal(answer.status, 404);
  t.match(await refused("search", "busybox"), /searching for images is not supported/);
});

await t.test("images, with filters and in the API's shape", async (t) => {
  await docker("pull", "-q", `${repository}:2`);
  await docker("tag", `${repository}:1`, "mine:latest");
  const list = async (...filters: string[]): Promise<string[]> => {
    const args = filters.flatMap((filter) => ["--filter", filter]);
    return (await docker("images", "--format", "{{.Repository}}:{{.Tag}}", ...args))
      .split("\n")
      .filter(Boolean)
      .toSorted();
  };
  t.strictSame(await list(), [`${repository}:1`, `${repository}:2`, "mine:latest"]);
  t.strictSame(await list("label=team=red"), [`${repository}:1`, "mine:latest"]);
  t.strictSame(await list("label=team=blue"), []);
  t.strictSame(
    await list("reference=mine"),
    ["mine:latest"],
    "the client asks for the name, the server for the image",
  );
  t.strictSame(await list("reference=*/test/*:2"), [`${repository}:2`]);
  t.strictSame(await list("dangling=true"), []);
  t.match(await refused("images", "--filter", "nosuch=x"), /invalid filter 'nosuch'/);
  t.match(await refused("images", "--filter", "dangling=perhaps"), /invalid filter 'dangling=\[perhaps\]'/);
  t.match(await refused("images", "--filter", "before=nosuch"), /No such image: nosuch:latest/);
  const raw = await door.ask("GET", "/v1.50/images/json");
  t.strictSame(schema?.listProblems("ImageSummary", raw.json()) ?? [], []);
  const inspected = await door.ask("GET", "/v1.50/images/mine/json");
  t.strictSame(schema?.problems("ImageInspect", inspected.json()) ?? [], []);
  t.match(inspected.json(), {
    Id: first.config.digest,
    RepoTags: [`${repository}:1`, "mine:latest"],
    RepoDigests: [`${repository}@${first.manifest.digest}`],
    Config: { Env: ["A=b"], Cmd: ["sleep", "600"], Labels: { team: "red" } },
    RootFS: { Type: "layers", Layers: [base.diffId, /^sha256:/] },
    Os: "linux",
  });
  t.match(await docker("history", "--no-trunc", "mine"), /test\/lab\/image\.ts/);
  const history = (await door.ask("GET", "/images/mine/history")).json() as { Id: string; Size: number }[];
  t.equal(history.length, 2);
  t.equal(history[0]?.Id, first.config.digest);
  t.ok((history[1]?.Size ?? 0) > 500_000, "busybox has a size");
});

await t.test("tag: bad names are refused, a name that moves leaves its image untagged", async (t) => {
  t.match(await refused("tag", "nosuch", "x"), /No such image: nosuch:latest/);
  t.match(await refused("tag", "mine", "UPPER"), /invalid reference format/);
  t.match(
    await refused("tag", "mine", "a".repeat(64).replaceAll("a", "b")),
    /cannot specify 64-byte hexadecimal strings/,
  );
  await pushImage(host.registry, "test/bb", "moves", buildImage([buildLayer([text("only", "here")])], {}));
  await docker("pull", "-q", `${repository}:moves`);
  const id = await idOf(`${repository}:moves`);
  await docker("tag", "mine", `${repository}:moves`);
  t.equal(await docker("images", "-q", "--no-trunc", "--filter", "dangling=true"), id);
  const pruned = await docker("image", "prune", "--force");
  t.match(
    pruned,
    new RegExp(
      `^Deleted Images:\ndeleted: ${id}\ndeleted: sha256:[0-9a-f]{64}\n\nTotal reclaimed space: [1-9]`,
    ),
  );
  t.equal(await docker("images", "-q", "--filter", "dangling=true"), "");
  t.equal(await docker("rmi", `${repository}:moves`), `Untagged: ${repository}:moves`);
});

await t.test("rmi: one name of several goes alone, the last takes the image along", async (t) => {
  t.equal(await docker("rmi", "mine"), "Untagged: mine:latest");
  await docker("tag", `${repository}:1`, "other:1");
  const id = await idOf("other:1");
  const short = id.slice(7, 19);
  t.match(
    await refused("rmi", short),
    `conflict: unable to delete ${short} (must be forced) - image is referenced in multiple repositories`,
  );
  t.equal(await docker("rmi", "other:1"), "Untagged: other:1");
  const printed = await docker("rmi", `${repository}:1`);
  const lines = printed.split("\n");
  t.strictSame(lines.slice(0, 3), [
    `Untagged: ${repository}:1`,
    `Untagged: ${repository}@${first.manifest.digest}`,
    `Deleted: ${id}`,
  ]);
  t.equal(lines.length, 4, "the layer below is the other image's as well");
  t.match(await refused("rmi", "mine"), /No such image: mine:latest/);
});

await t.test("rmi: an image that a container uses stays", async (t) => {
  const id = newContainerId(systemRandom);
  const image = `${repository}:2`;
  const spec = { ...plainSpec, command: ["sleep", "600"] };
  const rest = { resources: {}, labels: {}, network: { kind: "none" }, secrets: [], configs: [] } as const;
  await engine.create({ id, name: "user", image, spec, ...rest }, none);
  const imageId = await idOf(image);
  t.match(
    await refused("rmi", image),
    `conflict: unable to remove repository reference "${image}" (must force) - container ${id.slice(0, 12)} is using its referenced image ${imageId.slice(7, 19)}`,
  );
  t.match(
    await refused("rmi", imageId),
    `(must be forced) - image is being used by stopped container ${id.slice(0, 12)}`,
  );
  await engine.start(id, none);
  t.match(
    await refused("rmi", "-f", imageId),
    `(cannot be forced) - image is being used by running container ${id.slice(0, 12)}`,
  );
  t.equal(
    await docker("rmi", "-f", image),
    `Untagged: ${image}\nUntagged: ${repository}@${second.manifest.digest}`,
  );
  t.equal(
    await docker("images", "-q", "--no-trunc", "--filter", "dangling=true"),
    imageId,
    "without a name, but there",
  );
  t.match(await docker("image", "prune", "-f"), /Total reclaimed space: 0B/);
  await engine.remove(id);
  t.match(await docker("image", "prune", "-f"), `deleted: ${imageId}`);
  t.equal(await docker("images", "-qa"), "");
  t.strictSame(await engine.images(), []);
});

await t.test("prune of all that is unused, by label and age", async (t) => {
  await docker("pull", "-q", `${repository}:1`);
  await docker("pull", "-q", `${repository}:2`);
  t.match(await docker("image", "prune", "-f"), /Total reclaimed space: 0B/);
  t.notMatch(await docker("image", "prune", "-af", "--filter", "label!=team"), first.config.digest);
  t.equal(await docker("images", "-q", "--no-trunc"), first.config.digest);
  t.match(await docker("image", "prune", "-af", "--filter", "until=1h"), first.config.digest);
  t.strictSame(await engine.images(), []);
});

await t.test("what a registry says of an image, without pulling it", async (t) => {
  const answer = await door.ask("GET", `/distribution/${repository}:1/json`);
  t.strictSame(schema?.problems("DistributionInspect", answer.json()) ?? [], []);
  t.match(answer.json(), { Descriptor: { digest: first.manifest.digest }, Platforms: [{ os: "linux" }] });
});

await t.test(
  "push sends what the registry lacks, and takes layers over from its other repositories",
  async (t) => {
    const sent = buildImage([base, buildLayer([text("pushed", "yes\n")])], {});
    await pushImage(host.registry, "test/from", "1", sent);
    await docker("pull", "-q", `${host.registry}/test/from:1`);
    const target = `${host.registry}/test/to`;
    await docker("tag", `${host.registry}/test/from:1`, `${target}:1`);
    t.equal(
      await docker("image", "inspect", "--format", "{{.RepoDigests}}", `${target}:1`),
      `[${host.registry}/test/from@${sent.manifest.digest}]`,
    );
    const printed = await docker("push", `${target}:1`);
    t.match(printed, `The push refers to repository [${target}]`);
    t.equal(printed.match(/Mounted from test\/from/g)?.length, 2);
    t.match(printed, `1: digest: ${sent.manifest.digest} size: ${sent.manifest.data.length}`);
    t.match(
      await docker("image", "inspect", "--format", "{{.RepoDigests}}", `${target}:1`),
      `${target}@${sent.manifest.digest}`,
      "the registry has said so",
    );
    t.match(await docker("push", `${target}:1`), /Layer already exists/);
    // Nothing there knows of these layers.
    await docker("rmi", `${host.registry}/test/from:1`, `${target}:1`);
    await docker("pull", "-q", `${repository}:1`);
    await docker("tag", `${repository}:1`, `localhost:5000/fresh:a`);
    await docker("tag", `${repository}:1`, `localhost:5000/fresh:b`);
    const all = await docker("push", "-a", "localhost:5000/fresh");
    t.match(all, /[0-9a-f]{12}: Pushed/);
    t.match(all, `a: digest: ${first.manifest.digest}`);
    t.match(all, `b: digest: ${first.manifest.digest}`);
    await docker("rmi", "-f", first.config.digest);
    await docker("pull", "-q", `${host.registry}/fresh:b`);
    t.equal(await idOf(`${host.registry}/fresh:b`), first.config.digest, "what was pushed is whole");
    t.match(
      await refused("push", `${host.registry}/nosuch:1`),
      /An image does not exist locally with the tag: 127\.0\.0\.1:5000\/nosuch/,
    );
    await docker("rmi", `${host.registry}/fresh:b`);
  },
);
