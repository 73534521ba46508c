import { Command } from "commander";
import t from "tap";
import type { ApiServiceSpec } from "../../cli/api-types.ts";
import type { Client } from "../../cli/client.ts";
import { register } from "../../cli/commands/service.ts";
import { acceptTruthValues } from "../../cli/truth.ts";

/** The specification that a command line sends; the service it updates has a read-only file system. */
async function sent(line: string): Promise<ApiServiceSpec> {
  const specs: ApiServiceSpec[] = [];
  const before = {
    Name: "web",
    Labels: {},
    TaskTemplate: { ContainerSpec: { Image: "web:1", ReadOnly: true } },
    Mode: { Replicated: { Replicas: 1 } },
  };
  const client = {
    get: async () => ({ ID: "s", Version: { Index: 1 }, Spec: before }),
    post: async (_path: string, _query: unknown, spec: ApiServiceSpec) => (specs.push(spec), { ID: "s" }),
  } as unknown as Client;
  const program = new Command().exitOverride().enablePositionalOptions();
  register(program, () => client);
  acceptTruthValues(program);
  await program.parseAsync(line.split(" "), { from: "user" });
  const [spec] = specs;
  if (spec === undefined) throw new Error("nothing was sent");
  return spec;
}

const create = "service create -d --no-resolve-image";
const update = "service update -d=true --quiet=false --no-resolve-image";
const cases = [
  { line: `${create} --tty web:1`, want: { Image: "web:1", TTY: true } },
  {
    line: `${create} --init=true --name x --tty=false web:1`,
    want: { Image: "web:1", Init: true, TTY: false },
  },
  {
    line: `${create} web:1 serve --tty=false --init`,
    want: { Image: "web:1", Args: ["serve", "--tty=false", "--init"] },
  },
  { line: `${create} --no-healthcheck web:1`, want: { Healthcheck: { Test: ["NONE"] } } },
  { line: `${create} --env --tty=false web:1`, want: { Image: "web:1", Env: ["--tty=false"] } },
  { line: `${update} --read-only=false web`, want: { ReadOnly: false } },
  { line: `${update} web --init`, want: { ReadOnly: true, Init: true } },
] as const;

for (const { line, want } of cases) {
  t.test(line, async (t) => {
    t.match((await sent(line)).TaskTemplate.ContainerSpec, want);
  });
}
