import { type Command, Option } from "commander";
import type { ApiNetwork, ApiService, ApiServiceSpec } from "../api-types.ts";
import { type Client, filters } from "../client.ts";
import { forEach } from "../failure.ts";
import { pinImage } from "../image.ts";
import { showLogs } from "../logs.ts";
import { fillPayloadIds } from "../payloads.ts";
import { familiarImage, naturalOrder, printWarnings, shortId, table, type Warned, write } from "../print.ts";
import { showProgress } from "../progress.ts";
import { nodeName } from "../resolve.ts";
import {
  listFlags,
  type ListFlag,
  readEnvFile,
  scalarFlags,
  setLogOptions,
  setReplicas,
  switchFlags,
  words,
} from "../service-flags.ts";
import { prettyService } from "../service-pretty.ts";
import { filterArguments, listTasks, printPort, printTasks } from "../task-table.ts";
import { parseCount } from "../units.ts";
import { collect } from "../options.ts";

const setByUser = (value: string) => value;

interface CommonOptions {
  detach: boolean;
  quiet: boolean;
  resolveImage: boolean;
  logOpt: string[];
  [flag: string]: unknown;
}

/** What `--mode` begins with; flags fill it in, and the server the rest. */
const emptyModes = {
  replicated: (): ApiServiceSpec["Mode"] => ({ Replicated: { Replicas: 1 } }),
  global: (): ApiServiceSpec["Mode"] => ({ Global: {} }),
  "replicated-job": (): ApiServiceSpec["Mode"] => ({ ReplicatedJob: {} }),
  "global-job": (): ApiServiceSpec["Mode"] => ({ GlobalJob: {} }),
} as const;

export function register(program: Command, client: () => Client): void {
  const service = program.command("service").description("Manage services");
  const create = service
    .command("create <image> [command...]")
    .description("Create a new service")
    .passThroughOptions()
    .option("--name <name>", "service name")
    .addOption(
      new Option("--mode <mode>", "service mode").choices(Object.keys(emptyModes)).default("replicated"),
    )
    .option("--env-file <file>", "read in a file of environment variables", collect, []);
  addSpecFlags(create, ({ name }) => [{ name, entry: "add" }]);
  create.action((image: string, command: string[], options: CommonOptions) =>
    createService(client(), image, command, options, create),
  );

  const update = service
    .command("update <service>")
    .description("Update a service")
    .option("--image <image>", "service image tag")
    .option("--args <command>", "service command args")
    .option("--force", "force update even if no changes require it", false)
    .option("--rollback", "roll back to the previous specification", false);
  addSpecFlags(update, ({ name, oneWord }) =>
    oneWord
      ? [{ name, entry: "add" }]
      : [
          { name: `${name}-add`, entry: "add" },
          { name: `${name}-rm`, entry: "remove" },
        ],
  );
  update.action((name: string, options: CommonOptions) => updateService(client(), name, options, update));

  service
    .command("ls")
    .alias("list")
    .description("List services")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("-q, --quiet", "only display IDs", false)
    .action(async (options: { filter: string[]; quiet: boolean }) => {
      await printServices(client(), filterArguments(options.filter), options.quiet);
    });
  service
    .command("ps <services...>")
    .description("List the tasks of one or more services")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("--no-trunc", "do not truncate output")
    .option("-q, --quiet", "only display task IDs", false)
    .action(async (names: string[], options: { filter: string[]; trunc: boolean; quiet: boolean }) => {
      const ids: string[] = [];
      await forEach(names, async (name) => void ids.push((await find(client(), name)).ID));
      const wanted = filterArguments(options.filter);
      const node =
        wanted["node"] && (await Promise.all(wanted["node"].map((name) => nodeName(client(), name))));
      if (ids.length === 0) return;
      const tasks = await listTasks(
        client(),
        { service: ids, ...wanted, ...(node && { node }) },
        { ...options, filter: [] },
      );
      await printTasks(client(), tasks, options);
    });
  service
    .command("inspect <services...>")
    .description("Display detailed information on one or more services")
    .option("--pretty", "print the information in a human friendly format", false)
    .action(async (names: string[], { pretty }: { pretty: boolean }) => {
      const found: ApiService[] = [];
      await forEach(names, async (name) => {
        found.push(
          await client().get<ApiService>(`/services/${encodeURIComponent(name)}`, { insertDefaults: true }),
        );
      });
      if (!pretty) return write(JSON.stringify(found, null, 4));
      for (const service of found) {
        write(prettyService(service, await networkNames(client(), service), Date.now()));
      }
    });
  service
    .command("scale <service=replicas...>")
    .description("Scale one or multiple replicated services")
    .option("-d, --detach", "exit immediately instead of waiting for the service to converge", false)
    .action((pairs: string[], { detach }: { detach: boolean }) => scale(client(), pairs, detach));
  service
    .command("rollback <service>")
    .description("Revert changes to a service's configuration")
    .option("-d, --detach", "exit immediately instead of waiting for the service to converge", false)
    .option("-q, --quiet", "suppress progress output", false)
    .action(async (name: string, options: { detach: boolean; quiet: boolean }) => {
      await rollback(client(), name);
      write(name);
      if (!options.detach) await showProgress(client(), (await find(client(), name)).ID, options.quiet);
    });
  service
    .command("rm <services...>")
    .alias("remove")
    .description("Remove one or more services")
    .action((names: string[]) =>
      forEach(names, async (name) => {
        await client().delete(`/services/${encodeURIComponent(name)}`);
        write(name);
      }),
    );
  service
    .command("logs <service|task>")
    .description("Fetch the logs of a service or task")
    .option("-f, --follow", "follow log output", false)
    .option("--since <time>", "show logs since timestamp or relative (e.g. 42m for 42 minutes)")
    .option("-n, --tail <n>", "number of lines to show from the end of the logs", "all")
    .option("-t, --timestamps", "show timestamps", false)
    .option("--no-task-ids", "do not include task IDs in output")
    .option("--no-trunc", "do not truncate output")
    .option("--raw", "do not neatly format logs", false)
    .action((name: string, options: Parameters<typeof showLogs>[2]) => showLogs(client(), name, options));
}

function networkNames(client: Client, { Spec }: ApiService): Promise<string[]> {
  const wanted = Spec.TaskTemplate.Networks ?? [];
  return Promise.all(
    wanted.map(
      async ({ Target }) => (await client.get<ApiNetwork>(`/networks/${Target}`, { scope: "swarm" })).Name,
    ),
  );
}

/** Services as `service ls` shows them. */
export async function printServices(
  client: Client,
  wanted: Readonly<Record<string, string[]>>,
  quiet: boolean,
): Promise<number> {
  const services = await client.get<ApiService[]>("/services", { status: true, filters: filters(wanted) });
  const sorted = services.toSorted((a, b) => naturalOrder(a.Spec.Name, b.Spec.Name));
  if (quiet) {
    sorted.forEach((service) => write(service.ID));
    return sorted.length;
  }
  const rows = sorted.map((service) => [
    shortId(service.ID),
    service.Spec.Name,
    modeOf(service.Spec),
    replicasOf(service),
    familiarImage(service.Spec.TaskTemplate.ContainerSpec.Image),
    (service.Endpoint?.Ports ?? [])
      .filter((port) => port.PublishMode === "ingress")
      .map(printPort)
      .join(", "),
  ]);
  write(table([["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"], ...rows]));
  return sorted.length;
}

function addSpecFlags(
  command: Command,
  listNames: (flag: ListFlag) => readonly { readonly name: string; readonly entry: "add" | "remove" }[],
): void {
  command
    .option("-d, --detach", "exit immediately instead of waiting for the service to converge", false)
    .option("-q, --quiet", "suppress progress output", false)
    .option("--no-resolve-image", "do not query the registry to resolve image digest and supported platforms")
    .option("--log-opt <option>", "logging driver options", collect, []);
  for (const { flag, description } of scalarFlags) command.option(flag, description, setByUser);
  for (const { name, description } of switchFlags) command.option(`--${name}`, description);
  const short: Readonly<Record<string, string>> = { env: "-e, ", label: "-l, ", publish: "-p, " };
  for (const flag of listFlags) {
    for (const { name, entry } of listNames(flag)) {
      const value = entry === "add" ? flag.value : (flag.removes ?? flag.value);
      const head = name === flag.name ? (short[flag.name] ?? "") : "";
      const text =
        entry === "add" ? flag.description : `Take away by ${value}, as given to --${flag.name}-add`;
      command.option(`${head}--${name} ${value}`, text, collect, []);
    }
  }
}

function applyFlags(spec: ApiServiceSpec, options: CommonOptions, command: Command): void {
  const attribute = (long: string) => new Option(long).attributeName();
  const given = (name: string) => command.getOptionValueSource(name) === "cli";
  for (const flag of listFlags) {
    for (const text of (options[attribute(`--${flag.name}-rm <v>`)] as string[] | undefined) ?? [])
      flag.remove(spec, text);
    const added = [attribute(`--${flag.name} <v>`), attribute(`--${flag.name}-add <v>`)];
    for (const name of added)
      if (given(name)) for (const text of options[name] as string[]) flag.add(spec, text);
  }
  for (const flag of scalarFlags) {
    const name = attribute(flag.flag);
    if (given(name)) flag.apply(spec, options[name] as string);
  }
  for (const flag of switchFlags) {
    const { name } = flag;
    const key = name === "no-healthcheck" ? "healthcheck" : attribute(`--${name}`);
    if (given(key))
      flag.apply(spec, name === "no-healthcheck" ? options[key] !== true : options[key] === true);
  }
  setLogOptions(spec, options.logOpt);
}

async function createService(
  client: Client,
  image: string,
  command: readonly string[],
  options: CommonOptions,
  flags: Command,
): Promise<void> {
  const spec: ApiServiceSpec = {
    Name: (options["name"] as string | undefined) ?? "",
    Labels: {},
    TaskTemplate: {
      ContainerSpec: { Image: image, ...(command.length > 0 && { Args: [...command] }) },
      ForceUpdate: 0,
    },
    Mode: emptyModes[options["mode"] as keyof typeof emptyModes](),
    EndpointSpec: {},
  };
  const fromFiles = (options["envFile"] as string[]).flatMap(readEnvFile);
  if (fromFiles.length > 0) spec.TaskTemplate.ContainerSpec.Env = fromFiles;
  applyFlags(spec, options, flags);
  await fillPayloadIds(client, spec);
  if (options.resolveImage) await pinImage(client, spec);
  const created = await client.post<{ ID: string } & Warned>("/services/create", undefined, spec);
  printWarnings(created);
  write(created.ID);
  if (!options.detach) await showProgress(client, created.ID, options.quiet);
}

async function updateService(
  client: Client,
  name: string,
  options: CommonOptions,
  flags: Command,
): Promise<void> {
  if (options["rollback"] === true) {
    await rollback(client, name);
  } else {
    await change(client, name, async (spec) => {
      applyFlags(spec, options, flags);
      await fillPayloadIds(client, spec);
      const container = spec.TaskTemplate.ContainerSpec;
      if (options["args"] !== undefined) container.Args = words(options["args"] as string);
      if (options["image"] !== undefined) {
        container.Image = options["image"] as string;
        if (options.resolveImage) await pinImage(client, spec);
      }
      if (options["force"] === true) spec.TaskTemplate.ForceUpdate = (spec.TaskTemplate.ForceUpdate ?? 0) + 1;
    });
  }
  write(name);
  if (!options.detach) await showProgress(client, (await find(client, name)).ID, options.quiet);
}

async function rollback(client: Client, name: string): Promise<void> {
  const service = await find(client, name);
  await client.post(
    `/services/${service.ID}/update`,
    { version: service.Version.Index, rollback: "previous" },
    service.Spec,
  );
}

async function scale(client: Client, pairs: readonly string[], detach: boolean): Promise<void> {
  const scaled: string[] = [];
  await forEach(pairs, async (pair) => {
    const split = pair.lastIndexOf("=");
    if (split < 1) throw new Error(`invalid scale specifier '${pair}': expected SERVICE=REPLICAS`);
    const name = pair.slice(0, split);
    const replicas = parseCount(pair.slice(split + 1));
    await change(client, name, (spec) => {
      setReplicas(spec, replicas, `${name}: scale`);
    });
    write(`${name} scaled to ${replicas}`);
    scaled.push(name);
  });
  if (detach) return;
  await forEach(scaled, async (name) => showProgress(client, (await find(client, name)).ID, false));
}

function find(client: Client, name: string): Promise<ApiService> {
  return client.get<ApiService>(`/services/${encodeURIComponent(name)}`, { insertDefaults: false });
}

async function change(
  client: Client,
  name: string,
  edit: (spec: ApiServiceSpec) => Promise<void> | void,
): Promise<void> {
  const service = await find(client, name);
  await edit(service.Spec);
  const answer = await client.post<Warned>(
    `/services/${service.ID}/update`,
    { version: service.Version.Index, registryAuthFrom: "spec" },
    service.Spec,
  );
  printWarnings(answer);
}

function modeOf(spec: ApiServiceSpec): string {
  if (spec.Mode.Global !== undefined) return "global";
  if (spec.Mode.ReplicatedJob !== undefined) return "replicated job";
  return spec.Mode.GlobalJob === undefined ? "replicated" : "global job";
}

function replicasOf(service: ApiService): string {
  const { RunningTasks = 0, DesiredTasks = 0, CompletedTasks = 0 } = service.ServiceStatus ?? {};
  const running = `${RunningTasks}/${DesiredTasks}`;
  const { ReplicatedJob: job, GlobalJob: globalJob } = service.Spec.Mode;
  if (job !== undefined) return `${running} (${CompletedTasks}/${job.TotalCompletions ?? 0} completed)`;
  if (globalJob !== undefined) {
    return `${running} (${CompletedTasks}/${DesiredTasks + CompletedTasks} completed)`;
  }
  const most = service.Spec.TaskTemplate.Placement?.MaxReplicas ?? 0;
  return most > 0 ? `${running} (max ${most} per node)` : running;
}
