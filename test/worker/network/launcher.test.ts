import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { Launcher } from "../../../worker/network/launcher.ts";

const directory = mkdtempSync(join(tmpdir(), "shoal-launcher-"));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

/** Shells that work in this test's directory. */
function shells(): number[] {
  try {
    return execFileSync("pgrep", ["-f", `shoal-launcher ${directory}/`], { encoding: "utf8" })
      .split("\n")
      .filter((line) => line !== "")
      .map(Number);
  } catch {
    return []; // None matches.
  }
}

t.test("a command gets its input, and its outputs and code come back", async (t) => {
  using launcher = new Launcher(join(directory, "a"));
  t.strictSame(await launcher.run(["sh", "-c", "cat; echo oops >&2; exit 3"], "text\n"), {
    code: 3,
    stdout: "text\n",
    stderr: "oops\n",
  });
  t.strictSame(await launcher.run(["cat"]), { code: 0, stdout: "", stderr: "" }, "nothing of the one before");
});

t.test("arguments arrive as they are", async (t) => {
  using launcher = new Launcher(join(directory, "b"));
  const words = ["it's", '"$HOME"', "a  b", "`id`", "\\n", "", "*", "; exit 9", "é", "two\nlines\n"];
  const { stdout } = await launcher.run(["printf", "%s\\n", ...words]);
  t.equal(stdout, words.map((word) => `${word}\n`).join(""));
});

t.test("more commands than places all run, several at a time, each with its own output", async (t) => {
  using launcher = new Launcher(join(directory, "c"));
  const results = await Promise.all(
    Array.from({ length: 100 }, (_, index) => launcher.run(["cat"], `${index}`)),
  );
  t.strictSame(
    results.map(({ stdout }) => stdout),
    Array.from({ length: 100 }, (_, index) => `${index}`),
  );
});

t.test("there are as many shells as commands were under way at once", async (t) => {
  using launcher = new Launcher(join(directory, "h"));
  for (let each = 0; each < 5; each += 1) await launcher.run(["true"]);
  const own = (): number => shells().filter((pid) => commandLine(pid).includes(`${directory}/h`)).length;
  t.equal(own(), 1);
  await Promise.all(Array.from({ length: 3 }, () => launcher.run(["true"])));
  t.equal(own(), 3);
});

t.test("a program that is not there is named with its package", async (t) => {
  using launcher = new Launcher(join(directory, "d"));
  await t.rejects(launcher.run(["shoal-no-such-program"]), {
    code: "unavailable",
    message: "cannot run shoal-no-such-program: there is no such program on the PATH",
  });
  t.equal(
    (await launcher.run(["sh", "-c", "exit 127"])).code,
    127,
    "a code of the program's own is no failure",
  );
});

t.test("a command that does not end is ended", async (t) => {
  using launcher = new Launcher(join(directory, "e"), 3_000);
  await t.rejects(launcher.run(["sleep", "600"]), {
    code: "deadline-exceeded",
    message: "sleep 600 did not end within 3 s",
  });
  t.equal((await launcher.run(["echo", "next"])).stdout, "next\n");
});

t.test("when the shell is killed, what is under way fails, and the next command has a new one", async (t) => {
  using launcher = new Launcher(join(directory, "f"));
  await launcher.run(["true"]);
  const [shell = 0] = shells();
  const failed = t.rejects(launcher.run(["sh", "-c", `kill -9 ${shell}; sleep 5`]), { code: "unavailable" });
  await failed;
  t.equal((await launcher.run(["echo", "again"])).stdout, "again\n");
});

t.test("nothing is left when it is closed", async (t) => {
  const launcher = new Launcher(join(directory, "g"));
  await launcher.run(["true"]);
  launcher[Symbol.dispose]();
  await t.rejects(launcher.run(["true"]), { code: "unavailable" });
  while (shells().some((pid) => commandLine(pid).includes(`${directory}/g`)))
    await new Promise((resolve) => setImmediate(resolve));
  t.pass("the shell has ended");
});

function commandLine(pid: number): string {
  try {
    return execFileSync("ps", ["-o", "args=", "-p", String(pid)], { encoding: "utf8" });
  } catch {
    return ""; // It has ended.
  }
}
