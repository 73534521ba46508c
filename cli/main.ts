import { readFileSync } from "node:fs";
import { Command } from "commander";
import { openClient } from "./client.ts";
import { setFailed } from "./failure.ts";
import { installation } from "./installation.ts";
import { hideEmptyDefaults } from "./options.ts";
import { acceptTruthValues } from "./truth.ts";

/** Loaded only when named, so that a command pays for its own code alone. */
const groups: Readonly<Record<string, { readonly description: string; load(): Promise<CommandGroup> }>> = {
  swarm: { description: "Manage the cluster", load: () => import("./commands/swarm.ts") },
  node: { description: "Manage nodes", load: () => import("./commands/node.ts") },
  service: { description: "Manage services", load: () => import("./commands/service.ts") },
  stack: { description: "Manage stacks of services", load: () => import("./commands/stack.ts") },
  secret: { description: "Manage secrets", load: () => import("./commands/payload.ts") },
  config: { description: "Manage configs", load: () => import("./commands/payload.ts") },
  network: { description: "Manage networks", load: () => import("./commands/network.ts") },
  info: { description: "Show what this host is and belongs to", load: () => import("./commands/system.ts") },
  version: {
    description: "Show the versions of client and daemon",
    load: () => import("./commands/system.ts"),
  },
  why: {
    description: "Say why a service, task or node is as it is",
    load: () => import("./commands/cluster.ts"),
  },
  rebalance: {
    description: "Move running tasks to nodes that have fewer",
    load: () => import("./commands/cluster.ts"),
  },
  net: { description: "Examine what hosts share", load: () => import("./commands/net.ts") },
  ps: { description: "List containers of this host", load: () => import("./commands/system.ts") },
};

interface CommandGroup {
  /** Adds the group's commands to the program. */
  register(program: Command, client: () => ReturnType<typeof openClient>): void;
}

async function main(argv: readonly string[]): Promise<void> {
  const program = new Command("shoal")
    .description("Deploys, scales and updates services on a cluster of hosts")
    .option(
      "-H, --host <address>",
      "daemon to talk to (unix:///path or tcp://host:port; default: SHOAL_HOST, DOCKER_HOST or unix:///run/shoal/shoal.sock)",
    )
    .version(ownVersion(), "-v, --version")
    .showHelpAfterError("(add --help for the options)")
    .enablePositionalOptions();
  hideEmptyDefaults(program); // Before the groups: their commands take it over from here.
  const named = argv.find(
    (word, index) => !word.startsWith("-") && argv[index - 1] !== "-H" && argv[index - 1] !== "--host",
  );
  const group = named === undefined ? undefined : groups[named];
  const client = () => openClient(program.opts<{ host?: string }>().host);
  if (group !== undefined) {
    (await group.load()).register(program, client);
    acceptTruthValues(program);
  } else {
    for (const [name, { description }] of Object.entries(groups))
      program.command(name).description(description);
  }
  await program.parseAsync([...argv], { from: "user" });
}

function ownVersion(): string {
  const text = readFileSync(new URL("package.json", installation), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0); // The reader, such as `head`, has seen enough.
  throw error;
});
main(process.argv.slice(2)).catch(setFailed);
