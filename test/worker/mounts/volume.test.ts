import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";

import { runTool } from "../../../worker/mounts/tool.ts";
import { openVolumes, type VolumeContent, type Volumes } from "../../../worker/mounts/volume.ts";
import { VirtualClock } from "../../sim/clock.ts";

const settings = { labels: {}, anonymous: false } as const;

interface World {
  readonly volumes: Volumes;
  readonly directory: string;
  readonly warnings: string[];
  /** As after a restart. */
  readonly again: () => Volumes;
}

async function world(t: Test): Promise<World> {
  const directory = await mkdtemp(join(tmpdir(), "volumes-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const again = (): Volumes => openVolumes({ clock: new VirtualClock(), directory, warn });
  return { volumes: again(), directory, warnings, again };
}

function files(...names: readonly string[]): () => Promise<VolumeContent> {
  return async () => async (directory) => {
    for (const name of names) await writeFile(join(directory, name), name);
  };
}

t.test("a damaged record hides one volume and no other", async (t) => {
  const { volumes, directory, warnings } = await world(t);
  for (const name of ["empty", "null", "whole"]) await volumes.create(name, settings);
  await writeFile(join(directory, "empty", "volume.json"), "");
  await writeFile(join(directory, "null", "volume.json"), "null");
  t.strictSame(
    (await volumes.list()).map(({ name }) => name),
    ["whole"],
  );
  t.strictSame(warnings.toSorted(), ["volume empty is passed over", "volume null is passed over"]);
  await volumes.releaseUnused();
  await t.rejects(volumes.get("empty"), { code: "data-loss" });
});

t.test("a volume is not removed while a container has it, from the moment it is made", async (t) => {
  const { volumes } = await world(t);
  await volumes.create("data", { ...settings, owner: "one" });
  await t.rejects(volumes.remove("data"), { code: "conflict", message: /volume is in use - \[one\]/ });
  await volumes.release("data", "one");
  await t.rejects(volumes.remove("data"), { code: "conflict" }, "whether it runs or not");
  await volumes.abandon("data", "one", "removed");
  t.match(await volumes.get("data"), { name: "data" }, "it has a name, so it stays");
  await volumes.remove("data");
  t.equal(await volumes.get("data"), undefined);
});

t.test("an anonymous volume goes with the last container that has it", async (t) => {
  const { volumes } = await world(t);
  const name = "f".repeat(64);
  await volumes.create(name, { ...settings, anonymous: true, owner: "first" });
  await volumes.create(name, { ...settings, owner: "second" });
  await volumes.abandon(name, "stranger", "removed");
  await volumes.abandon(name, "first", "removed");
  t.match(await volumes.get(name), { anonymous: true });
  await volumes.abandon(name, "second", "removed");
  t.equal(await volumes.get(name), undefined);
});

t.test("an anonymous volume that is kept outlives its container", async (t) => {
  const { volumes } = await world(t);
  await volumes.create("anon", { ...settings, anonymous: true, owner: "first" });
  await volumes.abandon("anon", "first", "kept");
  t.match(await volumes.get("anon"), { anonymous: false });
});

t.test("a volume is filled whenever it is empty, and never over what is there", async (t) => {
  const { volumes } = await world(t);
  const { mountpoint } = await volumes.create("data", settings);
  await volumes.fill("data", "one", async () => undefined);
  t.strictSame(await readdir(mountpoint), []);
  await volumes.fill("data", "two", files("a"));
  t.strictSame(await readdir(mountpoint), ["a"]);
  await volumes.fill("data", "three", files("b"));
  t.strictSame(await readdir(mountpoint), ["a"]);
  await rm(join(mountpoint, "a"));
  await volumes.fill("data", "four", files("b"));
  t.strictSame(await readdir(mountpoint), ["b"], "emptied by hand, it is filled again");
});

t.test("half of the content is never taken for all of it", async (t) => {
  const { volumes, again } = await world(t);
  const { mountpoint } = await volumes.create("data", settings);
  const half = async (): Promise<VolumeContent> => async (directory) => {
    await writeFile(join(directory, "half"), "");
    throw new Error("the disk is full");
  };
  await t.rejects(volumes.fill("data", "one", half), /the disk is full/);
  await again().fill("data", "two", files("all"));
  t.strictSame(await readdir(mountpoint), ["all"], "also by a later process");
  await t.rejects(
    volumes.create("other", settings).then(() => volumes.fill("other", "one", half)),
    /full/,
  );
  const other = await volumes.create("other", { ...settings, owner: "writer" });
  await volumes.fill("other", "two", files("all"));
  t.strictSame(await readdir(other.mountpoint), ["half"], "what another container may have written stays");
});

t.test("what is written after a copy that was cut short is nobody's remainder", async (t) => {
  const { volumes } = await world(t);
  const { mountpoint } = await volumes.create("data", settings);
  const half = async (): Promise<VolumeContent> => async (directory) => {
    await writeFile(join(directory, "half"), "");
    throw new Error("the disk is full");
  };
  await t.rejects(volumes.fill("data", "one", half), /full/);
  await volumes.fill("data", "two", async () => undefined);
  t.strictSame(await readdir(mountpoint), [], "an image without content begins with an empty one");
  await writeFile(join(mountpoint, "precious"), "");
  await volumes.fill("data", "three", files("all"));
  t.strictSame(await readdir(mountpoint), ["precious"]);
});

t.test("a tool that may be ended has no limit of time, and is gone when its caller goes on", async (t) => {
  const { directory } = await world(t);
  const given = new AbortController();
  const path = join(directory, "pid");
  const running = runTool("sh", ["-c", 'mkfifo "$1.go"; echo $$ > "$1"; read -r _ < "$1.go"', "sh", path], {
    signal: given.signal,
  });
  let pid = "";
  while (pid === "") pid = await readFile(path, "utf8").catch(() => "");
  given.abort();
  await t.rejects(running);
  t.throws(() => process.kill(Number(pid), 0), { code: "ESRCH" });
  await t.rejects(runTool("true", [], { signal: given.signal }), { name: "AbortError" });
});
