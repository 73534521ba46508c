import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Host } from "../lab/lab.ts";
import { run, tryRun, type RunOptions, type RunResult } from "../lab/shell.ts";
import { bundledFile } from "../../runtime/programs.ts";

/** A command line client of the cluster; `docker` and `shoal` take the same words. */
export interface Client {
  readonly name: "docker" | "shoal";
  /** Why it cannot be used here, or `false`: what a test takes as its `skip`. */
  readonly missing: string | false;
  /** Runs it against a host's socket; fails the test with its output when its exit code is not 0. */
  run(host: Host, args: readonly string[], options?: RunOptions): Promise<string>;
  /** The same, but any exit code is an answer. */
  try(host: Host, args: readonly string[], options?: RunOptions): Promise<RunResult>;
}

const shoalMain = fileURLToPath(bundledFile("shoal"));
const dockerPath = (process.env["PATH"] ?? "")
  .split(":")
  .map((directory) => join(directory, "docker"))
  .find((path) => existsSync(path));

export const docker = client(
  "docker",
  dockerPath === undefined ? undefined : [dockerPath],
  "no docker client on PATH",
);
export const shoal = client(
  "shoal",
  existsSync(shoalMain) ? [process.execPath, shoalMain] : undefined,
  "the shoal client is not built",
);
export const clients: readonly Client[] = [docker, shoal];

/** For tests in which it does not matter which client asks: Docker's where it is installed. */
export const anyClient: Client = docker.missing === false ? docker : shoal;

function client(name: Client["name"], argv: readonly string[] | undefined, missing: string): Client {
  const inHost = (host: Host, options: RunOptions): RunOptions => ({
    timeoutMs: 60_000,
    ...options,
    // A configuration of the person who runs the tests must not point the client elsewhere.
    env: { DOCKER_HOST: `unix://${host.socket}`, DOCKER_CONTEXT: "", ...options.env },
  });
  const words = argv ?? [name];
  return {
    name,
    missing: argv === undefined ? missing : false,
    run: (host, args, options = {}) => run([...words, ...args], inHost(host, options)),
    try: (host, args, options = {}) => tryRun([...words, ...args], inHost(host, options)),
  };
}
