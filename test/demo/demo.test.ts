import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import t from "tap";

const script = fileURLToPath(new URL("../../../test/demo/demo.sh", import.meta.url));
const demo = (...words: readonly string[]) => spawnSync("sh", [script, ...words], { encoding: "utf8" });

t.test("the demo prints its help and does nothing else", (t) => {
  const { status, stdout, stderr } = demo("--help");
  t.match(stdout, /^Usage: npm run demo .*\n$/s);
  t.equal(stderr, "");
  t.equal(status, 0);
  t.end();
});

t.test("the demo refuses what it does not know before it sets anything up", (t) => {
  t.match(demo("--managers", "5"), {
    status: 2,
    stdout: "",
    stderr: /unknown argument --managers; accepted are/,
  });
  for (const name of ["fresh1", "elevenchars", ""])
    t.match(demo("--name", name), { status: 2, stdout: "", stderr: /1 to 10 small letters or dashes/ });
  t.match(demo("--name"), { status: 2, stdout: "", stderr: /--name lacks its value/ });
  t.end();
});
