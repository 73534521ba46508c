import type { Command } from "commander";
import { type Client, filters } from "../client.ts";
import { ellipsis, inWords, shortId, table, write, imageWithoutDigest } from "../print.ts";
import { filterArguments } from "../task-table.ts";
import { collect } from "../options.ts";

const shownCommandLength = 20;
const gibibyte = 1024 ** 3;

interface Info {
  Name: string;
  ServerVersion: string;
  Containers: number;
  ContainersRunning: number;
  ContainersPaused: number;
  ContainersStopped: number;
  Images: number;
  Driver: string;
  LoggingDriver: string;
  CgroupDriver: string;
  CgroupVersion: string;
  DefaultRuntime: string;
  KernelVersion: string;
  OperatingSystem: string;
  OSType: string;
  Architecture: string;
  NCPU: number;
  MemTotal: number;
  DockerRootDir: string;
  Swarm: {
    NodeID: string;
    NodeAddr: string;
    LocalNodeState: string;
    ControlAvailable: boolean;
    Error: string;
    Nodes?: number;
    Managers?: number;
    RemoteManagers?: { Addr: string }[] | null;
  };
  Warnings?: string[] | null;
}

interface Container {
  Id: string;
  Names: string[];
  Image: string;
  Command: string;
  Created: number;
  Status: string;
  Ports: { IP?: string; PrivatePort: number; PublicPort?: number; Type: string }[];
}

export function register(program: Command, client: () => Client): void {
  program
    .command("info")
    .description("Show what this host is and belongs to")
    .action(() => info(client()));
  program
    .command("version")
    .description("Show the versions of client and daemon")
    .action(() => version(client(), program.version() ?? ""));
  program
    .command("ps")
    .description("List containers of this host")
    .option("-a, --all", "show all containers (default shows just running)", false)
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("--no-trunc", "do not truncate output")
    .option("-q, --quiet", "only display container IDs", false)
    .action((options: { all: boolean; filter: string[]; trunc: boolean; quiet: boolean }) =>
      listContainers(client(), options),
    );
}

async function info(client: Client): Promise<void> {
  const server = await client.get<Info>("/info");
  const { Swarm } = server;
  const lines: [string, string | number | boolean][] = [
    ["Name", server.Name],
    ["Server Version", server.ServerVersion],
    ["Containers", server.Containers],
    [" Running", server.ContainersRunning],
    [" Paused", server.ContainersPaused],
    [" Stopped", server.ContainersStopped],
    ["Images", server.Images],
    ["Storage Driver", server.Driver],
    ["Logging Driver", server.LoggingDriver],
    ["Cgroup Driver", server.CgroupDriver],
    ["Cgroup Version", server.CgroupVersion],
    ["Swarm", Swarm.LocalNodeState],
    ...(Swarm.LocalNodeState === "inactive"
      ? []
      : ([
          [" NodeID", Swarm.NodeID],
          [" Is Manager", Swarm.ControlAvailable],
          ...(Swarm.ControlAvailable
            ? [
                [" Managers", Swarm.Managers ?? 0],
                [" Nodes", Swarm.Nodes ?? 0],
              ]
            : []),
          [" Node Address", Swarm.NodeAddr],
          [" Manager Addresses", (Swarm.RemoteManagers ?? []).map(({ Addr }) => Addr).join(" ")],
          ...(Swarm.Error === "" ? [] : [[" Error", Swarm.Error]]),
        ] as [string, string | number | boolean][])),
    ["Default Runtime", server.DefaultRuntime],
    ["Kernel Version", server.KernelVersion],
    ["Operating System", server.OperatingSystem],
    ["OSType", server.OSType],
    ["Architecture", server.Architecture],
    ["CPUs", server.NCPU],
    ["Total Memory", `${(server.MemTotal / gibibyte).toFixed(2)}GiB`],
    ["Root Dir", server.DockerRootDir],
  ];
  write(lines.map(([name, value]) => `${name}: ${value}`).join("\n"));
  for (const warning of server.Warnings ?? []) process.stderr.write(`${warning}\n`);
}

async function version(client: Client, own: string): Promise<void> {
  write(`Client:\n Version:     ${own}\n API version: 1.50\n`);
  const server = await client.get<{
    Version: string;
    ApiVersion: string;
    MinAPIVersion: string;
    KernelVersion: string;
    Os: string;
    Arch: string;
  }>("/version");
  write(
    `\nServer:\n Version:     ${server.Version}\n API version: ${server.ApiVersion} (minimum version ${server.MinAPIVersion})\n` +
      ` OS/Arch:     ${server.Os}/${server.Arch}\n Kernel:      ${server.KernelVersion}\n`,
  );
}

async function listContainers(
  client: Client,
  options: { all: boolean; filter: string[]; trunc: boolean; quiet: boolean },
): Promise<void> {
  const containers = await client.get<Container[]>("/containers/json", {
    ...(options.all && { all: 1 }),
    filters: filters(filterArguments(options.filter)),
  });
  const id = (container: Container) => (options.trunc ? shortId(container.Id) : container.Id);
  if (options.quiet) return containers.forEach((container) => write(id(container)));
  const nowMs = Date.now();
  const rows = containers.map((container) => [
    id(container),
    options.trunc ? imageWithoutDigest(container.Image) : container.Image,
    `"${options.trunc ? ellipsis(container.Command, shownCommandLength) : container.Command}"`,
    `${inWords(nowMs - container.Created * 1_000)} ago`,
    container.Status,
    container.Ports.map(({ IP, PrivatePort, PublicPort, Type }) =>
      PublicPort === undefined
        ? `${PrivatePort}/${Type}`
        : `${IP ?? "0.0.0.0"}:${PublicPort}->${PrivatePort}/${Type}`,
    ).join(", "),
    container.Names.map((name) => name.replace(/^\//, "")).join(","),
  ]);
  return write(table([["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], ...rows]));
}
