import { existsSync } from "node:fs";
import { join } from "node:path";
import { Lab, type LabOptions } from "../lab/lab.ts";
import { drive, type DriveOptions, type Figures } from "./drive.ts";
import { medians, type Column } from "./report.ts";

export interface ClusterBenchOptions extends DriveOptions {
  readonly managers: number;
  readonly workers: number;
  readonly rounds: number;
  /** `auto`: when its daemon is installed. */
  readonly docker: "auto" | "only" | "never";
}

type Contender = { readonly title: string; readonly lab: LabOptions };

/** Measures our cluster and Docker's, each round in fresh ones, one after the other. */
export async function benchCluster(
  options: ClusterBenchOptions,
  say: (line: string) => void,
): Promise<Column[]> {
  const size = { managers: options.managers, workers: options.workers };
  const ours: Contender = { title: "Shoal", lab: { ...size, name: "b-shoal" } };
  const theirs: Contender = { title: "Docker Swarm", lab: { ...size, name: "b-docker", payload: "dockerd" } };
  const withDocker = options.docker === "only" || (options.docker === "auto" && dockerdInstalled());
  if (!withDocker) say("bench: without Docker Swarm beside it: install docker.io for that");
  const contenders = options.docker === "only" ? [theirs] : withDocker ? [ours, theirs] : [ours];
  const rounds = new Map<Contender, Figures[]>(contenders.map((contender) => [contender, []]));
  for (let round = 1; round <= options.rounds; round++) {
    for (const contender of contenders) {
      say(`bench: ${contender.title}, round ${round} of ${options.rounds}`);
      rounds.get(contender)?.push(await measure(contender, options, say));
    }
  }
  return contenders.map((contender) => ({
    title: contender.title,
    figures: medians(rounds.get(contender) ?? []),
  }));
}

async function measure(
  contender: Contender,
  options: DriveOptions,
  say: (line: string) => void,
): Promise<Figures> {
  const start = performance.now();
  const lab = await Lab.up(contender.lab);
  try {
    const up = (performance.now() - start) / 1000;
    say(`  up_s ${up.toFixed(3)}`);
    const idle = await idleMemory(lab);
    for (const [name, mib] of Object.entries(idle)) say(`  ${name} ${mib.toFixed(0)}`);
    const figures = await drive(lab.clusterFile(), options, (name, seconds) =>
      say(`  ${name} ${seconds.toFixed(3)}`),
    );
    return { up_s: up, ...figures, ...idle };
  } finally {
    await lab.down();
  }
}

/** Resident memory of the largest process of each kind, in MiB, before any service exists. */
async function idleMemory(lab: Lab): Promise<Figures> {
  const largest: Record<string, number> = {};
  for (const host of lab.hosts) {
    for (const [name, info] of Object.entries(await host.ownProcesses())) {
      const key = `rss_idle_${name.replaceAll("-", "_")}_mib`;
      largest[key] = Math.max(largest[key] ?? 0, info.rssBytes / 2 ** 20);
    }
  }
  return largest;
}

function dockerdInstalled(): boolean {
  const directories = [...(process.env["PATH"] ?? "").split(":"), "/usr/sbin"];
  return directories.some((directory) => existsSync(join(directory, "dockerd")));
}
