/**
 * A containerd and a registry of a test's own: own mount and network namespace, own directories,
 * sockets and cgroup. Everything it makes is below one temporary directory and goes with `stop`.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmdirSync, statfsSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { findBinary } from "../../daemon/flags.ts";
import { ReadOnlyRuntime } from "../../daemon/read-only-runtime.ts";
import { containerdEnvironment, installShim } from "../../daemon/shim.ts";
import {
  type EngineDeps,
  type EngineSettings,
  openContainerdEngine,
} from "../../worker/engine/containerd.ts";
import type { Engine } from "../../worker/engine/engine.ts";
import type { LocalEngine } from "../../worker/engine/local.ts";
import type { HostSettings } from "../../proto/host.ts";
import { systemClock } from "../../runtime/clock.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";

const insideVariable = "SHOAL_TEST_NAMESPACES";
const readyMs = 15_000;
const registryPort = 5000;

/**
 * Runs the calling test file again inside a mount and a network namespace of its own, where crun finds
 * pure cgroups v1 or v2 and loopback is private. True inside; outside it ends the process with the
 * result of the run inside.
 */
export function insideNamespaces(moduleUrl: string): boolean {
  if (process.env[insideVariable] === "yes") return true;
  // crun makes files where the unmounted tree was; a tmpfs of this namespace lets them go with it.
  const script = `
if grep -q ' /sys/fs/cgroup/unified ' /proc/self/mounts; then
  umount /sys/fs/cgroup/unified && mount -t tmpfs tmpfs /sys/fs/cgroup/unified || exit 1
fi
ip link set lo up && exec "$@"`;
  const args = [
    "-m",
    "-n",
    "--propagation",
    "slave",
    "sh",
    "-c",
    script,
    "sh",
    process.execPath,
    fileURLToPath(moduleUrl),
    ...process.argv.slice(2),
  ];
  const { status, signal, error } = spawnSync("unshare", args, {
    stdio: "inherit",
    env: { ...process.env, [insideVariable]: "yes" },
  });
  if (error !== undefined) throw error;
  if (signal !== null) throw new Error(`the test in its namespaces was ended by ${signal}`);
  process.exit(status ?? 1);
}

export interface TestHost {
  readonly directory: string;
  readonly settings: EngineSettings;
  /** "127.0.0.1:5000", inside the namespace only. */
  readonly registry: string;
  /** What the engine warned of, in order. */
  readonly warnings: string[];
  openEngine(): Promise<LocalEngine>;
  killContainerd(): Promise<void>;
  startContainerd(): Promise<void>;
  /** Process ids of the shims of this containerd, or of one container's. */
  shims(containerId?: string): number[];
  stop(): Promise<void>;
}

/** What shoald would tell the worker of such a host. */
export function hostSettings(host: Pick<TestHost, "settings" | "directory">): HostSettings {
  return {
    ...host.settings,
    socket: join(host.directory, "shoal.sock"),
    managerSocket: join(host.directory, "manager.sock"),
    engineLabels: {},
    bridgeSubnet: "172.31.0.0/16",
    natsServer: "nats-server",
    logLevel: "warn",
  };
}

/**
 * @param name - Makes directory and cgroup; what a crashed run of the same name left is removed first.
 * @param options - "another's": of a host that was started before, in the same namespaces.
 */
export async function startTestHost(
  name: string,
  options: { readonly registry: "own" | "another's" } = { registry: "own" },
): Promise<TestHost> {
  const directory = join(tmpdir(), `shoal-test-${name}`);
  const cgroupParent = `/shoal-test-${name}`;
  const socket = join(directory, "containerd.sock");
  const containerdRoot = join(directory, "root");
  const settings: EngineSettings = {
    stateDir: join(directory, "state"),
    runDir: join(directory, "run"),
    hostname: "testhost",
    containerd: socket,
    containerdRoot,
    runtime: "crun",
    runtimeRoot: join(directory, "runtime"),
    cgroupParent,
    insecureRegistries: [],
    registryCertificates: [join(directory, "certs.d")],
  };
  const warnings: string[] = [];
  const deps: EngineDeps = {
    clock: systemClock,
    random: systemRandom,
    warn: (message, error) => void warnings.push(`${message}: ${String(error)}`),
  };
  await clear();
  await mkdir(directory, { recursive: true });
  let containerd: ChildProcess | undefined;
  let registry: ChildProcess | undefined;
  const engines = new Set<Engine>();
  const programs = join(directory, "bin");
  const runtime = new ReadOnlyRuntime(findBinary("crun") ?? "", programs, createLog("test", "warn"));
  const host: TestHost = {
    directory,
    settings,
    registry: `127.0.0.1:${registryPort}`,
    warnings,

    async openEngine() {
      const engine = await openContainerdEngine(deps, settings);
      engines.add(engine);
      return engine;
    },

    async killContainerd() {
      await end(containerd, "SIGKILL");
      containerd = undefined;
    },

    async startContainerd() {
      const config = join(directory, "containerd.toml");
      await writeFile(config, 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n');
      const paths = ["--root", containerdRoot, "--state", join(directory, "containerd"), "--address", socket];
      installShim(programs, findBinary("containerd") ?? "", settings);
      await runtime.look();
      containerd = start("containerd", ["--config", config, "--log-level", "warn", ...paths]);
      await reachable({ path: socket }, "containerd", containerd);
    },

    shims(containerId) {
      return ownProcesses("containerd-shim", containerId);
    },

    async stop() {
      for (const engine of engines) await engine.close();
      await end(containerd, "SIGKILL");
      await end(registry, "SIGKILL");
      await clear();
    },
  };
  try {
    await host.startContainerd();
    if (options.registry === "own") registry = await startRegistry();
    return host;
  } catch (error) {
    await host.stop();
    throw error;
  }

  async function startRegistry(): Promise<ChildProcess> {
    const config = join(directory, "registry.yml");
    const lines = [
      "version: 0.1",
      "log: { level: error, accesslog: { disabled: true } }",
      `storage: { filesystem: { rootdirectory: ${join(directory, "registry")} } }`,
      `http: { addr: "127.0.0.1:${registryPort}" }`,
    ];
    await writeFile(config, `${lines.join("\n")}\n`);
    const child = start("docker-registry", ["serve", config]);
    await reachable({ host: "127.0.0.1", port: registryPort }, "docker-registry", child);
    return child;
  }

  function start(command: string, args: string[]): ChildProcess {
    const log = openSync(join(directory, `${command}.log`), "a");
    const env = containerdEnvironment(programs);
    const child = spawn(command, args, { env, stdio: ["ignore", log, log] });
    closeSync(log);
    return child;
  }

  async function clear(): Promise<void> {
    for (const program of ["containerd-shim", "containerd", "docker-registry"]) {
      for (const pid of ownProcesses(program)) killQuietly(pid);
    }
    await cgroupEmptied();
    for (const line of (await readFile("/proc/self/mountinfo", "utf8")).split("\n")) {
      const target = line.split(" ")[4] ?? "";
      if (target.startsWith(`${directory}/`)) spawnSync("umount", ["-l", target]);
    }
    await rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }

  /** Processes whose command line names this test's directory, and the argument if one is given. */
  function ownProcesses(program: string, argument?: string): number[] {
    return readdirSync("/proc")
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number)
      .filter((pid) => {
        const [path = "", ...args] = textOf(`/proc/${pid}/cmdline`).split("\0");
        return (
          (path.split("/").at(-1) ?? "").startsWith(program) &&
          args.some((arg) => arg.startsWith(`${directory}/`)) &&
          (argument === undefined || args.includes(argument))
        );
      });
  }

  /** Ends what still runs in the containers and removes their cgroups. */
  async function cgroupEmptied(): Promise<void> {
    const base = "/sys/fs/cgroup";
    const trees = [base, ...readdirSync(base).map((entry) => join(base, entry))].map((path) =>
      join(path, cgroupParent),
    );
    for (const tree of trees.filter((path) => isCgroup(path))) {
      for (let attempt = 0; attempt < 50; attempt++) {
        const groups = [...readdirSync(tree, { withFileTypes: true })]
          .filter((entry) => entry.isDirectory())
          .map((entry) => join(tree, entry.name));
        for (const group of groups) {
          for (const pid of textOf(join(group, "cgroup.procs")).split("\n"))
            if (pid !== "") killQuietly(Number(pid));
          rmdirQuietly(group);
        }
        if (rmdirQuietly(tree)) break;
        await systemClock.sleep(50);
      }
    }
  }
}

/** What containerd keeps on the disk. */
export function containerdBytes({ directory }: Pick<TestHost, "directory">): number {
  return Number.parseInt(
    execFileSync("du", ["-s", "-B1", join(directory, "root")], { encoding: "utf8" }),
    10,
  );
}

async function reachable(
  address: { path: string } | { host: string; port: number },
  what: string,
  child: ChildProcess,
): Promise<void> {
  const deadlineMs = Date.now() + readyMs;
  while (Date.now() < deadlineMs) {
    if (child.exitCode !== null) throw new Error(`${what} ended with code ${child.exitCode}`);
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(address);
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
    if (open) return;
    await systemClock.sleep(20);
  }
  throw new Error(`${what} did not answer within ${readyMs} ms`);
}

function end(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    child.kill(signal);
  });
}

/** Whether a path is in a tree of the kernel's (v1 or v2): numbers in files elsewhere are nobody's processes. */
function isCgroup(path: string): boolean {
  return existsSync(path) && [0x27e0eb, 0x63677270].includes(statfsSync(path).type);
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // Gone already.
  }
}

function rmdirQuietly(path: string): boolean {
  try {
    rmdirSync(path);
    return true;
  } catch {
    return !existsSync(path);
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
