import { writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { systemClock } from "../../../runtime/clock.ts";
import { id } from "../../sim/objects.ts";
import { dockerCli, hasDocker } from "./docker-cli.ts";
import { makeHarness } from "./harness.ts";

const stack = `
version: "3.8"
services:
  api:
    image: app:1
    environment: { A: "1" }
    configs: [settings]
    secrets: [key]
    deploy:
      replicas: 2
      update_config: { parallelism: 1, delay: 1s, order: start-first }
      placement: { constraints: ["node.role==worker"] }
  db:
    image: db:1
    ports: [{ target: 5432, published: 5432, mode: host }]
configs: { settings: { file: ./settings.txt } }
secrets: { key: { file: ./settings.txt } }
`;

if (!hasDocker()) {
  t.comment("SKIPPED: no docker client on PATH");
  t.pass("nothing to drive");
} else {
  t.test("the unmodified docker client", async (t) => {
    const harness = await makeHarness({ clock: systemClock });
    const docker = await dockerCli(harness);
    const folder = mkdtempSync(join(tmpdir(), "shoal-stack-"));
    t.teardown(async () => {
      rmSync(folder, { recursive: true, force: true });
      await docker.close();
    });
    const ok = async (...args: string[]): Promise<string> => {
      const { code, out, err } = await docker.run(...args);
      t.equal(code, 0, `docker ${args.join(" ")}: ${err}`);
      return out;
    };
    const refused = async (text: string, ...args: string[]): Promise<void> => {
      const { code, err } = await docker.run(...args);
      t.equal(code, 1, `docker ${args.join(" ")} fails`);
      t.match(err, text);
    };

    const nodes = await ok("node", "ls");
    t.match(nodes, /\* +m1 +Ready +Active +Leader/);
    t.match(nodes, /w1 +Ready +Active/);
    await ok("node", "update", "--label-add", "zone=a", "--availability", "drain", "w1");
    t.match(await ok("node", "inspect", "w1"), /"zone": "a"/);
    t.match(await ok("node", "inspect", "self", "--pretty"), /Leader:\s+Yes/);
    await refused("attempting to demote the last manager of the swarm", "node", "demote", "m1");
    await refused("is not down and can't be removed", "node", "rm", "w1");

    await ok("network", "create", "--driver", "overlay", "--attachable", "net1");
    t.match(await ok("network", "ls"), /net1 +overlay +swarm/);
    t.notMatch(await ok("network", "ls"), /bridge/, "the swarm's stand-ins are hidden");
    writeFileSync(join(folder, "settings.txt"), "hello");
    await ok("config", "create", "c1", join(folder, "settings.txt"));
    await ok("secret", "create", "s1", join(folder, "settings.txt"));
    t.match(await ok("config", "ls"), /c1/);
    t.match(await ok("secret", "inspect", "--pretty", "s1"), /Name:\s+s1/);
    t.match(await ok("config", "inspect", "--pretty", "c1"), /hello/);

    const created = await ok(
      "service",
      "create",
      "--detach",
      "--no-resolve-image",
      "--name",
      "web",
      "--replicas",
      "2",
      "--network",
      "net1",
      "--config",
      "c1",
      "--secret",
      "s1",
      "--publish",
      "mode=host,published=8080,target=80",
      "--constraint",
      "node.role==worker",
      "--health-cmd",
      "true",
      "--limit-memory",
      "64m",
      "--limit-cpu",
      "0.5",
      "app:1",
    );
    t.match(created.trim(), /^[0-9a-z]{25}$/);
    const publish = ["service", "create", "--detach", "--no-resolve-image", "--publish", "80:8080"];
    await refused("service needs ingress network, but no ingress network is present", ...publish, "app:1");
    await ok("network", "create", "--driver", "overlay", "--ingress", "front");
    await ok(...publish, "--name", "in", "app:1");
    await refused("port '80' is already in use by service 'in' (", ...publish, "app:1");
    for (const port of ["2377", "2378", "4222"]) {
      const line = ["service", "create", "--detach", "--no-resolve-image", "--publish", `${port}:80`];
      await refused(`port '${port}' is already in use by the managers of this cluster`, ...line, "app:1");
    }
    await ok("service", "update", "--detach", "--publish-rm", "8080", "--publish-add", "81:8080", "in");
    await ok(...publish, "--name", "next", "app:1");
    await refused("port '80' is already in use by service 'next' (", "service", "rollback", "--detach", "in");
    await ok("service", "rm", "next");
    await ok("service", "rollback", "--detach", "in");
    t.match(await ok("service", "ls"), /in +replicated +0\/1 +app:1 +\*:80->8080\/tcp/);
    await ok("service", "rm", "in");
    await ok(
      "service",
      "create",
      "--detach",
      "--no-resolve-image",
      "--name",
      "sweep",
      "--mode",
      "replicated-job",
      "--replicas",
      "5",
      "--max-concurrent",
      "2",
      "app:1",
    );
    t.match(await ok("service", "ls"), /sweep +replicated job +0\/2 \(0\/5 completed\)/);
    await ok("service", "update", "--detach", "--no-resolve-image", "--force", "sweep");
    t.match(await ok("service", "inspect", "sweep"), /"JobIteration": \{\s*"Index": 1\s*\}/);
    await ok("service", "scale", "--detach", "sweep=7");
    t.match(await ok("service", "ls"), /sweep +replicated job +0\/7? ?2? ?\(0\/7 completed\)/);
    await ok("service", "rm", "sweep");
    const warned = await docker.run(
      "service",
      "create",
      "--detach",
      "--no-resolve-image",
      "--name",
      "lost",
      "--label",
      "shoal.prefe=x",
      "--constraint",
      "node.lables.zone==a",
      "app:1",
    );
    t.match(warned.err, 'constraint "node.lables.zone==a": no node has node.lables.zone');
    t.match(warned.err, "label shoal.prefe is not known and does nothing");
    await ok("service", "rm", "lost");
    await refused(
      "name conflicts with an existing object: service web already exists",
      "service",
      "create",
      "--detach",
      "--no-resolve-image",
      "--name",
      "web",
      "app:1",
    );
    await refused("config 'c1' is in use by the following service: web", "config", "rm", "c1");
    await refused("is in use by service", "network", "rm", "net1");
    await harness.fillTasks();
    t.match(await ok("service", "ls"), /web +replicated +2\/2 +app:1/);
    t.match(await ok("service", "ps", "web"), /web\.1 +app:1 +w1 +Running +Running/);
    t.match(await ok("service", "inspect", "--pretty", "web"), /Service Mode:\s+Replicated/);
    t.match(await ok("node", "ps", "w1"), /web\.1/);

    // What the client sends back on an update is what inspect gave it: nothing else may change.
    const before = JSON.parse(await ok("service", "inspect", "web")) as [{ Spec: { TaskTemplate: object } }];
    await ok("service", "update", "--detach", "--label-add", "x=y", "web");
    const after = JSON.parse(await ok("service", "inspect", "web")) as [{ Spec: { TaskTemplate: object } }];
    t.strictSame(after[0].Spec.TaskTemplate, before[0].Spec.TaskTemplate);
    t.match(await ok("service", "ls"), /2\/2/);
    await ok("service", "scale", "--detach", "web=3");
    await harness.fillTasks();
    t.match(await ok("service", "ls"), /3\/3/);
    await ok("service", "update", "--detach", "--no-resolve-image", "--image", "app:2", "web");
    t.match(await ok("service", "ls"), /app:2/);
    await ok("service", "rollback", "--detach", "web");
    t.match(await ok("service", "ls"), /app:1/);
    const [rolledBack] = JSON.parse(await ok("service", "inspect", "web")) as [{ UpdateStatus: object }];
    t.match(rolledBack.UpdateStatus, { State: "rollback_started", Message: "manually requested rollback" });

    // The progress bars end when every task that is up to date runs.
    await ok(
      "service",
      "create",
      "--detach",
      "--no-resolve-image",
      "--name",
      "quick",
      "--update-monitor",
      "1ms",
      "app:1",
    );
    await harness.fillTasks();
    const progress = await ok("service", "update", "--label-add", "a=b", "quick");
    t.match(progress, /Service \S+ converged/);

    const serviceId = created.trim();
    const line = (text: string) => ({
      serviceId: serviceId as never,
      taskId: harness.store.view((v) => v.tasks.byService(serviceId as never)[0]?.id) as never,
      nodeId: id<never>("w1"),
      stream: "stdout" as const,
      atNs: "1700000000123456789",
      line: Buffer.from(text),
    });
    harness.logLines.push(line("one\n"), line("two"));
    const logs = await ok("service", "logs", "--timestamps", "web");
    t.match(logs, /2023-11-14T22:13:20.123456789Z web\.\d\.\w+@w1 +\| one\n2023-.* \| two\n/);
    await ok("service", "logs", "--raw", "web");

    writeFileSync(join(folder, "stack.yml"), stack);
    await ok(
      "stack",
      "deploy",
      "--detach=true",
      "--resolve-image",
      "never",
      "-c",
      join(folder, "stack.yml"),
      "st",
    );
    await harness.fillTasks();
    t.match(await ok("stack", "ls"), /st +2/);
    t.match(await ok("stack", "services", "st"), /st_api +replicated +2\/2/);
    t.match(await ok("stack", "ps", "st"), /st_db\.1/);
    await ok(
      "stack",
      "deploy",
      "--detach=true",
      "--resolve-image",
      "never",
      "-c",
      join(folder, "stack.yml"),
      "st",
    );
    const [api] = JSON.parse(await ok("service", "inspect", "st_api")) as [
      { Spec: object; PreviousSpec: object },
    ];
    t.strictSame(api.Spec, api.PreviousSpec, "deploying the same stack again changes nothing");
    t.match(
      await ok("stack", "rm", "--detach=true", "st"),
      /Removing service st_api[\s\S]*Removing network st_default/,
    );

    await ok("service", "rm", "web", "quick");
    t.equal((await ok("service", "ls", "-q")).trim(), "");
    await ok("network", "rm", "net1");
    await ok("config", "rm", "c1");
    await ok("secret", "rm", "s1");
    t.match(await ok("swarm", "join-token", "-q", "worker"), "w");
    t.match(await ok("swarm", "join-token", "--rotate", "-q", "manager"), "new manager");
    t.match(await ok("swarm", "update", "--task-history-limit", "3"), "Swarm updated.");
    await refused("auto-lock", "swarm", "update", "--autolock");
    await refused("no unlock key is set", "swarm", "unlock-key");
    // The client cuts "1s" back from now to whole seconds, which on a fast machine is before the first service was made.
    const untilS = String(Math.ceil(Date.now() / 1_000));
    t.match(
      await ok("events", "--since", "1h", "--until", untilS, "--filter", "type=service"),
      /service create \S+ \(name=web\)/,
    );
  });
}
