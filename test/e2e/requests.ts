/**
 * `requests.js many URL…` asks in turn, a few requests at a time, until SIGTERM, and then prints how it went.
 * `requests.js once URL` prints the answer, or the error's code.
 */
import { get } from "node:http";

const parallel = 4;
const timeoutMs = 5_000;

/** What `many` prints, as JSON. */
export interface Requests {
  readonly answered: number;
  /** "<time> <URL>: <why>", the first few. */
  readonly failed: readonly string[];
  /** How often each first word of an answer came. */
  readonly answers: Readonly<Record<string, number>>;
}

const [mode = "", ...urls] = process.argv.slice(2);
const answers: Record<string, number> = {};
const failed: string[] = [];
let answered = 0;
let next = 0;
const ending = new AbortController();

function ask(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(url, { agent: false, timeout: timeoutMs }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () => {
        if (response.statusCode === 200 && text !== "") resolve(text);
        else reject(new Error(`status ${response.statusCode}, "${text}"`));
      });
      response.on("error", reject);
    });
    request.on("timeout", () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    request.on("error", reject);
  });
}

async function askOn(): Promise<void> {
  while (!ending.signal.aborted) {
    const url = urls[next++ % urls.length] ?? "";
    try {
      const word = (await ask(url)).split(" ")[0] ?? "";
      answered += 1;
      answers[word] = (answers[word] ?? 0) + 1;
    } catch (error) {
      failed.push(`${new Date().toISOString()} ${url}: ${String(error)}`);
    }
  }
}

if (mode === "once") {
  const said = ask(urls[0] ?? "").catch((error: NodeJS.ErrnoException) => error.code ?? String(error));
  console.log(await said);
}
if (mode === "many") {
  process.on("SIGTERM", () => ending.abort());
  await Promise.all(Array.from({ length: parallel }, askOn));
  const requests: Requests = { answered, failed: failed.slice(0, 20), answers };
  console.log(JSON.stringify(requests));
}
