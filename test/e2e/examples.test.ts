import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import { waitFor } from "../lab/shell.ts";
import { clients, type Client } from "./clients.ts";
import { labForTests, noLab, unhandledErrors } from "./fixture.ts";
import type { Lab } from "../lab/lab.ts";
import type { View } from "./view.ts";

const folder = fileURLToPath(new URL("../../../examples/", import.meta.url));

interface World {
  readonly lab: Lab;
  readonly view: View;
  readonly client: Client;
  /** Stack name; unlike for each client. */
  readonly stack: string;
  /** Deploys the example's compose file, with variables. */
  readonly deploy: (env?: Readonly<Record<string, string>>) => Promise<string>;
  /** A command against the first manager. */
  readonly cli: (...args: string[]) => Promise<string>;
}

/** What has to be true of each example. An example without an entry here fails the test. */
const checks: Record<string, (t: Test, world: World) => Promise<void>> = {
  "01-one-service": async (t, { lab, view, stack, cli }) => {
    const tasks = await view.waitRunning(`${stack}_web`, 2);
    const hosts = Object.keys(await view.spread(tasks));
    for (const name of hosts) {
      const url = `http://${lab.host(name).addr}:8080/`;
      const answer = await waitFor(`answer of ${url}`, { timeoutMs: 10_000 }, () =>
        lab.lan.run(["timeout", "2", "busybox", "wget", "-qO-", url]),
      );
      t.match(answer, /^version=1 host=/);
    }
    await cli("service", "scale", "-d", `${stack}_web=3`);
    await view.waitRunning(`${stack}_web`, 3);
  },
  "02-rolling-update": async (t, { view, stack, deploy, cli }) => {
    const service = `${stack}_web`;
    const waitVersion = (version: string): Promise<true> =>
      waitFor(`four tasks of web:${version}`, { timeoutMs: 40_000 }, async () => {
        const running = await view.running(service);
        return (
          running.length === 4 &&
          running.every(({ Spec }) => Spec.ContainerSpec.Image.includes(`web:${version}`))
        );
      });
    const waitUpdate = (state: string): Promise<true> =>
      waitFor(`update ${state}`, { timeoutMs: 40_000 }, async () => {
        const seen = (await view.service(service)).UpdateStatus?.State;
        if (seen !== state) throw new Error(`it is ${seen}`);
        return true;
      });
    await waitVersion("1");
    await deploy({ VERSION: "2" });
    await waitVersion("2");
    await waitUpdate("completed");
    await deploy({ VERSION: "broken" });
    await waitUpdate("rollback_completed");
    await waitVersion("2");
    t.match(await cli("service", "inspect", "--pretty", service), /roll/i);
  },
  "03-global-service": async (t, { lab, view, stack, cli }) => {
    const tasks = await view.waitRunning(`${stack}_agent`, lab.hosts.length);
    t.strictSame(await view.spread(tasks), Object.fromEntries(lab.hosts.map(({ name }) => [name, 1])));
    await waitFor("lines of every node", { timeoutMs: 15_000 }, async () => {
      const logs = await cli("service", "logs", `${stack}_agent`);
      return lab.hosts.every(({ name }) => logs.includes(`${name} load`));
    });
  },
  "04-constraints": async (t, { view, stack, cli }) => {
    const batch = await view.waitRunning(`${stack}_batch`, 2);
    t.strictSame(await view.spread(batch), { host2: 1, host3: 1 });
    const pending = await waitFor("reason why the store waits", { timeoutMs: 10_000 }, async () =>
      (await view.tasks(`${stack}_store`)).find(({ Status }) => Status.State === "pending" && Status.Err),
    );
    t.match(pending.Status.Err, /no suitable node/);
    await cli("node", "update", "--label-add", "disk=ssd", "host3");
    const store = await view.waitRunning(`${stack}_store`, 1);
    t.strictSame(await view.spread(store), { host3: 1 });
    await cli("node", "update", "--label-rm", "disk", "host3");
    await waitFor(
      "the store to leave",
      { timeoutMs: 20_000 },
      async () => (await view.running(`${stack}_store`)).length === 0,
    );
  },
  "05-several-services": async (t, { view, stack, cli }) => {
    await view.waitRunning(`${stack}_front`, 2);
    await view.waitRunning(`${stack}_back`, 2);
    await waitFor("answers of back in the logs of front", { timeoutMs: 20_000 }, async () =>
      (await cli("service", "logs", `${stack}_front`)).includes("version=1"),
    );
    t.match(await cli("network", "ls"), `${stack}_inner`);
    t.match(await cli("stack", "services", stack), `${stack}_back`);
  },
};

t.test("examples", { skip: noLab }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-exa", managers: 1, workers: 2 });
  const [host1] = lab.hosts;
  if (host1 === undefined) throw new Error("a host was asked for");
  const examples = readdirSync(folder).filter((entry) => /^\d/.test(entry));

  t.test("each has a check here", async (t) => {
    t.strictSame(Object.keys(checks), examples);
  });

  for (const client of clients) {
    for (const example of examples) {
      t.test(`${example} with ${client.name}`, { skip: client.missing }, async (t) => {
        const stack = `e${example.slice(1, 2)}${client.name}`;
        const file = `${folder}${example}/compose.yaml`;
        const world: World = {
          lab,
          view,
          client,
          stack,
          deploy: (env = {}) => client.run(host1, ["stack", "deploy", "-d", "-c", file, stack], { env }),
          cli: (...args) => client.run(host1, args),
        };
        try {
          await world.deploy();
          await checks[example]?.(t, world);
        } finally {
          await world.cli("stack", "rm", stack); // Also after a failure: the next example needs the ports.
        }
        await waitFor("end of the stack", { timeoutMs: 30_000 }, async () => {
          const listed = await Promise.all(lab.hosts.map((host) => client.run(host, ["ps", "-aq"])));
          return listed.join("").trim() === "" && !(await world.cli("stack", "ls")).includes(stack);
        });
      });
    }
  }

  t.test("no error was left unhandled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
