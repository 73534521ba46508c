/** A server whose clients may keep their connections, and `wrk` as clients of all kinds while something happens. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { waitFor } from "../lab/shell.ts";
import type { Seen } from "./connections.ts";

/** Answers up to twenty requests on a connection, as far as its client keeps it. Lines end with a carriage return. */
const handler = [
  "n=0",
  "while read -r line; do",
  "  close=",
  '  while [ "${line%?}" != "" ]; do',
  '    case "$line" in Connection:*close*) close=1 ;; esac',
  "    read -r line || exit 0",
  "  done",
  "  n=$((n + 1))",
  "  [ $n -ge 20 ] && close=1",
  '  if [ -n "$close" ]; then',
  String.raw`    printf 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n'`,
  "    exit 0",
  "  fi",
  String.raw`  printf 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n'`,
  "done",
].join("\n");

/**
 * Serves on port 8080. Told to end, it takes no more connections, and ends when those that it has are over, as web servers do.
 */
export const keepAliveServer: readonly string[] = [
  "sh",
  "-c",
  [
    `cat >/handler <<'END'\n${handler}\nEND`,
    "nc -ll -p 8080 -e sh /handler & server=$!",
    `trap 'kill $server; while ps | grep -v "^ *1 " | grep -q "/handle[r]"; do usleep 50000; done; exit 0' TERM`,
    "wait $server",
  ].join("\n"),
];

/** Whether it takes connections, without making one. */
export const listens = "netstat -ltn | grep -q :8080";

/** Answers each line on port 8080 with the name of its task. */
export const namingServer: readonly string[] = [
  "sh",
  "-c",
  `echo 'while read -r line; do hostname; done' >/handler; exec nc -ll -p 8080 -e sh /handler`,
];

const connectionsFile = fileURLToPath(new URL("connections.js", import.meta.url));
/** Of connections that are kept. */
const keptCount = 18;

/** What connections to a {@link namingServer} see while `work` is done. @param enter - As of {@link whileAsked}. */
export async function whileConnected(
  {
    address,
    port,
    enter,
  }: { readonly address: string; readonly port: number; readonly enter: readonly string[] },
  work: () => Promise<void>,
): Promise<Seen> {
  const [command = "", ...entering] = enter;
  const client = [process.execPath, connectionsFile, address, `${port}`, `${keptCount}`];
  const child = spawn(command, [...entering, ...client], { stdio: ["pipe", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const ended = once(child, "close");
  try {
    await waitFor("answers on all connections that are kept", { timeoutMs: 20_000 }, async () =>
      output.startsWith("ready"),
    );
    await work();
  } finally {
    child.stdin.end();
  }
  await ended;
  return JSON.parse(output.slice("ready".length)) as Seen;
}

export interface Traffic {
  /** What was asked, such as "close http://10.230.0.1:8080/". */
  readonly name: string;
  readonly requests: number;
  /** What `wrk` says of failures. */
  readonly failures: readonly string[];
}

/** Milliseconds between two requests of a connection: the hosts share few processors with their clients. */
const script = "function delay() return 100 end";
/** Longer than any test; it is ended before. */
const longest = "10m";

/**
 * Asks every URL with two connections that are kept and two that are made anew for each request, while `work` is done.
 *
 * @param urls - Each with the command that enters the network namespace to ask from.
 * @param scriptFile - Where it may write a file for `wrk`.
 */
export async function whileAsked(
  urls: readonly { readonly url: string; readonly enter: readonly string[] }[],
  scriptFile: string,
  work: () => Promise<void>,
): Promise<Traffic[]> {
  await writeFile(scriptFile, script);
  const running = urls.flatMap(({ url, enter }) =>
    (["kept", "close"] as const).map((kind) => {
      const header = kind === "close" ? ["-H", "Connection: close"] : [];
      const wrk = ["wrk", "-t1", "-c2", `-d${longest}`, "--timeout", "5s", "-s", scriptFile, ...header, url];
      const [command = "", ...args] = [...enter, ...wrk];
      const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
      let output = "";
      child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
      child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
      return { name: `${kind} ${url}`, child, ended: once(child, "close").then(() => output) };
    }),
  );
  try {
    await work();
  } finally {
    for (const { child } of running) child.kill("SIGINT"); // It prints what it has counted then.
  }
  return Promise.all(running.map(async ({ name, ended }) => readTraffic(name, await ended)));
}

function readTraffic(name: string, output: string): Traffic {
  return {
    name,
    requests: Number(/(\d+) requests in/.exec(output)?.[1] ?? 0),
    failures: output.split("\n").filter((line) => /Socket errors|Non-2xx|unable to connect/.test(line)),
  };
}
