import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { existsSync } from "node:fs";
import { commonHeaders, splitVersion } from "../../../runtime/http.ts";
import { ask, type Harness } from "./harness.ts";

export interface DockerCli {
  /** Runs the client; never rejects. */
  run(...args: string[]): Promise<{ readonly code: number; readonly out: string; readonly err: string }>;
  /** "METHOD path" of each request since the last call. */
  requests(): string[];
  close(): Promise<void>;
}

export function hasDocker(): boolean {
  return (process.env["PATH"] ?? "").split(delimiter).some((folder) => existsSync(join(folder, "docker")));
}

const commandLimitMs = 30_000;

/** A front door as the worker has one: answers what belongs to the host, passes on the rest. */
export async function dockerCli(harness: Harness): Promise<DockerCli> {
  const folder = mkdtempSync(join(tmpdir(), "shoal-api-"));
  const managerSocket = join(folder, "manager.sock");
  const socket = join(folder, "shoal.sock");
  let seen: string[] = [];
  await harness.api.listen(managerSocket);

  async function front(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { url } = splitVersion(request.url ?? "/");
    seen.push(`${request.method} ${url}`);
    for (const [name, value] of Object.entries(commonHeaders)) response.setHeader(name, value);
    if (url === "/_ping") {
      response.setHeader("swarm", "active/manager");
      response.end();
    } else if (url === "/info") {
      const { json } = await ask(harness, "GET /shoal/v1/swarm-info");
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ ID: "x", Name: "m1", OSType: "linux", Swarm: json }));
    } else {
      const passed = httpRequest(
        { socketPath: managerSocket, method: request.method, path: request.url, headers: request.headers },
        (answer) => {
          response.writeHead(answer.statusCode ?? 500, answer.headers);
          answer.pipe(response);
        },
      );
      passed.on("error", () => response.destroy());
      request.pipe(passed);
    }
  }
  const server = createServer((request, response) => {
    front(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  return {
    run: (...args) =>
      new Promise((resolve) => {
        const env = { PATH: process.env["PATH"] ?? "", HOME: folder, DOCKER_CONFIG: folder };
        execFile(
          "docker",
          ["-H", `unix://${socket}`, ...args],
          { env, timeout: commandLimitMs },
          (error, out, err) => {
            resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : 1, out, err });
          },
        );
      }),
    requests() {
      const requests = seen;
      seen = [];
      return requests;
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await harness.api.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
