import { Command, InvalidArgumentError } from "commander";
import { call } from "./api.ts";
import { guide } from "./guide.ts";
import { clearLab, hostProcesses, Lab, labPlace, type HostProcess } from "./lab.ts";
import { type NodeSummary, nodeOfHost } from "./swarm.ts";

interface PlaceOptions {
  readonly name?: string;
  readonly dir?: string;
}

interface UpOptions extends PlaceOptions {
  readonly managers: number;
  readonly workers: number;
  readonly bare?: boolean;
}

process.stdout.on("error", () => process.exit()); // as when piped into head

const program = new Command("lab").description(
  "several hosts on one machine, and the faults they can suffer",
);

command("up", "bring up the hosts and make a swarm of them")
  .option("--managers <n>", "how many managers", parseCount, 3)
  .option("--workers <n>", "how many workers", parseCount, 2)
  .option("--bare", "run only a containerd on each host")
  .action(async (options: UpOptions) => {
    const start = performance.now();
    const payload = options.bare === true ? "containerd" : "shoald";
    const lab = await Lab.up({ ...options, payload, onStep: (step) => console.log(`lab: ${step}`) });
    console.log(
      `lab: up in ${((performance.now() - start) / 1000).toFixed(1)} s; see ${lab.dir}/cluster.json`,
    );
    await printStatus(lab);
    if (payload === "shoald") console.log(`lab: to go on:\n${guide(lab)}`);
  });

command("status", "show the hosts, their processes and what the swarm says of them").action(
  async (options: PlaceOptions) => printStatus(await Lab.open(options)),
);

command("down", "remove everything the lab has made").action(async (options: PlaceOptions) => {
  const lab = await Lab.open(options).catch(() => undefined); // a crashed `up` left no cluster.json
  await clearLab(lab ?? labPlace(options));
});

hostCommand("kill", "cut the power: the host and its containers are gone at once").action(
  async (host: string, options: PlaceOptions) => (await Lab.open(options)).host(host).kill(),
);
hostCommand("restart", "boot the host again with its disk").action(
  async (host: string, options: PlaceOptions) => {
    const lab = await Lab.open(options);
    await lab.restart(lab.host(host));
  },
);
hostCommand("pause", "stop all its processes where they are").action(
  async (host: string, options: PlaceOptions) => (await Lab.open(options)).host(host).pause(),
);
hostCommand("resume", "let its processes go on").action(async (host: string, options: PlaceOptions) =>
  (await Lab.open(options)).host(host).resume(),
);
hostCommand("cut", "cut the wire between it and one other, or all")
  .argument("[other]")
  .action(async (host: string, other: string | undefined, options: PlaceOptions) => {
    const lab = await Lab.open(options);
    await lab.cut(lab.host(host), other === undefined ? undefined : lab.host(other));
  });
hostCommand("cut-one-way", "drop what it sends to one other, or to all")
  .argument("[other]")
  .action(async (host: string, other: string | undefined, options: PlaceOptions) => {
    const lab = await Lab.open(options);
    await lab.cutOneWay(lab.host(host), other === undefined ? undefined : lab.host(other));
  });
command("heal", "heal its cuts, or all")
  .argument("[host]")
  .action(async (host: string | undefined, options: PlaceOptions) => {
    const lab = await Lab.open(options);
    await lab.heal(host === undefined ? undefined : lab.host(host));
  });
hostCommand("kill-process", "kill -9 one process of ours there")
  .argument("<process>", hostProcesses.join(", "), parseProcess)
  .action(async (host: string, name: HostProcess, options: PlaceOptions) => {
    const pid = await (await Lab.open(options)).host(host).signalProcess(name);
    console.log(`killed ${name} of ${host}, pid ${pid}`);
  });

try {
  await program.parseAsync();
} catch (error) {
  console.error(`lab: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function command(name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option("--name <name>", "which lab, where several are up")
    .option("--dir <dir>", "its directory");
}

function hostCommand(name: string, description: string): Command {
  return command(name, description).argument("<host>", "host1, host2, …");
}

function parseCount(value: string): number {
  if (!/^\d{1,2}$/.test(value)) throw new InvalidArgumentError("a number from 0 to 99 is accepted.");
  return Number(value);
}

function parseProcess(value: string): HostProcess {
  const found = hostProcesses.find((name) => name === value);
  if (found === undefined) throw new InvalidArgumentError(`accepted: ${hostProcesses.join(", ")}.`);
  return found;
}

async function printStatus(lab: Lab): Promise<void> {
  const nodes = await firstAnswer(lab);
  for (const host of lab.hosts) {
    const own = await host.ownProcesses();
    const pids = Object.entries(own).map(([name, info]) => `${name}=${info.pid}`);
    const node = nodeOfHost(nodes, host.name);
    const leader = node?.ManagerStatus?.Leader === true ? " leader" : "";
    const said = node === undefined ? "" : `${node.Status.State} ${node.Spec.Availability}${leader}`;
    console.log([host.name, host.addr, host.role, await host.state(), said, ...pids].join("  "));
  }
  for (const { from, to } of await lab.lan.cuts()) console.log(`cut: ${from} -> ${to}`);
}

async function firstAnswer(lab: Lab): Promise<NodeSummary[]> {
  for (const { socket } of lab.managers) {
    const nodes = await call<NodeSummary[]>(socket, "GET", "/nodes", { timeoutMs: 1_000 }).catch(
      () => undefined,
    );
    if (nodes !== undefined) return nodes;
  }
  return [];
}
