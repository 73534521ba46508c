import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { isUpToDate, writeRecord } from "../../tools/made-from.ts";

const second = (count: number) => new Date(1_800_000_000_000 + count * 1_000);

t.test("files are made again when an input is newer or one is missing, and else not", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "shoal-made-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const [input, output, record] = [join(folder, "in"), join(folder, "out"), join(folder, "record")];
  const touch = (path: string, at: Date) => {
    writeFileSync(path, "");
    utimesSync(path, at, at);
  };
  t.equal(await isUpToDate(record), false, "never made");
  touch(input, second(1));
  touch(output, second(3));
  await writeRecord(record, { inputs: [input], outputs: [output] }, second(2));
  t.equal(await isUpToDate(record), true);
  touch(output, second(0));
  t.equal(await isUpToDate(record), true, "an output that came out as it was is not written again");
  touch(input, second(2));
  t.equal(await isUpToDate(record), false, "changed while the output was made");
  touch(input, second(1));
  rmSync(output);
  t.equal(await isUpToDate(record), false, "an output is gone");
  touch(output, second(3));
  rmSync(input);
  t.equal(await isUpToDate(record), false, "an input is gone");
});
