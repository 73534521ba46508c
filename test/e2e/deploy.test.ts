import t from "tap";
import { call } from "../lab/api.ts";
import { waitFor } from "../lab/shell.ts";
import { clients } from "./clients.ts";
import { idle, images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import { identities } from "./view.ts";

interface NodeWithVersion {
  readonly Version: { readonly Index: number };
  readonly Spec: object;
}

t.test("deploy and scale over five hosts", { skip: noLab }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-dep", managers: 3, workers: 2 });
  const [host1, host2, , host4, host5] = lab.hosts;
  if (host1 === undefined || host2 === undefined || host4 === undefined || host5 === undefined) {
    throw new Error("five hosts were asked for");
  }

  t.test("a manager that is demoted and promoted again at once is one again", async (t) => {
    const timeout = { timeoutMs: 30_000 };
    const setRole = async (Role: "manager" | "worker"): Promise<void> => {
      const { ID } = await view.node(host2);
      const node = await call<NodeWithVersion>(host1.socket, "GET", `/nodes/${ID}`);
      const path = `/nodes/${ID}/update?version=${node.Version.Index}`;
      await call(host1.socket, "POST", path, { body: { ...node.Spec, Role } });
    };
    const isMember = async (): Promise<boolean> =>
      (await view.node(host2)).ManagerStatus?.Reachability === "reachable";
    await setRole("worker");
    await waitFor("host2 is out of the group", { ...timeout, everyMs: 5 }, async () => !(await isMember()));
    await setRole("manager");
    await waitFor("host2 is back in the group", timeout, isMember);
    await waitFor("host2 answers as a manager", timeout, () => call(host2.socket, "GET", "/nodes"));
    t.pass();
  });

  for (const client of clients) {
    t.test(`with ${client.name}`, { skip: client.missing }, async (t) => {
      const name = `app-${client.name}`;

      t.test("ten replicas are spread evenly, and the client waits for them", async (t) => {
        const flags = ["--name", name, "--replicas", "10"];
        await client.run(host1, ["service", "create", ...quick, ...flags, images.bb1, ...idle]);
        const tasks = await view.running(name);
        t.equal(tasks.length, 10, "running when the client returns");
        t.strictSame(await view.spread(tasks), { host1: 2, host2: 2, host3: 2, host4: 2, host5: 2 });
      });

      t.test("scale to 30 through another manager, then to 3: the lowest slots stay", async (t) => {
        const before = identities(await view.running(name));
        await client.run(host2, ["service", "scale", `${name}=30`]);
        const grown = await view.waitRunning(name, 30);
        const after = new Set(identities(grown));
        t.ok(
          before.every((identity) => after.has(identity)),
          "no task of the first ten was touched",
        );
        await client.run(host2, ["service", "scale", `${name}=3`]);
        await view.waitRunning(name, 3);
        const listed = await client.run(host1, ["service", "ls"]);
        t.match(listed, new RegExp(` ${name} +replicated +3/3 `));
      });

      t.test("service ps, node ls, info and ps show it", async (t) => {
        t.match(await client.run(host1, ["service", "ps", name]), /Running/);
        const nodes = await client.run(host2, ["node", "ls"]);
        for (const { name: hostname } of lab.hosts) t.match(nodes, hostname);
        t.match(nodes, /Leader/);
        t.match(await client.run(host1, ["info"]), /Swarm: active/);
        await client.run(host1, ["service", "inspect", name]);
        const listed = await Promise.all(lab.hosts.map((host) => client.run(host, ["ps", "-q"])));
        const containers = listed.join("\n").split("\n").filter(Boolean);
        t.ok(containers.length >= 3, `${containers.length} containers on all hosts`);
      });

      t.test("service logs have a line of every task", async (t) => {
        const tasks = await view.running(name);
        await waitFor("three lines", { timeoutMs: 15_000 }, async () => {
          const logs = await client.run(host1, ["service", "logs", name]);
          return logs.split("\n").filter((line) => line.includes("started ")).length >= tasks.length;
        });
        t.pass();
      });

      t.test("promote and demote change the role, and touch no task", async (t) => {
        const before = identities(await view.running(name));
        await client.run(host1, ["node", "promote", "host4"]);
        await waitFor("host4 reachable as a manager", { timeoutMs: 30_000 }, async () => {
          return (await view.node(host4)).ManagerStatus?.Reachability === "reachable";
        });
        const listed = await waitFor("answer of host4 as a manager", { timeoutMs: 15_000 }, () =>
          client.run(host4, ["node", "ls"]),
        );
        t.match(listed, /host5/);
        await client.run(host1, ["node", "demote", "host4"]);
        await waitFor("host4 a worker", { timeoutMs: 30_000 }, async () => {
          const node = await view.node(host4);
          return (
            node.Spec.Role === "worker" && node.ManagerStatus === undefined && node.Status.State === "ready"
          );
        });
        await waitFor("host4 refuses as a worker", { timeoutMs: 15_000 }, async () => {
          const answer = await client.try(host4, ["node", "ls"]);
          return answer.code !== 0 && answer.stderr.includes("not a swarm manager");
        });
        t.strictSame(identities(await view.running(name)), before);
      });

      t.test("drain moves the tasks away, active lets new ones come", async (t) => {
        await client.run(host1, ["service", "scale", `${name}=5`]);
        await client.run(host1, ["node", "update", "--availability", "drain", "host5"]);
        await waitFor("no task on host5", { timeoutMs: 20_000 }, async () => {
          const tasks = await view.running(name);
          return tasks.length === 5 && (await view.spread(tasks))["host5"] === undefined;
        });
        await client.run(host1, ["node", "update", "--availability", "active", "host5"]);
        t.pass();
      });

      t.test("a removed service leaves no container", async (t) => {
        await client.run(host1, ["service", "rm", name]);
        await waitFor("no container", { timeoutMs: 20_000 }, async () => {
          const listed = await Promise.all(lab.hosts.map((host) => client.run(host, ["ps", "-aq"])));
          return listed.join("").trim() === "";
        });
        t.pass();
      });
    });
  }

  t.test("a task reaches another host's task by service name", async (t) => {
    const client = clients.find(({ missing }) => missing === false);
    if (client === undefined) throw new Error("no client at all is there");
    await client.run(host1, ["network", "create", "-d", "overlay", "meet"]);
    const on = (host: string): string[] => ["--network", "meet", "--constraint", `node.hostname==${host}`];
    await client.run(host1, ["service", "create", ...quick, "--name", "back", ...on("host5"), images.web1]);
    const ask = 'trap "exit 0" TERM; while :; do timeout 2 wget -qO- http://back:8080/; sleep 0.5; done';
    await client.run(host1, [
      "service",
      "create",
      ...quick,
      "--name",
      "front",
      ...on("host4"),
      images.bb1,
      "sh",
      "-c",
      ask,
    ]);
    await waitFor("answer of back in the logs of front", { timeoutMs: 20_000 }, async () =>
      (await client.run(host1, ["service", "logs", "front"])).includes("version=1"),
    );
    await client.run(host1, ["service", "rm", "front", "back"]);
    t.pass();
  });

  t.test("what cannot be is refused with a text that helps", async (t) => {
    const client = clients.find(({ missing }) => missing === false);
    if (client === undefined) throw new Error("no client at all is there");
    await client.run(host1, [
      "service",
      "create",
      "-d",
      "--name",
      "first",
      "--publish",
      "8080:8080",
      images.web1,
    ]);
    const taken = await client.try(host1, ["service", "create", "-d", "--publish", "8080:8080", images.web1]);
    t.not(taken.code, 0);
    t.match(taken.stderr, /port '8080' is already in use by service 'first' \(\w+\) as an ingress port/);
    await client.run(host1, ["service", "rm", "first"]);
    const worker = await client.try(host5, ["service", "ls"]);
    t.not(worker.code, 0);
    t.match(worker.stderr, /not a swarm manager/);
    const unknown = ["service", "create", "-d", "--name", "nowhere", "10.230.0.254:5000/nothing:9", "true"];
    await client.run(host1, unknown);
    const reason = await waitFor("reason of the failure", { timeoutMs: 20_000 }, async () =>
      (await view.tasks("nowhere"))
        .map((task) => task.Status.Err)
        .find((text) => text !== undefined && text !== ""),
    );
    t.match(reason, /nothing:9/);
    await client.run(host1, ["service", "rm", "nowhere"]);
  });

  t.test("no error was left unhandled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
