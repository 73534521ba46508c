/** Opens the host's network: finds what a former process left, keeps what is whole, sweeps the rest. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import type { Run } from "./command.ts";
import { KernelNetwork } from "./host.ts";
import { Journal } from "./journal.ts";
import { Launcher } from "./launcher.ts";
import { Namespaces } from "./namespace.ts";
import type { WantedNetworks } from "./network.ts";
import type { HostNetworkSettings } from "./parts.ts";
import { PublishedPorts } from "./ports.ts";
import { withoutIngressIpv6 } from "./views.ts";

export type { HostNetworkSettings } from "./parts.ts";

export interface HostNetworkDeps {
  readonly clock: Clock;
  readonly random: Random;
  /** Trouble that fails no call, for the log. */
  readonly warn: (text: string) => void;
  /** How commands are run; default: by a launcher, which ends with the network. */
  readonly run?: Run;
}

/**
 * What a former process left is in place when this settles, and brought in line after that: the node is heard meanwhile.
 *
 * The process must be in the host's own network namespace. Namespaces of tasks are bind mounts in
 * `<runDir>/netns`, a shared mount: see README.md for what that asks of containerd.
 *
 * @throws {ClusterError} `unavailable` when `ip`, `nft`, … are missing, naming the package;
 *   `internal` when the directories cannot be used.
 */
export async function openHostNetwork(
  deps: HostNetworkDeps,
  settings: HostNetworkSettings,
  signal: AbortSignal,
): Promise<KernelNetwork> {
  const launcher = new Launcher(join(settings.runDir, "network", "tools"));
  try {
    return await openOver({ ...deps, run: deps.run ?? launcher.run }, launcher, settings, signal);
  } catch (error) {
    launcher[Symbol.dispose]();
    throw error;
  }
}

async function openOver(
  { clock, random, warn, run }: Required<HostNetworkDeps>,
  launcher: Disposable,
  settings: HostNetworkSettings,
  signal: AbortSignal,
): Promise<KernelNetwork> {
  await Promise.all(
    [
      ["ip", "-V"],
      ["bridge", "-V"],
      ["nft", "--version"],
      ["unshare", "--version"],
    ].map((argv) => run(argv)),
  );
  const journal = new Journal(join(settings.runDir, "network"));
  const namespaces = new Namespaces({
    run,
    directory: join(settings.runDir, "netns"),
    hostNamespace: `/proc/${process.pid}/ns/net`,
  });
  const { records, broken } = await journal.open();
  await namespaces.open();
  signal.throwIfAborted();

  const present = await namespaces.list();
  const mounted = new Set(present.filter((entry) => entry.mounted).map(({ taskId }) => taskId));
  const whole = records.filter(({ state, attached, request }) => {
    return state === "attached" && (attached.kind === "host" || mounted.has(request.taskId));
  });
  const kept = new Set(whole.map(({ request }) => request.taskId));
  const leftovers = new Set([
    ...broken,
    ...records.map(({ request }) => request.taskId),
    ...present.map(({ taskId }) => taskId),
  ]);
  for (const taskId of kept) leftovers.delete(taskId);
  await namespaces.remove([...leftovers]);
  for (const taskId of leftovers) await journal.remove(taskId);

  const ports = new PublishedPorts();
  const fit = (wanted: WantedNetworks): WantedNetworks =>
    existsSync("/proc/sys/net/ipv6") ? wanted : withoutIngressIpv6(wanted);
  const left = await journal.readWanted();
  const network = new KernelNetwork(
    {
      clock,
      random,
      run,
      warn,
      settings: { resolvConf: "/etc/resolv.conf", hosts: "/etc/hosts", bridges: [], tunnel: {}, ...settings },
      readText: (path) => readFile(path, "utf8").catch(() => ""),
      journal,
      namespaces,
      ports,
      launcher,
      fit,
    },
    whole,
    left && fit(left),
  );
  await network.open();
  return network;
}
