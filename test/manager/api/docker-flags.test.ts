import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { systemClock } from "../../../runtime/clock.ts";
import { dockerCli, hasDocker } from "./docker-cli.ts";
import { createFlags, type FlagCase, laterFlags, updateFlags } from "./docker-flags.ts";
import { ask, idOf, makeHarness } from "./harness.ts";

type Spec = { readonly [name: string]: unknown };

/** The client refuses these by itself, by what it read of the service. */
const refusedFlags = [
  { created: "--mode replicated-job", flags: "--replicas 6 --max-concurrent 3", text: "replicated mode" },
  { created: "--mode global", flags: "--replicas 3", text: "replicas can only be used with replicated" },
] as const;

if (!hasDocker()) {
  t.comment("SKIPPED: no docker client on PATH");
  t.pass("nothing to drive");
} else {
  t.test("each flag reaches the spec as it does with Docker's own engine", async (t) => {
    const harness = await makeHarness({ clock: systemClock });
    const docker = await dockerCli(harness);
    const folder = mkdtempSync(join(tmpdir(), "shoal-flags-"));
    t.teardown(async () => {
      rmSync(folder, { recursive: true, force: true });
      await docker.close();
    });
    const envFile = join(folder, "env");
    writeFileSync(envFile, "EF=1\n#c\nEG\n");
    const ids: Record<string, string> = {};
    for (const name of ["net1", "net2"]) {
      ids[name] = idOf(await ask(harness, "POST /networks/create", { Name: name, Driver: "overlay" }));
    }
    for (const name of ["s1", "s2"]) {
      ids[name] = idOf(await ask(harness, "POST /secrets/create", { Name: name, Data: "eA==" }));
    }
    for (const name of ["c1", "c2"]) {
      ids[name] = idOf(await ask(harness, "POST /configs/create", { Name: name, Data: "eA==" }));
    }
    const host = await ask(harness, "GET /networks/host?scope=swarm");
    ids["id"] = idOf(host);

    const words = (flags: string): string[] =>
      (flags.match(/'[^']*'|\S+/g) ?? []).map((word) =>
        word.replace(/^'(.*)'$/, "$1").replace("<env-file>", envFile),
      );
    const begin = ["service", "create", "--detach", "--no-resolve-image", "--name", "x"];
    const create = (flags: string): ReturnType<typeof docker.run> => {
      const given = words(flags).filter((word) => word !== "--no-resolve-image");
      return docker.run(...begin, ...given, "app:1", "cmd", "arg");
    };
    const update = (flags: string): ReturnType<typeof docker.run> =>
      docker.run("service", "update", "--detach", "--no-resolve-image", ...words(flags), "x");
    const take = async (): Promise<Spec> => {
      const { json } = await ask(harness, "GET /services/x?insertDefaults=true");
      await ask(harness, "DELETE /services/x");
      return (json as { readonly Spec: Spec }).Spec;
    };
    const named = (changes: object): Spec =>
      JSON.parse(
        JSON.stringify(changes).replaceAll(/<(\w+)>/g, (_, name: string) => ids[name] ?? name),
      ) as Spec;

    t.equal((await create("")).code, 0);
    const plain = await take();
    for (const { flags, changes } of [...createFlags, ...laterFlags] satisfies FlagCase[]) {
      const { code, err } = await create(flags);
      t.equal(code, 0, `create ${flags}: ${err}`);
      t.strictSame(withoutJobDefaults(await take()), withoutJobDefaults(merge(plain, named(changes))), flags);
    }
    for (const { created, flags, changes } of updateFlags) {
      t.equal((await create(created)).code, 0, `create ${created}`);
      const { code, err } = await update(flags);
      t.equal(code, 0, `update ${flags}: ${err}`);
      const what = `${created} -> ${flags}`;
      t.strictSame(withoutJobDefaults(await take()), withoutJobDefaults(merge(plain, named(changes))), what);
    }
    for (const { created, flags, text } of refusedFlags) {
      await create(created);
      const { code, err } = await update(flags);
      t.equal(code, 1, flags);
      t.match(err, text);
      await take();
    }
  });
}

/** `null` takes a field away; a list stands for itself. */
function merge(spec: Spec, changes: Spec): Spec {
  const merged: Record<string, unknown> = { ...spec };
  for (const [name, change] of Object.entries(changes)) {
    const before = merged[name];
    if (change === null) delete merged[name];
    else merged[name] = isObject(change) && isObject(before) ? merge(before, change) : change;
  }
  return merged;
}

/** A job has no updates, and refuses a policy for them; Docker shows the defaults of one all the same. */
function withoutJobDefaults(spec: Spec): Spec {
  const mode = spec["Mode"] as object;
  if (!("ReplicatedJob" in mode) && !("GlobalJob" in mode)) return spec;
  const { UpdateConfig: _, RollbackConfig: __, ...rest } = spec;
  return rest;
}

function isObject(value: unknown): value is Spec {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
