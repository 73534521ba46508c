import { copyFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";

import { ReadOnlyRuntime } from "../../daemon/read-only-runtime.ts";
import { createLog, type Log } from "../../runtime/log.ts";

/** The mounts are files: bound means the same content, and the inode is that of a copy. */
function world(directory: string) {
  const program = join(directory, "crun");
  writeFileSync(program, "crun 1");
  const said: string[] = [];
  const calls: string[] = [];
  const refused = new Set<string>();
  const warn: Log["warn"] = ({ error }) => void said.push(String(error));
  const log = { ...createLog("test", "error"), warn };
  const point = join(directory, "bin", "crun");
  const run = async (name: string, args: readonly string[]): Promise<void> => {
    const call = [name, ...args.filter((each) => !each.startsWith("/"))].join(" ");
    calls.push(call);
    if (refused.has(call)) throw new Error(`${call}: operation not permitted`);
    if (call === "mount --bind") copyFileSync(program, point);
    if (name === "umount") writeFileSync(point, "");
  };
  const runtime = new ReadOnlyRuntime(program, join(directory, "bin"), log, run);
  return { program, point, runtime, calls, said, refused };
}

t.test(
  "the file below the mount is not executable, so that without it crun is found elsewhere",
  async (t) => {
    const { runtime, point, calls } = world(t.testdir({ bin: {} }));
    await runtime.look();
    t.strictSame(calls, ["mount --bind", "mount -o remount,bind,ro"]);
    t.equal(statSync(point).mode & 0o111, 0);
  },
);

t.test("a program that was replaced is mounted anew, and one that is missing waited for", async (t) => {
  const { runtime, program, calls } = world(t.testdir({ bin: {} }));
  await runtime.look();
  rmSync(program);
  await runtime.look();
  t.equal(calls.length, 2);
  writeFileSync(program, "crun 2");
  await Promise.all([runtime.look(), runtime.look()]);
  t.strictSame(
    calls.slice(2),
    ["umount --lazy", "mount --bind", "mount -o remount,bind,ro"],
    "once at a time",
  );
});

t.test("a mount that does not become read-only is taken away, which is said once", async (t) => {
  const { runtime, refused, calls, said } = world(t.testdir({ bin: {} }));
  refused.add("mount -o remount,bind,ro");
  await runtime.look();
  await runtime.look();
  t.strictSame(calls.slice(0, 3), ["mount --bind", "mount -o remount,bind,ro", "umount --lazy"]);
  t.equal(said.length, 1);
  await runtime.close();
  t.equal(calls.length, 6, "nothing is mounted any more");
});

t.test("the mount goes with shoald, and nothing is mounted afterwards", async (t) => {
  const { runtime, calls } = world(t.testdir({ bin: {} }));
  await runtime.look();
  await runtime.close();
  t.equal(calls.at(-1), "umount --lazy");
  await runtime.look();
  t.equal(calls.length, 3);
});
