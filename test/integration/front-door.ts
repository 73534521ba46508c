/** A host's front door over a test's own containerd, in the test's process, and the docker client against it. */
import { spawn } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { Agent, type IncomingMessage, request as httpRequest } from "node:http";
import { once } from "node:events";
import { join } from "node:path";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { openFrontDoor } from "../../worker/api/server.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import { FakeNetwork, fakeNetworks } from "../sim/network.ts";
import { hostSettings, type TestHost } from "./containerd.ts";

const clientTimeoutMs = 60_000;

export interface ClientResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface DoorAnswer {
  readonly status: number;
  readonly text: string;
  /** The body as JSON; fails if it is none. */
  json(): unknown;
}

export interface TestDoor {
  /** Runs the unmodified client; a status other than 0 is the caller's to judge. */
  readonly run: (args: readonly string[], input?: Buffer) => Promise<ClientResult>;
  /** Runs it and wants success; what it printed, without the last line break. */
  readonly docker: (...args: string[]) => Promise<string>;
  /** Runs it and wants failure; what it printed as error. */
  readonly refused: (...args: string[]) => Promise<string>;
  ask(method: string, path: string, body?: object): Promise<DoorAnswer>;
  close(): Promise<void>;
}

export async function openTestDoor(host: TestHost, engine: Engine): Promise<TestDoor> {
  const settings = hostSettings(host);
  const home = join(host.directory, "home");
  await mkdir(home, { recursive: true });
  const network = new FakeNetwork();
  const door = await openFrontDoor({
    clock: systemClock,
    log: silentLog,
    settings,
    engine,
    network,
    networks: await fakeNetworks(network, settings),
    toManager: new Agent(),
    node: () => ({ state: "inactive", error: "", managers: [] }),
    healthOf: () => undefined,
    swarm: async () => ({ kind: "failed", code: "unavailable", message: "no shoald here" }),
    interfaces: () => [],
  });
  const env = { PATH: process.env["PATH"], HOME: home, DOCKER_HOST: `unix://${settings.socket}` };

  async function run(args: readonly string[], input?: Buffer): Promise<ClientResult> {
    const child = spawn("docker", args, { env, timeout: clientTimeoutMs, stdio: ["pipe", "pipe", "pipe"] });
    child.stdin.on("error", () => undefined); // It may end before it has read all of its input.
    child.stdin.end(input);
    const closed = once(child, "close") as Promise<[number | null]>;
    const [out, err] = await Promise.all([textOf(child.stdout), textOf(child.stderr)]);
    const [code] = await closed;
    return { code: code ?? -1, out, err };
  }

  return {
    run,
    async docker(...args) {
      const { code, out, err } = await run(args);
      if (code !== 0) throw new Error(`docker ${args.join(" ")}: ${code}: ${err}`);
      return out.replace(/\n$/, "");
    },
    async refused(...args) {
      const { code, out, err } = await run(args);
      if (code === 0) throw new Error(`docker ${args.join(" ")} did not fail: ${out}`);
      return err.trim();
    },
    async ask(method, path, body) {
      const headers = body === undefined ? {} : { "content-type": "application/json" };
      const request = httpRequest({ socketPath: settings.socket, method, path, headers });
      request.end(body === undefined ? undefined : JSON.stringify(body));
      const [response] = (await once(request, "response")) as [IncomingMessage];
      const text = await textOf(response);
      return { status: response.statusCode ?? 0, text, json: () => JSON.parse(text) as unknown };
    },
    close: () => door.close(),
  };
}

async function textOf(stream: NodeJS.ReadableStream): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces).toString("utf8");
}
