import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { ClusterError, errorText } from "../model/errors.ts";
import { systemClock } from "../runtime/clock.ts";
import { createLog } from "../runtime/log.ts";
import { systemRandom } from "../runtime/random.ts";
import { superviseContainerd } from "./containerd.ts";
import { type DaemonSettings, findBinary, parseFlags } from "./flags.ts";
import { loadIdentity } from "./identity.ts";
import { lockDirectories } from "./locks.ts";
import { Shoald } from "./shoald.ts";

/** What shoald cannot do without: the program, and the Debian package that brings it. */
const requirements = [
  { program: "ip", debianPackage: "iproute2" },
  { program: "nft", debianPackage: "nftables" },
  { program: "nsenter", debianPackage: "util-linux" },
] as const;

/** For one that is just ending. */
const lockWaitMs = 2_000;

async function main(): Promise<void> {
  // Whoever starts us may have a user's PATH; the programs that our children call are the system's.
  process.env["PATH"] = [process.env["PATH"] ?? "", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":");
  const settings = parseFlags(process.argv.slice(2), ownVersion());
  const { host } = settings;
  const binaries = check(settings);
  await mkdir(host.stateDir, { recursive: true, mode: 0o711 });
  await mkdir(host.runDir, { recursive: true, mode: 0o711 });
  await mkdir(dirname(host.socket), { recursive: true });
  const lock = await lockDirectories(host, lockWaitMs);
  const log = createLog("shoald", host.logLevel);
  process.off("unhandledRejection", fail);
  process.on("unhandledRejection", (error) =>
    log.error({ error }, "a rejection was not handled; this is a bug"),
  );
  const stored = await loadIdentity(host.stateDir);
  const deps = { clock: systemClock, random: systemRandom, log, settings: host };
  const containerd = settings.ownContainerd
    ? superviseContainerd(deps, host, binaries.containerd)
    : undefined;
  const shoald = new Shoald(deps, stored);
  let stopping = false;
  const stop = (signal: string) => {
    if (stopping) return;
    stopping = true;
    log.info({ signal }, "stopping; containers keep running");
    void Promise.allSettled([containerd?.stop(), shoald.stop()]).finally(() => {
      void lock.close();
      process.exit(0);
    });
  };
  process.once("SIGTERM", () => stop("SIGTERM"));
  process.once("SIGINT", () => stop("SIGINT"));
}

/** Everything that can be known to be missing before anything is started. */
function check({ host, ownContainerd }: DaemonSettings): { containerd: string } {
  if (process.geteuid?.() !== 0) {
    throw new ClusterError(
      "permission-denied",
      "cannot run containers: shoald needs root; start it with sudo or from systemd",
    );
  }
  if (findBinary(host.runtime) === undefined && host.runtime !== "crun" && host.runtime !== "runc") {
    throw new ClusterError(
      "invalid-argument",
      `cannot find --runtime ${host.runtime}: give auto, crun, runc or a path`,
    );
  }
  const wanted = [
    ...requirements,
    { program: host.runtime, debianPackage: host.runtime },
    { program: host.natsServer, debianPackage: "nats-server" },
    ...(ownContainerd ? [{ program: "containerd", debianPackage: "containerd" }] : []),
  ];
  const missing = wanted.filter(({ program }) => findBinary(program) === undefined);
  if (missing.length > 0) {
    const programs = missing.map(({ program }) => program).join(", ");
    const packages = missing.map(({ debianPackage }) => debianPackage).join(" ");
    throw new ClusterError(
      "failed-precondition",
      `cannot find ${programs}; on Debian: apt-get install --no-install-recommends ${packages}`,
    );
  }
  return { containerd: findBinary("containerd") ?? "containerd" };
}

function ownVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

function fail(reason: unknown): never {
  process.stderr.write(`shoald: ${errorText(reason)}\n`);
  process.exit(1);
}

process.on("unhandledRejection", fail);
main().catch(fail);
