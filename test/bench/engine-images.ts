/**
 * Pushes images of 200 MB, as a process on the wire of a lab: one whose layers do not compress, and one of lines of a log.
 *
 * usage: node engine-images.js <registry>
 */
import { randomBytes } from "node:crypto";

import { buildImage, buildLayer, busyboxLayer, pushImage } from "../lab/image.ts";

const layerBytes = 50_000_000;
const layerCount = 4;
const [registry = ""] = process.argv.slice(2);

const base = await busyboxLayer();
const noise = randomBytes(layerBytes);
for (const [repository, content] of [
  ["noise", (index: number): Buffer => Buffer.concat([Buffer.from(String(index)), noise])],
  ["lines", lines],
] as const) {
  const layers = Array.from({ length: layerCount }, (_, index) =>
    buildLayer([{ kind: "file", path: `data/${index}`, data: content(index) }]),
  );
  await pushImage(registry, repository, "1", buildImage([base, ...layers], { Cmd: ["sh"] }));
}

/** What a server might write of its requests, 100 bytes a line; a quarter of it when compressed. */
function lines(index: number): Buffer {
  const data = Buffer.alloc(layerBytes, "\n");
  for (let at = 0, line = index * layerBytes; at < layerBytes; at += 100, line += 1) {
    const path = `/items/${((line * 7_919) % 999_983).toString(36)}`;
    const text = `level=info request=${line} path=${path} status=200 bytes=${(line * 31) % 65_521} took=${line % 97}ms`;
    data.write(text.padEnd(99, "."), at, 99, "latin1");
  }
  return data;
}
