import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import t from "tap";
import { withUndo } from "./interrupt.ts";

t.test("what was made is undone after the work, also when it fails", async (t) => {
  const order: string[] = [];
  const undo = async (): Promise<void> => void order.push("undone");
  t.equal(await withUndo(async () => order.push("worked"), undo), 1);
  await t.rejects(
    withUndo(() => Promise.reject(new Error("broken")), undo),
    { message: "broken" },
  );
  t.strictSame(order, ["worked", "undone", "undone"]);
});

t.test("a process that is told to end undoes what it made, and what it makes meanwhile", async (t) => {
  const script = `
    import { withUndo } from ${JSON.stringify(new URL("interrupt.js", import.meta.url).href)};
    let fail = () => undefined;
    const work = () => new Promise((_, reject) => {
      fail = () => reject(new Error("its hosts are gone"));
      console.log("working");
      setInterval(() => undefined, 1_000);
    });
    await withUndo(work, async () => { console.log("undone"); fail(); });`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(child, "exit");
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line);
    if (line === "working") child.kill("SIGTERM");
  }
  t.strictSame(lines, ["working", "undone", "undone"]);
  t.strictSame(await ended, [143, null]);
});
