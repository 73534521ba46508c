import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { Script } from "./script.ts";

/** Compiled to build/test, so the sessions are two folders up. `UPDATE=1` rewrites what they expect. */
const folder = fileURLToPath(new URL("../../test/testdata/", import.meta.url));

for (const file of readdirSync(folder)
  .filter((name) => name.endsWith(".txt"))
  .toSorted()) {
  t.test(`session ${file} goes as written`, (t) => {
    const path = `${folder}${file}`;
    const expected = readFileSync(path, "utf8");
    const actual = replay(expected);
    if (process.env["UPDATE"] === "1") writeFileSync(path, actual);
    else t.equal(actual, expected);
    t.end();
  });
}

/** Lines that start with `> ` are commands, with `#` comments; the rest is output and is made anew. */
function replay(text: string): string {
  const script = new Script();
  const lines: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) {
      if (lines.length > 0) lines.push("");
      lines.push(line);
    }
    if (!line.startsWith("> ")) continue;
    lines.push(line);
    const output = script.run(line.slice(2));
    if (output !== "") lines.push(output);
  }
  return `${lines.join("\n")}\n`;
}
