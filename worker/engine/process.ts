/** Command, environment, capabilities and limits of a container's process. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { ContainerSpec, Ulimit } from "../../model/service.ts";
import type { ImageConfig } from "./engine.ts";

export const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Docker's: enough for most services, without those that reach the host. */
export const defaultCapabilities = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
] as const;

/** All that Linux has (capability.h), in its order. */
const allCapabilities = [
  ..."CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE".split(" "),
  ..."NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO".split(" "),
  ..."SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME".split(" "),
  ..."SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG".split(" "),
  ..."WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split(" "),
].map((name) => `CAP_${name}`);

const ulimitNames = new Set(
  "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split(
    " ",
  ),
);

/**
 * The image's entrypoint and command under the spec's: a command of the spec replaces both, arguments
 * of the spec replace the image's command.
 *
 * @throws {ClusterError} `invalid-argument` "no command specified".
 */
export function commandOf(
  spec: Pick<ContainerSpec, "command" | "args">,
  image: Pick<ImageConfig, "entrypoint" | "cmd">,
): string[] {
  const entrypoint = spec.command.length > 0 ? spec.command : image.entrypoint;
  const inherited = spec.command.length > 0 ? [] : image.cmd;
  const args = [...entrypoint, ...(spec.args.length > 0 ? spec.args : inherited)];
  if (args.length === 0 || args[0] === "") throw new ClusterError("invalid-argument", "no command specified");
  return args;
}

/** Later lines win and keep the place of the first; a bare name removes the variable. */
export function environmentOf(layers: readonly (readonly string[])[]): string[] {
  const values = new Map<string, string>();
  for (const line of layers.flat()) {
    const equals = line.indexOf("=");
    if (equals < 0) values.delete(line);
    else values.set(line.slice(0, equals), line);
  }
  return [...values.values()];
}

/**
 * Docker's default, less the dropped, and the added. "ALL" stands for every one; the prefix "CAP_" may
 * be missing.
 *
 * @param kernelLast - Highest capability the kernel knows (/proc/sys/kernel/cap_last_cap).
 */
export function capabilitiesOf(
  add: readonly string[],
  drop: readonly string[],
  kernelLast: number,
): string[] {
  const known = allCapabilities.slice(0, kernelLast + 1);
  const added = new Set(add.map((name) => canonical(name, known)));
  const dropped = new Set(drop.map((name) => canonical(name, known)));
  const base: readonly string[] = added.has("ALL") ? known : dropped.has("ALL") ? [] : defaultCapabilities;
  const kept = base.filter((name) => !dropped.has(name) || added.has(name));
  const extra = [...added].filter((name) => name !== "ALL" && !kept.includes(name));
  return [...kept, ...extra];
}

/** @throws {ClusterError} `invalid-argument` for a limit Linux does not have. */
export function rlimitsOf(ulimits: readonly Ulimit[]): { type: string; soft: number; hard: number }[] {
  return ulimits.map(({ name, soft, hard }) => {
    if (!ulimitNames.has(name)) throw new ClusterError("invalid-argument", `invalid ulimit type: ${name}`);
    // -1 is "no limit"; the runtimes read it as an unsigned number, and JSON has none that large.
    return { type: `RLIMIT_${name.toUpperCase()}`, soft: unlimited(soft), hard: unlimited(hard) };
  });
}

/** RLIM_INFINITY as the largest number that travels whole through JSON; above any limit that is ever set. */
function unlimited(value: number): number {
  return value < 0 ? Number.MAX_SAFE_INTEGER : value;
}

function canonical(name: string, known: readonly string[]): string {
  const upper = name.toUpperCase();
  if (upper === "ALL" || upper === "CAP_ALL") return "ALL";
  const full = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (!known.includes(full))
    throw new ClusterError("invalid-argument", `invalid capability: ${JSON.stringify(name)}`);
  return full;
}
