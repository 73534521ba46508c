import type { Command } from "commander";
import type { ApiInfo, ApiNode } from "../api-types.ts";
import { type Client, filters } from "../client.ts";
import { forEach } from "../failure.ts";
import { capitalise, table, write } from "../print.ts";
import { nodeName } from "../resolve.ts";
import { filterArguments, listTasks, printTasks } from "../task-table.ts";
import { parseDuration, parsePair } from "../units.ts";
import { upgradeNodes } from "../node-upgrade.ts";
import { collect } from "../options.ts";

interface UpdateOptions {
  availability?: string;
  role?: string;
  labelAdd: string[];
  labelRm: string[];
}

export function register(program: Command, client: () => Client): void {
  const node = program.command("node").description("Manage nodes");
  node
    .command("ls")
    .alias("list")
    .description("List nodes in the swarm")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("-q, --quiet", "only display IDs", false)
    .action((options: { filter: string[]; quiet: boolean }) => list(client(), options));
  node
    .command("inspect <nodes...>")
    .description("Display detailed information on one or more nodes")
    .action(async (names: string[]) => {
      const found: unknown[] = [];
      await forEach(names, async (name) => {
        found.push(await client().get(`/nodes/${encodeURIComponent(await nodeName(client(), name))}`));
      });
      write(JSON.stringify(found, null, 4));
    });
  node
    .command("ps [nodes...]")
    .description("List tasks running on one or more nodes, defaults to current node")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("--no-trunc", "do not truncate output")
    .option("-q, --quiet", "only display task IDs", false)
    .action(async (names: string[], options: { filter: string[]; trunc: boolean; quiet: boolean }) => {
      const ids = await Promise.all(
        (names.length > 0 ? names : ["self"]).map((name) => nodeName(client(), name)),
      );
      await printTasks(client(), await listTasks(client(), { node: ids }, options), options);
    });
  node
    .command("update <node>")
    .description("Update a node")
    .option("--availability <availability>", "availability of the node (active, pause, drain)")
    .option("--role <role>", "role of the node (worker, manager)")
    .option("--label-add <label>", "add or update a node label (key=value)", collect, [])
    .option("--label-rm <key>", "remove a node label if exists", collect, [])
    .action(async (name: string, options: UpdateOptions) => {
      await change(client(), name, (spec) => {
        if (options.availability !== undefined) spec.Availability = options.availability;
        if (options.role !== undefined) spec.Role = options.role;
        for (const label of options.labelAdd) {
          const [key, value] = parsePair(label);
          spec.Labels[key] = value;
        }
        for (const key of options.labelRm) {
          if (!(key in spec.Labels)) throw new Error(`key ${key} doesn't exist in node's labels`);
          delete spec.Labels[key];
        }
      });
      write(name);
    });
  node
    .command("promote <nodes...>")
    .description("Promote one or more nodes to manager in the swarm")
    .action((names: string[]) => setRole(client(), names, "manager"));
  node
    .command("demote <nodes...>")
    .description("Demote one or more nodes from manager in the swarm")
    .action((names: string[]) => setRole(client(), names, "worker"));
  node
    .command("upgrade <nodes...>")
    .description("Empty nodes one after another, run a command to upgrade each, and open them again")
    .option(
      "--run <command>",
      "shell command, with SHOAL_NODE_HOSTNAME, SHOAL_NODE_ADDR and SHOAL_NODE_ID set",
    )
    .option("--timeout <duration>", "longest wait for a node to be empty, and to be ready again", "10m")
    .option("-f, --force", "also where the managers would lose their majority meanwhile", false)
    .action(async (names: string[], options: { run?: string; timeout: string; force: boolean }) => {
      const timeoutMs = parseDuration(options.timeout) / 1e6;
      await upgradeNodes(client(), names, { ...options, timeoutMs });
    });
  node
    .command("rm <nodes...>")
    .alias("remove")
    .description("Remove one or more nodes from the swarm")
    .option("-f, --force", "force remove a node from the swarm", false)
    .action((names: string[], { force }: { force: boolean }) =>
      forEach(names, async (name) => {
        await client().delete(`/nodes/${encodeURIComponent(name)}`, { force });
        write(name);
      }),
    );
}

async function list(client: Client, options: { filter: string[]; quiet: boolean }): Promise<void> {
  const [nodes, info] = await Promise.all([
    client.get<ApiNode[]>("/nodes", { filters: filters(filterArguments(options.filter)) }),
    client.get<ApiInfo>("/info"),
  ]);
  const sorted = nodes.toSorted((a, b) =>
    a.Description.Hostname.localeCompare(b.Description.Hostname, "en", { numeric: true }),
  );
  if (options.quiet) return sorted.forEach((node) => write(node.ID));
  const rows = sorted.map((node) => [
    `${node.ID}${node.ID === info.Swarm.NodeID ? " *" : ""}`,
    node.Description.Hostname,
    capitalise(node.Status.State),
    capitalise(node.Spec.Availability),
    node.ManagerStatus === undefined
      ? ""
      : node.ManagerStatus.Leader === true
        ? "Leader"
        : capitalise(node.ManagerStatus.Reachability),
    node.Description.Engine.EngineVersion ?? "",
  ]);
  return write(
    table([["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"], ...rows]),
  );
}

async function setRole(client: Client, names: readonly string[], role: "manager" | "worker"): Promise<void> {
  await forEach(names, async (name) => {
    const changed = await change(client, name, (spec) => {
      if (spec.Role === role) return "unchanged";
      spec.Role = role;
      return undefined;
    });
    if (changed === "unchanged") write(`Node ${name} is already a ${role}.`);
    else
      write(
        role === "manager"
          ? `Node ${name} promoted to a manager in the swarm.`
          : `Manager ${name} demoted in the swarm.`,
      );
  });
}

async function change<Answer>(
  client: Client,
  name: string,
  edit: (spec: ApiNode["Spec"]) => Answer,
): Promise<Answer> {
  const node = await client.get<ApiNode>(`/nodes/${encodeURIComponent(name)}`);
  node.Spec.Labels ??= {};
  const answer = edit(node.Spec);
  if (answer !== "unchanged")
    await client.post(`/nodes/${node.ID}/update`, { version: node.Version.Index }, node.Spec);
  return answer;
}
