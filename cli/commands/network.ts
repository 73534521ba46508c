import type { Command } from "commander";
import type { ApiNetwork } from "../api-types.ts";
import { type Client, filters } from "../client.ts";
import { forEach } from "../failure.ts";
import { naturalOrder, shortId, table, write } from "../print.ts";
import { filterArguments } from "../task-table.ts";
import { parsePair } from "../units.ts";
import { collect } from "../options.ts";

interface CreateOptions {
  driver: string;
  subnet: string[];
  gateway: string[];
  internal: boolean;
  attachable: boolean;
  label: string[];
  opt: string[];
}

export function register(program: Command, client: () => Client): void {
  const network = program.command("network").description("Manage networks");
  network
    .command("ls")
    .alias("list")
    .description("List networks")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("-q, --quiet", "only display network IDs", false)
    .action(async (options: { filter: string[]; quiet: boolean }) => {
      const networks = await client().get<ApiNetwork[]>("/networks", {
        filters: filters(filterArguments(options.filter)),
      });
      const sorted = networks.toSorted((a, b) => naturalOrder(a.Name, b.Name));
      if (options.quiet) return sorted.forEach(({ Id }) => write(shortId(Id)));
      const rows = sorted.map(({ Id, Name, Driver, Scope }) => [shortId(Id), Name, Driver, Scope]);
      return write(table([["NETWORK ID", "NAME", "DRIVER", "SCOPE"], ...rows]));
    });
  network
    .command("create <network>")
    .description("Create a network")
    .option("-d, --driver <driver>", "driver to manage the network", "overlay")
    .option("--subnet <cidr>", "subnet in CIDR format", collect, [])
    .option("--gateway <address>", "gateway of the subnet", collect, [])
    .option("--internal", "restrict external access to the network", false)
    .option("--attachable", "enable manual container attachment", false)
    .option("--label <label>", "set metadata on a network", collect, [])
    .option("-o, --opt <option>", "set driver specific options", collect, [])
    .action(async (name: string, options: CreateOptions) => {
      const { Id } = await client().post<{ Id: string }>("/networks/create", undefined, {
        Name: name,
        Driver: options.driver,
        Internal: options.internal,
        Attachable: options.attachable,
        Labels: Object.fromEntries(options.label.map(parsePair)),
        Options: Object.fromEntries(options.opt.map(parsePair)),
        ...(options.subnet.length > 0 && {
          IPAM: {
            Driver: "default",
            Config: options.subnet.map((Subnet, index) => ({
              Subnet,
              ...(options.gateway[index] !== undefined && { Gateway: options.gateway[index] }),
            })),
          },
        }),
      });
      write(Id);
    });
  network
    .command("inspect <networks...>")
    .description("Display detailed information on one or more networks")
    .option("-v, --verbose", "verbose output for diagnostics", false)
    .action(async (names: string[], { verbose }: { verbose: boolean }) => {
      const found: unknown[] = [];
      await forEach(names, async (name) => {
        found.push(await client().get(`/networks/${encodeURIComponent(name)}`, { verbose }));
      });
      write(JSON.stringify(found, null, 4));
    });
  network
    .command("rm <networks...>")
    .alias("remove")
    .description("Remove one or more networks")
    .action((names: string[]) =>
      forEach(names, async (name) => {
        await client().delete(`/networks/${encodeURIComponent(name)}`);
        write(name);
      }),
    );
}
