import { fileURLToPath } from "node:url";
import t from "tap";
import { encodeLineTable } from "../../runtime/line-table.ts";
import { mapStack } from "../../runtime/stack.ts";

/** Line 3, column 5 of /app/build/a.js comes from line 8, column 3 of /app/a.ts. */
const map = JSON.stringify({
  version: 3,
  file: "a.js",
  sources: ["../a.ts"],
  names: [],
  mappings: ";;IAOE",
});
const files: Readonly<Record<string, Buffer>> = {
  "/app/build/a.js.map": Buffer.from(map),
  "/app/build/bundle/worker.js.lines": encodeLineTable([undefined, { source: "worker/a.ts", line: 7 }]),
};
const read = (path: string): Buffer => {
  const content = files[path];
  if (content === undefined) throw new Error(`no such file: ${path}`);
  return content;
};

const cases = [
  {
    name: "a module's frame names the source it was compiled from",
    stack: "Error: x\n    at f (file:///app/build/a.js:3:5)\n    at async g (file:///app/build/a.js:3:5)",
    want: "Error: x\n    at f (/app/a.ts:8:3)\n    at async g (/app/a.ts:8:3)",
  },
  {
    name: "a frame without a function name too",
    stack: "Error\n    at file:///app/build/a.js:3:5",
    want: "Error\n    at /app/a.ts:8:3",
  },
  {
    name: "a path without a scheme too",
    stack: "Error\n    at f (/app/build/a.js:3:9)",
    want: "Error\n    at f (/app/a.ts:8:3)",
  },
  {
    name: "a bundle's frame names the source by the bundle's line table, and one of a package stays",
    stack: "Error\n    at f (/app/build/bundle/worker.js:2:9)\n    at g (/app/build/bundle/worker.js:1:9)",
    want: "Error\n    at f (/app/worker/a.ts:7)\n    at g (/app/build/bundle/worker.js:1:9)",
  },
  {
    name: "frames of node and of files without a map stay",
    stack: "Error\n    at f (node:net:1:2)\n    at g (file:///app/build/b.js:3:5)",
    want: "Error\n    at f (node:net:1:2)\n    at g (file:///app/build/b.js:3:5)",
  },
] as const;

for (const { name, stack, want } of cases) {
  t.test(name, (t) => {
    t.equal(mapStack(stack, read), want);
    t.end();
  });
}

t.test("a file is read once for all frames of a stack, also one that is not there", (t) => {
  const asked: string[] = [];
  const frames = Array.from({ length: 10 }, (_, at) => `    at f (/app/build/bundle/worker.js:${at + 1}:9)`);
  mapStack(["Error", ...frames].join("\n"), (path) => {
    asked.push(path);
    return read(path);
  });
  t.strictSame(asked, ["/app/build/bundle/worker.js.lines", "/app/build/bundle/worker.js.map"].toSorted());
  t.end();
});

t.test("a broken map leaves the stack as it is", (t) => {
  const stack = "Error\n    at f (file:///app/build/a.js:3:5)";
  t.equal(
    mapStack(stack, () => Buffer.from("{")),
    stack,
  );
  t.equal(
    mapStack(stack, () => {
      throw new Error("no such file");
    }),
    stack,
  );
  t.end();
});

t.test("an error of this very file points into its source", (t) => {
  const compiled = fileURLToPath(import.meta.url);
  const frame = `    at f (file://${compiled}:5:1)`; // Whatever stands there, it comes from the source.
  t.match(mapStack(frame), compiled.endsWith(".js") ? /test\/runtime\/stack\.test\.ts:\d+:\d+\)$/ : frame);
  t.end();
});
