import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { findInLayers, readInLayers } from "../../../worker/engine/rootfs.ts";

t.test("files of an image are found in its layers and never outside", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "shoal-rootfs-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const [upper, lower] = [join(directory, "upper"), join(directory, "lower")];
  for (const layer of [upper, lower]) await mkdir(join(layer, "etc"), { recursive: true });
  await writeFile(join(directory, "outside"), "secret of the host");
  await writeFile(join(lower, "etc/passwd"), "lower");
  await writeFile(join(lower, "etc/group"), "lower group");
  await writeFile(join(upper, "etc/passwd"), "upper");
  await symlink("../../../../outside", join(upper, "etc/up"));
  await symlink(join(directory, "outside"), join(upper, "etc/absolute"));
  await symlink("/etc/passwd", join(upper, "etc/inside"));
  await symlink("loop", join(upper, "etc/loop"));
  await symlink("../etc", join(upper, "alias"));
  const layers = [upper, lower];
  t.equal(await readInLayers(layers, "/etc/passwd"), "upper", "the highest layer wins");
  t.equal(await readInLayers(layers, "/etc/group"), "lower group");
  t.equal(await readInLayers(layers, "/etc/inside"), "upper", "links stay within the image");
  t.equal(
    await readInLayers(layers, "/alias/group"),
    "lower group",
    "a linked directory is joined with the layers below",
  );
  for (const path of ["/etc/up", "/etc/absolute", "/etc/loop", "/../../outside", "/etc", "/none"]) {
    t.equal(await readInLayers(layers, path), "", path);
  }
  t.match(await findInLayers(layers, "/etc"), { kind: "directory" });
});
