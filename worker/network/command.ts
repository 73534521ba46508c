/** How the kernel's tools (`ip`, `bridge`, `nft`, …) are run: as children of this process, or by a `Launcher`. */
import { spawn } from "node:child_process";

import { ClusterError } from "../../model/errors.ts";

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a command to its end; a code other than 0 is a result, not a failure.
 *
 * @throws {ClusterError} `unavailable` when there is no such program, naming its package;
 *   `deadline-exceeded` when it did not end in time.
 */
export type Run = (argv: readonly string[], input?: string) => Promise<CommandResult>;

export const commandTimeoutMs = 30_000;
export const maxOutputBytes = 64 * 1024 * 1024;
const maxErrorBytes = 256 * 1024;

/** The Debian package that each program comes from. */
const packages: Readonly<Record<string, string>> = {
  ip: "iproute2",
  bridge: "iproute2",
  nft: "nftables",
  conntrack: "conntrack",
  setsid: "util-linux",
  unshare: "util-linux",
  nsenter: "util-linux",
  ping: "iputils-ping",
  iptables: "iptables",
  ip6tables: "iptables",
  wg: "wireguard-tools",
  "wireguard-go": "wireguard-go",
  umount: "mount",
  mount: "mount",
};

export const runCommand: Run = (argv, input) =>
  new Promise((resolve, reject) => {
    const [program = "", ...rest] = argv;
    const child = spawn(program, rest, { stdio: ["pipe", "pipe", "pipe"] });
    const stdout = collect(maxOutputBytes);
    const stderr = collect(maxErrorBytes);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, commandTimeoutMs);
    child.stdout.on("data", (chunk: Buffer) => stdout.add(chunk));
    child.stderr.on("data", (chunk: Buffer) => stderr.add(chunk));
    child.stdin.on("error", () => undefined); // It ended before reading; its exit code tells why.
    child.stdin.end(input ?? "");
    child.on("error", (cause) => {
      clearTimeout(timer);
      reject(startFailure(program, cause));
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      if (late) reject(lateFailure(argv, commandTimeoutMs));
      else if (stdout.overflowed()) reject(overflowFailure(argv));
      else {
        resolve({ code: code ?? 128, stdout: stdout.text(), stderr: stderr.text() });
      }
    });
  });

/** Runs a command that must succeed. `doing` completes "cannot …". */
export async function must(
  run: Run,
  doing: string,
  argv: readonly string[],
  input?: string,
): Promise<string> {
  const result = await run(argv, input);
  if (result.code === 0) return result.stdout;
  const text = result.stderr.trim() || `${argv[0]} ended with code ${result.code}`;
  throw new ClusterError("internal", `cannot ${doing}: ${text}`);
}

export function lateFailure(argv: readonly string[], timeoutMs: number): ClusterError {
  return new ClusterError("deadline-exceeded", `${argv.join(" ")} did not end within ${timeoutMs / 1000} s`);
}

export function overflowFailure(argv: readonly string[]): ClusterError {
  return new ClusterError(
    "resource-exhausted",
    `${argv.join(" ")} printed more than ${maxOutputBytes} bytes`,
  );
}

export function startFailure(program: string, cause: Error & { code?: string }): ClusterError {
  if (cause.code !== "ENOENT") {
    return new ClusterError("internal", `cannot run ${program}: ${cause.message}`, { cause });
  }
  const name = packages[program];
  const advice = name === undefined ? "" : `; on Debian: apt-get install ${name}`;
  return new ClusterError(
    "unavailable",
    `cannot run ${program}: there is no such program on the PATH${advice}`,
    {
      cause,
    },
  );
}

function collect(maxBytes: number): {
  add(chunk: Buffer): void;
  text(): string;
  overflowed(): boolean;
} {
  const chunks: Buffer[] = [];
  let bytes = 0;
  return {
    add(chunk) {
      bytes += chunk.length;
      if (bytes <= maxBytes) chunks.push(chunk);
    },
    text: () => Buffer.concat(chunks).toString(),
    overflowed: () => bytes > maxBytes,
  };
}
