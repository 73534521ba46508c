/** `requests.js once URL` prints the answer, or the error's code. */
import { get } from "node:http";

const timeoutMs = 5_000;

const [, url = ""] = process.argv.slice(2);

function ask(): Promise<string> {
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

console.log(await ask().catch((error: NodeJS.ErrnoException) => error.code ?? String(error)));
