import type { Command } from "commander";
import type { ApiPayload } from "../api-types.ts";
import { type Client, filters } from "../client.ts";
import { forEach } from "../failure.ts";
import { readNamedFile } from "../files.ts";
import { collect } from "../options.ts";
import type { PayloadKind } from "../payloads.ts";
import { ago, naturalOrder, table, write } from "../print.ts";
import { filterArguments } from "../task-table.ts";
import { parsePair } from "../units.ts";

/** Secrets and configs: the same commands, but that what is in a config can be read back. */
export function register(program: Command, client: () => Client): void {
  for (const kind of ["secret", "config"] as const) registerKind(program, client, kind);
}

function registerKind(program: Command, client: () => Client, kind: PayloadKind): void {
  const group = program.command(kind).description(`Manage ${kind}s`);
  group
    .command(`create <${kind}> [file]`)
    .description(`Create a ${kind} from a file, or with "-" from standard input`)
    .option("-l, --label <label>", `${kind} labels`, collect, [])
    .option("--template-driver <driver>", "template driver")
    .action(
      async (
        name: string,
        file: string | undefined,
        options: { label: string[]; templateDriver?: string },
      ) => {
        const { ID } = await client().post<{ ID: string }>(`/${kind}s/create`, undefined, {
          Name: name,
          Labels: Object.fromEntries(options.label.map(parsePair)),
          Data: contentOf(kind, file).toString("base64"),
          ...(options.templateDriver !== undefined && { Templating: { Name: options.templateDriver } }),
        });
        write(ID);
      },
    );
  group
    .command("ls")
    .alias("list")
    .description(`List ${kind}s`)
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("-q, --quiet", "only display IDs", false)
    .action((options: { filter: string[]; quiet: boolean }) => list(client(), kind, options));
  group
    .command(`inspect <${kind}s...>`)
    .description(`Display detailed information on one or more ${kind}s`)
    .option("--pretty", "print the information in a human friendly format", false)
    .action(async (names: string[], { pretty }: { pretty: boolean }) => {
      const found: ApiPayload[] = [];
      await forEach(names, async (name) => {
        found.push(await client().get<ApiPayload>(`/${kind}s/${encodeURIComponent(name)}`));
      });
      if (!pretty) return write(JSON.stringify(found, null, 4));
      for (const payload of found) write(prettyPayload(kind, payload));
    });
  group
    .command(`rm <${kind}s...>`)
    .alias("remove")
    .description(`Remove one or more ${kind}s`)
    .action((names: string[]) =>
      forEach(names, async (name) => {
        await client().delete(`/${kind}s/${encodeURIComponent(name)}`);
        write(name);
      }),
    );
}

function contentOf(kind: PayloadKind, file: string | undefined): Buffer {
  if (file !== undefined) return readNamedFile(file === "-" ? 0 : file);
  throw new Error(`no content for the ${kind}: expected a file, or - for standard input`);
}

async function list(
  client: Client,
  kind: PayloadKind,
  options: { filter: string[]; quiet: boolean },
): Promise<void> {
  const found = await client.get<ApiPayload[]>(`/${kind}s`, {
    filters: filters(filterArguments(options.filter)),
  });
  const sorted = found.toSorted((a, b) => naturalOrder(a.Spec.Name, b.Spec.Name));
  if (options.quiet) return sorted.forEach(({ ID }) => write(ID));
  return write(payloadTable(kind, sorted, Date.now()));
}

/** What `secret ls` and `config ls` show. */
export function payloadTable(kind: PayloadKind, payloads: readonly ApiPayload[], nowMs: number): string {
  const driver = kind === "secret" ? ["DRIVER"] : [];
  const rows = payloads.map(({ ID, Spec, CreatedAt, UpdatedAt }) => [
    ID,
    Spec.Name,
    ...driver.map(() => Spec.Driver?.Name ?? ""),
    ago(CreatedAt, nowMs),
    ago(UpdatedAt, nowMs),
  ]);
  return table([["ID", "NAME", ...driver, "CREATED", "UPDATED"], ...rows]);
}

/** What `inspect --pretty` shows. */
export function prettyPayload(kind: PayloadKind, { ID, Spec, CreatedAt, UpdatedAt }: ApiPayload): string {
  const labels = Object.entries(Spec.Labels ?? {}).toSorted(([a], [b]) => naturalOrder(a, b));
  const lines = [
    `ID:\t\t\t${ID}`,
    `Name:\t\t\t${Spec.Name}`,
    ...(labels.length > 0 ? ["Labels:"] : []),
    ...labels.map(([key, value]) => ` - ${key}${value === "" ? "" : `=${value}`}`),
    `Created at:            \t${CreatedAt}`,
    `Updated at:            \t${UpdatedAt}`,
    ...(kind === "config" ? ["Data:", Buffer.from(Spec.Data ?? "", "base64").toString("utf8")] : []),
  ];
  return lines.join("\n");
}
