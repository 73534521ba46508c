import { resolve } from "node:path";
import type { Command } from "commander";
import { readNamedFile } from "../files.ts";
import type { ApiInfo, ApiNetwork, ApiService, ApiServiceSpec, Named } from "../api-types.ts";
import { type Client, filters } from "../client.ts";
import { convertStack, type StackNetwork, type StackPayload } from "../compose/convert.ts";
import { ignoredOptions } from "../compose/ignored.ts";
import { namespaceLabel } from "../compose/names.ts";
import type { NamedReference, StackService } from "../compose/types.ts";
import { loadCompose } from "../compose/load.ts";
import { forEach } from "../failure.ts";
import { pinImage } from "../image.ts";
import { fillPayloadIds, type PayloadKind, payloadReference } from "../payloads.ts";
import { naturalOrder, printWarnings, table, type Warned, write } from "../print.ts";
import { showProgress } from "../progress.ts";
import { orNothing } from "../resolve.ts";
import { readEnvFile } from "../service-flags.ts";
import { filterArguments, listTasks, printTasks } from "../task-table.ts";
import { collect } from "../options.ts";
import { printServices } from "./service.ts";

const stackName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

interface DeployOptions {
  composeFile: string[];
  prune: boolean;
  resolveImage: "always" | "changed" | "never";
  detach: boolean;
}

export function register(program: Command, client: () => Client): void {
  const stack = program.command("stack").description("Manage stacks of services");
  stack
    .command("deploy <stack>")
    .description("Deploy a new stack or update an existing stack")
    .option("-c, --compose-file <file>", 'path to a compose file, or "-" to read from stdin', collect, [])
    .option("--prune", "prune services that are no longer referenced", false)
    .option(
      "--resolve-image <when>",
      "query the registry for image digests (always, changed, never)",
      "always",
    )
    .option("-d, --detach [on]", "exit immediately instead of waiting for the services to converge", true)
    .action((name: string, options: DeployOptions) =>
      deploy(client(), checkName(name), { ...options, detach: String(options.detach) !== "false" }),
    );
  stack
    .command("ls")
    .alias("list")
    .description("List stacks")
    .action(() => list(client()));
  stack
    .command("ps <stack>")
    .description("List the tasks in the stack")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("--no-trunc", "do not truncate output")
    .option("-q, --quiet", "only display task IDs", false)
    .action(async (name: string, options: { filter: string[]; trunc: boolean; quiet: boolean }) => {
      const tasks = await listTasks(client(), { label: [`${namespaceLabel}=${checkName(name)}`] }, options);
      if (tasks.length === 0) throw new Error(`nothing found in stack: ${name}`);
      await printTasks(client(), tasks, options);
    });
  stack
    .command("services <stack>")
    .description("List the services in the stack")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("-q, --quiet", "only display IDs", false)
    .action(async (name: string, options: { filter: string[]; quiet: boolean }) => {
      const wanted = filterArguments(options.filter);
      const labels = [...(wanted["label"] ?? []), `${namespaceLabel}=${checkName(name)}`];
      const any = await client().get<ApiService[]>("/services", { filters: filters({ label: labels }) });
      if (any.length === 0) process.stderr.write(`Nothing found in stack: ${name}\n`);
      else await printServices(client(), { ...wanted, label: labels }, options.quiet);
    });
  stack
    .command("rm <stacks...>")
    .alias("remove")
    .alias("down")
    .description("Remove one or more stacks")
    .action((names: string[]) => forEach(names, (name) => remove(client(), checkName(name))));
}

function checkName(name: string): string {
  if (!stackName.test(name)) throw new Error(`invalid stack name: "${name}"`);
  return name;
}

async function deploy(client: Client, name: string, options: DeployOptions): Promise<void> {
  const warn = (text: string) => void process.stderr.write(`${text}\n`);
  const { file, folder } = loadCompose(options.composeFile, process.env, warn);
  const stack = convertStack(name, file);
  ignoredOptions(file).forEach(warn);
  const { Swarm } = await client.get<ApiInfo>("/info");
  if (!Swarm.ControlAvailable) {
    throw new Error(
      'this node is not a swarm manager. Use "shoal swarm init" or "shoal swarm join" to connect this node to swarm and try again',
    );
  }
  if (options.prune) await prune(client, name, stack.services);
  await ensureNetworks(client, name, stack.networks);
  await ensurePayloads(client, "secret", stack.secrets, folder);
  await ensurePayloads(client, "config", stack.configs, folder);
  const existing = new Map(
    (await stackServices(client, name)).map((service) => [service.Spec.Name, service]),
  );
  const deployed: string[] = [];
  for (const service of stack.services) {
    deployed.push(
      await deployService(client, service, existing.get(service.name), {
        folder,
        when: options.resolveImage,
      }),
    );
  }
  if (options.detach) return;
  for (const id of deployed) await showProgress(client, id, false);
}

async function deployService(
  client: Client,
  { name, image, spec, secrets, configs, envFiles }: StackService,
  current: ApiService | undefined,
  { folder, when }: { folder: string; when: DeployOptions["resolveImage"] },
): Promise<string> {
  addEnvFiles(
    spec,
    envFiles.map((path) => resolve(folder, path)),
  );
  const container = spec.TaskTemplate.ContainerSpec;
  const named = (kind: PayloadKind, list: readonly NamedReference[]) =>
    list.map(({ object, file }) => payloadReference(kind, object, file));
  if (secrets.length > 0) container.Secrets = named("secret", secrets);
  if (configs.length > 0) container.Configs = named("config", configs);
  await fillPayloadIds(client, spec);
  const unchanged = current?.Spec.Labels["com.docker.stack.image"] === image;
  if (when === "always" || (when === "changed" && !unchanged)) {
    await pinImage(client, spec);
  } else if (current !== undefined && unchanged) {
    container.Image = current.Spec.TaskTemplate.ContainerSpec.Image;
  }
  if (current === undefined) {
    write(`Creating service ${name}`);
    const created = await client.post<{ ID: string } & Warned>("/services/create", undefined, spec);
    printWarnings(created);
    return created.ID;
  }
  write(`Updating service ${name} (id: ${current.ID})`);
  spec.TaskTemplate.ForceUpdate = current.Spec.TaskTemplate.ForceUpdate ?? 0; // Else an earlier --force would count as a change.
  const answer = await client.post<Warned>(
    `/services/${current.ID}/update`,
    { version: current.Version.Index, registryAuthFrom: "spec" },
    spec,
  );
  printWarnings(answer);
  return current.ID;
}

function addEnvFiles(spec: ApiServiceSpec, paths: readonly string[]): void {
  if (paths.length === 0) return;
  const container = spec.TaskTemplate.ContainerSpec;
  const lines = [...paths.flatMap(readEnvFile), ...(container.Env ?? [])];
  const byName = new Map(lines.map((line) => [line.split("=", 1)[0], line]));
  container.Env = [...byName.values()].toSorted();
}

async function ensureNetworks(
  client: Client,
  stack: string,
  networks: readonly StackNetwork[],
): Promise<void> {
  const own = await client.get<ApiNetwork[]>("/networks", {
    filters: filters({ label: [`${namespaceLabel}=${stack}`] }),
  });
  const there = new Set(own.map((network) => network.Name));
  for (const { name, external, body } of networks) {
    if (external) {
      if ((await orNothing(client.get<ApiNetwork>(`/networks/${encodeURIComponent(name)}`))) === undefined) {
        throw new Error(
          `network "${name}" is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed`,
        );
      }
    } else if (!there.has(name)) {
      write(`Creating network ${name}`);
      await client.post("/networks/create", undefined, body);
    }
  }
}

async function ensurePayloads(
  client: Client,
  kind: "secret" | "config",
  payloads: readonly StackPayload[],
  folder: string,
): Promise<void> {
  for (const { name, external, file, labels, templateDriver } of payloads) {
    const current = await orNothing(client.get<Named>(`/${kind}s/${encodeURIComponent(name)}`));
    if (external) {
      if (current === undefined) throw new Error(`${kind} not found: ${name}`);
      continue;
    }
    if (file === undefined) throw new Error(`${kind} ${name}: file is required`);
    const body = {
      Name: name,
      Labels: labels,
      Data: readNamedFile(resolve(folder, file)).toString("base64"),
      ...(templateDriver !== undefined && { Templating: { Name: templateDriver } }),
    };
    if (current === undefined) {
      write(`Creating ${kind} ${name}`);
      await client.post(`/${kind}s/create`, undefined, body);
    } else {
      await client
        .post(`/${kind}s/${current.ID}/update`, { version: current.Version.Index }, body)
        .catch((cause: unknown) => {
          throw new Error(`failed to update ${kind} ${name}: ${(cause as Error).message}`, { cause });
        });
    }
  }
}

async function prune(client: Client, stack: string, wanted: readonly StackService[]): Promise<void> {
  const keep = new Set(wanted.map(({ name }) => name));
  for (const service of await stackServices(client, stack)) {
    if (keep.has(service.Spec.Name)) continue;
    write(`Removing service ${service.Spec.Name}`);
    await client.delete(`/services/${service.ID}`);
  }
}

async function list(client: Client): Promise<void> {
  const services = await client.get<ApiService[]>("/services", {
    filters: filters({ label: [namespaceLabel] }),
  });
  const counts = new Map<string, number>();
  for (const { Spec } of services) {
    const stack = Spec.Labels[namespaceLabel] ?? "";
    counts.set(stack, (counts.get(stack) ?? 0) + 1);
  }
  const rows = [...counts]
    .toSorted(([a], [b]) => naturalOrder(a, b))
    .map(([stack, count]) => [stack, String(count)]);
  write(table([["NAME", "SERVICES"], ...rows]));
}

async function remove(client: Client, stack: string): Promise<void> {
  const label = filters({ label: [`${namespaceLabel}=${stack}`] });
  const [services, secrets, configs, networks] = await Promise.all([
    stackServices(client, stack),
    client.get<Named[]>("/secrets", { filters: label }),
    client.get<Named[]>("/configs", { filters: label }),
    client.get<ApiNetwork[]>("/networks", { filters: label }),
  ]);
  if (services.length + secrets.length + configs.length + networks.length === 0) {
    throw new Error(`Nothing found in stack: ${stack}`);
  }
  const steps = [
    ...services.map(({ ID, Spec }) => ({ kind: "service", path: `/services/${ID}`, name: Spec.Name })),
    ...secrets.map(({ ID, Spec }) => ({ kind: "secret", path: `/secrets/${ID}`, name: Spec.Name })),
    ...configs.map(({ ID, Spec }) => ({ kind: "config", path: `/configs/${ID}`, name: Spec.Name })),
    ...networks.map(({ Id, Name }) => ({ kind: "network", path: `/networks/${Id}`, name: Name })),
  ].toSorted((a, b) => (a.kind === b.kind ? naturalOrder(a.name, b.name) : 0));
  await forEach(
    steps.map((_, index) => String(index)),
    async (index) => {
      const step = steps[Number(index)];
      if (step === undefined) return;
      write(`Removing ${step.kind} ${step.name}`);
      await client.delete(step.path);
    },
  );
}

function stackServices(client: Client, stack: string): Promise<ApiService[]> {
  return client.get<ApiService[]>("/services", {
    filters: filters({ label: [`${namespaceLabel}=${stack}`] }),
  });
}
