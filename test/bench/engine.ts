/** What one host does with containers and images: our engine beside Docker's, on hosts of the lab, asked in turn. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { registryAddress } from "../lab/lan.ts";
import { run } from "../lab/shell.ts";
import { type Aim, type Comparison, withUnit } from "./comparison.ts";
import { EngineHost, type EngineName } from "./engine-host.ts";
import { withUndo } from "./interrupt.ts";
import { median } from "./report.ts";

export const engineParts = ["start", "run", "exec", "pull", "logs", "memory"] as const;
export type EnginePart = (typeof engineParts)[number];

export interface EngineBenchOptions {
  readonly parts: readonly EnginePart[];
  readonly rounds: number;
  /** No round begins that would, as long as the one before, end after this. */
  readonly minutes: number;
  readonly docker: "auto" | "never";
}

interface Measured {
  readonly what: string;
  readonly unit: string;
  readonly aim?: Aim;
}

const atMost = (limit: number): Aim => ({ of: "value", bound: "at most", limit });
const atLeast = (limit: number): Aim => ({ of: "value", bound: "at least", limit });
const shareAtMost = (limit: number): Aim => ({ of: "share", bound: "at most", limit });
const shareAtLeast = (limit: number): Aim => ({ of: "share", bound: "at least", limit });

const crowdOfMemory = 200;
const single = 20;
const imageMegabytes = 200;
const warmUp = 16;
const mebibyte = 2 ** 20;
const tarHeadBytes = 512;
const pushTimeoutMs = 120_000;
/** For the part that is under way when the time is over. */
const overtimeMs = 45_000;

/** In the order of the table. */
const figures = {
  start50: {
    what: "50 containers started, 8 at a time, bridged network",
    unit: "s",
    aim: shareAtMost(1 / 3),
  },
  start200: { what: "200 containers started in the same way", unit: "s", aim: shareAtMost(1 / 3) },
  startCpu50: { what: "processor time a start, of the 50", unit: "ms", aim: atMost(80) },
  startCpu200: { what: "processor time a start, of the 200", unit: "ms", aim: atMost(80) },
  remove50: { what: "the 50 removed (`rm -f`), 8 at a time", unit: "s" },
  remove200: { what: "the 200 removed", unit: "s" },
  removeCpu200: { what: "processor time a removal, of the 200", unit: "ms" },
  run: { what: "`docker run --rm … true`", unit: "ms", aim: shareAtMost(0.6) },
  runCpu: { what: "processor time of it, without the client", unit: "ms" },
  exec: { what: "`docker exec … true`", unit: "ms", aim: shareAtMost(1) },
  execCpu: { what: "processor time of it, without the client", unit: "ms" },
  pullNoise: {
    what: `pull of ${imageMegabytes} MB that do not compress`,
    unit: "MB/s",
    aim: shareAtLeast(1),
  },
  pullNoiseCpu: { what: "processor time of it", unit: "s" },
  pullLines: {
    what: `pull of ${imageMegabytes} MB that compress to a quarter`,
    unit: "MB/s",
    aim: shareAtLeast(1),
  },
  pullLinesCpu: { what: "processor time of it", unit: "s" },
  logs: { what: "output written by a container", unit: "MB/s", aim: atLeast(200) },
  logsFile: { what: "the same inside of it, by a pipe into a file: what the machine allows", unit: "MB/s" },
  logsCpu: { what: "processor time of 100 MB of output, the writer's included", unit: "ms" },
  memoryPrivate: {
    what: `private memory a container beside its own processes, with ${crowdOfMemory}`,
    unit: "MB",
    aim: atMost(0.6),
  },
  memoryDaemon: {
    what: `resident memory of worker, or dockerd, with ${crowdOfMemory} containers`,
    unit: "MiB",
    aim: atMost(150),
  },
} as const satisfies Record<string, Measured>;

type Figure = keyof typeof figures;
const figureNames = Object.keys(figures) as readonly Figure[];

const steps: Readonly<Record<EnginePart, (bench: EngineBench) => Promise<void>>> = {
  start: (bench) => bench.start(),
  run: (bench) => bench.run(),
  exec: (bench) => bench.exec(),
  pull: (bench) => bench.pull(),
  logs: (bench) => bench.logs(),
  memory: (bench) => bench.memory(),
};

/** Needs root and what the lab needs; Docker's column only where `docker.io` is installed. */
export async function benchEngine(
  options: EngineBenchOptions,
  say: (line: string) => void,
): Promise<readonly Comparison[]> {
  const isDockerThere = ["/usr/sbin", "/usr/bin"].some((path) => existsSync(join(path, "dockerd")));
  const withDocker = options.docker === "auto" && isDockerThere;
  if (!withDocker) say("bench: without Docker beside it: install docker.io for that");
  const names: readonly EngineName[] = withDocker ? ["shoal", "docker"] : ["shoal"];
  const endMs = performance.now() + options.minutes * 60_000;
  return withUndo(
    async () => {
      const hosts: EngineHost[] = [];
      for (const name of names) hosts.push(await EngineHost.up(name));
      const bench = new EngineBench(hosts, options.parts, say);
      await bench.prepare();
      const overMs = endMs - performance.now() + overtimeMs;
      await Promise.race([runRounds(bench, options, endMs, say), delay(overMs, undefined, { ref: false })]);
      return bench.table();
    },
    async () => {
      for (const name of names) await EngineHost.clear(name);
    },
  );
}

async function runRounds(
  bench: EngineBench,
  { parts, rounds }: EngineBenchOptions,
  endMs: number,
  say: (line: string) => void,
): Promise<void> {
  const tookMs = new Map<EnginePart, number>();
  for (let round = 1; round <= rounds; round += 1) {
    for (const part of parts) {
      const startMs = performance.now();
      if (startMs + (tookMs.get(part) ?? 0) > endMs) {
        say(`bench: no time for ${part} in round ${round}`);
        continue;
      }
      say(`bench: ${part}, round ${round} of ${rounds}`);
      await steps[part](bench);
      tookMs.set(part, performance.now() - startMs);
    }
  }
}

class EngineBench {
  readonly #hosts: readonly EngineHost[];
  readonly #parts: readonly EnginePart[];
  readonly #say: (line: string) => void;
  readonly #values = new Map<EngineHost, Map<Figure, number[]>>();

  constructor(hosts: readonly EngineHost[], parts: readonly EnginePart[], say: (line: string) => void) {
    this.#hosts = hosts;
    this.#parts = parts;
    this.#say = say;
    for (const host of hosts) this.#values.set(host, new Map());
  }

  /** Images that are needed, and so much use that nothing is done for the first time. */
  async prepare(): Promise<void> {
    if (this.#parts.includes("pull") || this.#parts.includes("logs")) await this.#pushImages();
    for (const host of this.#hosts) {
      await host.docker("pull", "-q", host.image("bb:1"));
      await host.removeContainers(await host.startContainers(warmUp));
      await host.docker("run", "--rm", host.image("bb:1"), "true");
    }
  }

  async start(): Promise<void> {
    for (const host of this.#hosts) {
      await this.#attempt(host, ["start50", "startCpu50", "remove50"], () => this.#crowd(host, 50));
      await this.#attempt(host, ["start200", "startCpu200", "remove200", "removeCpu200"], () =>
        this.#crowd(host, 200),
      );
    }
  }

  /** Is part of starting as many; on its own only where that is not asked for. */
  async memory(): Promise<void> {
    if (this.#parts.includes("start")) return;
    for (const host of this.#hosts) {
      await this.#attempt(host, ["memoryPrivate", "memoryDaemon"], () => this.#crowd(host, crowdOfMemory));
    }
  }

  async run(): Promise<void> {
    await this.#inTurn(["run", "runCpu"], (host) => host.docker("run", "--rm", host.image("bb:1"), "true"));
  }

  async exec(): Promise<void> {
    const ids = new Map<EngineHost, string>();
    for (const host of this.#hosts) {
      const said = await host.docker("run", "-d", host.image("bb:1"), "sleep", "100000");
      ids.set(host, said.trim());
    }
    await this.#inTurn(["exec", "execCpu"], (host) => host.docker("exec", ids.get(host) ?? "", "true"));
    for (const host of this.#hosts) await host.removeAllContainers();
  }

  async pull(): Promise<void> {
    for (const [image, rate, cpu] of [
      ["noise:1", "pullNoise", "pullNoiseCpu"],
      ["lines:1", "pullLines", "pullLinesCpu"],
    ] as const) {
      for (const host of this.#hosts) {
        await this.#attempt(host, [rate, cpu], async () => {
          await host.removeImage(image);
          const spent = await spending(host, () => host.docker("pull", "-q", host.image(image)));
          this.#note(host, rate, imageMegabytes / spent.seconds);
          this.#note(host, cpu, spent.cpuMs / 1_000);
        });
      }
    }
  }

  async logs(): Promise<void> {
    for (const host of this.#hosts) {
      await this.#attempt(host, ["logs", "logsFile", "logsCpu"], async () => {
        await host.docker("pull", "-q", host.image("lines:1"));
        const copied = await timedInside(host, "cat /data/* | cat >/copy");
        this.#note(host, "logsFile", imageMegabytes / copied.seconds);
        const written = await timedInside(host, "cat /data/*");
        this.#note(host, "logs", imageMegabytes / written.seconds);
        this.#note(host, "logsCpu", (written.cpuMs / imageMegabytes) * 100);
      });
    }
  }

  table(): readonly Comparison[] {
    const [ours, theirs] = this.#hosts;
    const of = (host: EngineHost | undefined, name: Figure): number | undefined => {
      const values = host === undefined ? undefined : this.#values.get(host)?.get(name);
      return values === undefined ? undefined : median(values);
    };
    return figureNames.flatMap((name) => {
      const [value, other] = [of(ours, name), of(theirs, name)];
      if (value === undefined) return [];
      const beside = other === undefined ? {} : { beside: { what: theirs?.title ?? "", value: other } };
      return [{ ...figures[name], value, ...beside }];
    });
  }

  /** Starts so many containers, looks at the memory of the engine where that is asked for, and removes them. */
  async #crowd(host: EngineHost, count: 50 | 200): Promise<void> {
    const privateBytes = await host.privateBytes();
    let ids: readonly string[] = [];
    const started = await spending(host, async () => {
      ids = await host.startContainers(count);
    });
    const isTimed = this.#parts.includes("start");
    if (isTimed) {
      this.#note(host, `start${count}`, started.seconds);
      this.#note(host, `startCpu${count}`, started.cpuMs / count);
    }
    if (count === crowdOfMemory && this.#parts.includes("memory")) {
      const more = (await host.privateBytes()) - privateBytes;
      this.#note(host, "memoryPrivate", more / count / 1e6);
      this.#note(host, "memoryDaemon", (await host.daemonBytes()) / mebibyte);
    }
    const removed = await spending(host, () => host.removeContainers(ids));
    if (!isTimed) return;
    this.#note(host, `remove${count}`, removed.seconds);
    if (count === 200) this.#note(host, "removeCpu200", removed.cpuMs / count);
  }

  /** One host after the other, again and again. */
  async #inTurn(
    [time, cpu]: readonly [Figure, Figure],
    work: (host: EngineHost) => Promise<unknown>,
  ): Promise<void> {
    const all = new Map(this.#hosts.map((host) => [host, { seconds: [] as number[], cpuMs: 0 }]));
    for (let index = 0; index < single; index += 1) {
      for (const [host, sum] of all) {
        const spent = await spending(host, () => work(host));
        sum.seconds.push(spent.seconds);
        sum.cpuMs += spent.cpuMs;
      }
    }
    for (const [host, { seconds, cpuMs }] of all) {
      this.#note(host, time, median(seconds) * 1_000);
      this.#note(host, cpu, cpuMs / single);
    }
  }

  /** What fails costs its own figures, and no others. */
  async #attempt(host: EngineHost, names: readonly Figure[], work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#say(`bench: ${host.title}: ${String(error)}`);
      for (const name of names) this.#note(host, name, Number.NaN);
      await host.removeAllContainers().catch((reason: unknown) => this.#say(`bench: ${String(reason)}`));
    }
  }

  #note(host: EngineHost, name: Figure, value: number): void {
    const values = this.#values.get(host);
    values?.set(name, [...(values.get(name) ?? []), value]);
    this.#say(`  ${host.title}: ${figures[name].what}: ${withUnit(value, figures[name].unit)}`);
  }

  /** Into the first host's registry; the other's gets the same files. */
  async #pushImages(): Promise<void> {
    const [first, ...others] = this.#hosts;
    if (first === undefined) return;
    this.#say(`bench: making two images of ${imageMegabytes} MB`);
    const push = fileURLToPath(new URL("engine-images.js", import.meta.url));
    await first.lab.lan.run([process.execPath, push, registryAddress], { timeoutMs: pushTimeoutMs });
    for (const { lab } of others) {
      await run(["cp", "-r", "--no-clobber", `${first.lab.dir}/registry`, lab.dir], {
        timeoutMs: pushTimeoutMs,
      });
    }
  }
}

interface Spent {
  readonly seconds: number;
  /** Of everything on the host. */
  readonly cpuMs: number;
}

async function spending(host: EngineHost, work: () => Promise<unknown>): Promise<Spent> {
  const [cpuMs, startMs] = [await host.processorMs(), performance.now()];
  await work();
  const seconds = (performance.now() - startMs) / 1_000;
  return { seconds, cpuMs: (await host.processorMs()) - cpuMs };
}

/** Runs a command in a container of the image of lines, which itself looks at the clock before and after. */
async function timedInside(host: EngineHost, command: string): Promise<Spent> {
  const clock = "cut -d' ' -f1 /proc/uptime >>/times";
  // Read once before, so that neither measures the disk.
  const script = `cat /data/* >/dev/null; ${clock}; ${command}; ${clock}`;
  const id = (await host.docker("create", host.image("lines:1"), "sh", "-c", script)).trim();
  const { cpuMs } = await spending(host, async () => {
    await host.docker("start", id);
    await host.docker("wait", id);
  });
  const archive = await host.docker("cp", `${id}:/times`, "-");
  const [from = Number.NaN, to = Number.NaN] = archive.slice(tarHeadBytes).split("\n").map(Number);
  await host.docker("rm", id);
  return { seconds: to - from, cpuMs };
}
