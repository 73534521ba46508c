import { once } from "node:events";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { lockDirectories } from "../../daemon/locks.ts";

async function directories(t: Test, ...names: readonly string[]): Promise<string[]> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-locks-")); // Short enough for the name of a socket.
  t.teardown(() => rm(directory, { recursive: true }));
  const paths = names.map((name) => join(directory, name));
  for (const path of paths) await mkdir(path);
  return paths;
}

t.test("one shoald has a state directory, whatever run directory another is given", async (t) => {
  const [stateDir = "", one = "", two = ""] = await directories(t, "state", "one", "two");
  const lock = await lockDirectories({ stateDir, runDir: one }, 0);
  const second = lockDirectories({ stateDir, runDir: two }, 0);
  await t.rejects(second, {
    code: "failed-precondition",
    message: `another shoald uses the state in ${stateDir}`,
  });
  await rm(one, { recursive: true }); // As when /run is wiped.
  await mkdir(one);
  await t.rejects(lockDirectories({ stateDir, runDir: one }, 0), { code: "failed-precondition" });
  await lock.close();
  const next = await lockDirectories({ stateDir, runDir: one }, 0);
  await next.close();
});

t.test("and one a run directory; who is refused keeps nothing", async (t) => {
  const [stateDir = "", other = "", runDir = ""] = await directories(t, "state", "other", "run");
  const lock = await lockDirectories({ stateDir, runDir }, 0);
  await t.rejects(lockDirectories({ stateDir: other, runDir }, 0), {
    code: "failed-precondition",
    message: `another shoald already runs on ${runDir}`,
  });
  await lock.close();
  const next = await lockDirectories({ stateDir: other, runDir }, 0);
  await next.close();
});

t.test("one directory may be both, also after one that was killed", async (t) => {
  const [both = "", runDir = ""] = await directories(t, "both", "run");
  const lock = await lockDirectories({ stateDir: both, runDir: both }, 0);
  await t.rejects(lockDirectories({ stateDir: both, runDir }, 0), { code: "failed-precondition" });
  await lock.close();
  const left = createServer().listen(join(both, "shoald.lock")); // As a killed one leaves it: there, and nobody answers.
  await once(left, "listening");
  await rename(join(both, "shoald.lock"), join(both, "kept"));
  await new Promise((resolve) => void left.close(resolve));
  await rename(join(both, "kept"), join(both, "shoald.lock"));
  const next = await lockDirectories({ stateDir: both, runDir: both }, 0);
  await next.close();
});
