import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { diskBytes } from "../../../worker/mounts/disk-bytes.ts";

t.test("bytes are counted while files go, and no figure is no failure", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "disk-bytes-"));
  const path = process.env["PATH"] ?? "";
  t.teardown(async () => {
    process.env["PATH"] = path;
    await rm(directory, { recursive: true });
  });
  const warnings: string[] = [];
  const counted = (): Promise<number | undefined> =>
    diskBytes(directory, (message) => void warnings.push(message));
  await writeFile(join(directory, "some"), Buffer.alloc(10_000));
  t.ok(((await counted()) ?? 0) >= 10_000);
  const script = "#!/bin/sh\necho '4096\twhere'\necho 'a file has gone' >&2\nexit 1\n";
  await writeFile(join(directory, "du"), script, { mode: 0o755 });
  process.env["PATH"] = `${directory}:${path}`;
  t.equal(await counted(), 4_096);
  t.strictSame(warnings, []);
  process.env["PATH"] = join(directory, "nothing");
  t.equal(await counted(), undefined);
  t.strictSame(warnings, [`cannot count the bytes of ${directory}`]);
});
