import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { Connection } from "../../../worker/engine/connection.ts";
import type { Container } from "../../../worker/engine/container.ts";
import { SnapshotFiles } from "../../../worker/engine/container-files.ts";
import type { ImageMounts } from "../../../worker/engine/image-mounts.ts";
import type { Volumes } from "../../../worker/mounts/volume.ts";

t.test(
  "what a container wrote is its files, each once: not directories, nor what mounts are put on",
  async (t) => {
    const upper = t.testdir({
      etc: { hosts: "", "resolv.conf": "" },
      v: {},
      "with space": { file: "x".repeat(3_000) },
      other: t.fixture("link", "with space/file"),
      linked: t.fixture("symlink", "other"),
    });
    const mounts = [
      { type: "overlay", source: "overlay", target: "", options: [`upperdir=${upper}`, "lowerdir=/below"] },
    ];
    const known = { id: "one" } as unknown as Container;
    const call = async () => ({ mounts });
    const files = new SnapshotFiles({
      connection: { snapshots: {}, call } as unknown as Connection,
      volumes: {} as Volumes,
      imageMounts: {} as ImageMounts,
      directory: "/nowhere",
      require: () => known,
      warn: () => undefined,
    });
    t.equal(await files.diskBytes("one"), 3_000 + "other".length);
  },
);

t.test("a container that has gone takes nothing of the disk", async (t) => {
  const files = new SnapshotFiles({
    connection: {} as Connection,
    volumes: {} as Volumes,
    imageMounts: {} as ImageMounts,
    directory: "/nowhere",
    require: () => {
      throw new ClusterError("not-found", "No such container: one");
    },
    warn: () => undefined,
  });
  t.equal(await files.diskBytes("one"), 0);
});

t.test("whoever no longer waits for a container's files gives up the turn", async (t) => {
  let finish = (): void => undefined;
  const status = { state: "stopped", startedAtMs: 1 };
  const container = {
    id: "one",
    status,
    activity: undefined,
    written: new Promise<void>((resolve) => (finish = resolve)), // Somebody writes slowly.
  } as unknown as Container;
  const files = new SnapshotFiles({
    connection: {} as Connection,
    volumes: {} as Volumes,
    imageMounts: {} as ImageMounts,
    directory: "/nowhere",
    require: () => container,
    warn: () => undefined,
  });
  const client = new AbortController();
  const opened = files.open("one", "write", client.signal);
  const rejected = t.rejects(opened, /has gone/);
  client.abort(new Error("the client has gone"));
  await rejected;
  let isFree = false;
  const freed = container.written.then(() => (isFree = true));
  await new Promise(setImmediate);
  t.notOk(isFree, "the one before still writes");
  finish();
  await freed;
});
