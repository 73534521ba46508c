import { PassThrough } from "node:stream";
import type { FastifyReply } from "fastify";
import t from "tap";

import { streamProgress } from "../../../worker/api/progress.ts";

const line = { stream: "y\n".repeat(10_000) };
const lineCount = 1_000;

/** A client that reads only once it is told to. */
function client(): { raw: PassThrough; reply: FastifyReply } {
  const raw = Object.assign(new PassThrough(), { writeHead: () => undefined, flushHeaders: () => undefined });
  return { raw, reply: { raw, hijack: () => undefined } as unknown as FastifyReply };
}

async function turns(): Promise<void> {
  for (let count = 0; count < 100; count++) await new Promise<void>((resolve) => setImmediate(resolve));
}

t.test("a client that stops reading is waited for", async (t) => {
  const { raw, reply } = client();
  let said = 0;
  await streamProgress(reply, async (say, behind) => {
    for (; said < lineCount; said++) {
      say(line);
      await behind();
    }
  });
  await turns();
  t.ok(said < lineCount / 5, `${said} lines`);
  let text = "";
  for await (const piece of raw) text += String(piece);
  t.equal(said, lineCount);
  t.equal(text, `${JSON.stringify(line)}\r\n`.repeat(lineCount));
});

t.test("a client that goes away is waited for no longer", async (t) => {
  const { raw, reply } = client();
  let said = 0;
  let end = (): void => undefined;
  const over = new Promise<void>((resolve) => (end = resolve));
  await streamProgress(reply, async (say, behind) => {
    for (; said < lineCount; said++) {
      say(line);
      await behind();
    }
    end();
  });
  await turns();
  t.ok(said < lineCount);
  raw.destroy();
  await over;
  t.equal(said, lineCount);
});
