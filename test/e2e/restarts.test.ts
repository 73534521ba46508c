import t from "tap";
import { signal } from "../lab/cgroup.ts";
import type { HostProcess } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import { attachedContainers } from "./attached.ts";
import { anyClient as client, docker } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import { identities } from "./view.ts";

/** Writes a number a line, some twenty a second, for ever. */
const count = 'trap "exit 0" TERM; i=0; while :; do echo "line $i"; i=$((i+1)); sleep 0.05; done';
/** Ends with code 42 when it is told to. */
const obedient = 'trap "exit 42" USR1; trap "exit 0" TERM; echo ready; while :; do sleep 1 & wait $!; done';

t.test("our own processes killed", { skip: noLab || client.missing }, async (t) => {
  // One manager that is also the only node with tasks: whatever is killed, these tasks are concerned.
  const { lab, view } = await labForTests(t, { name: "e-rest", managers: 1, workers: 1 });
  const [host1, host2] = lab.hosts;
  if (host1 === undefined || host2 === undefined) throw new Error("two hosts were asked for");
  /** The first processes of the containers whose command has the mark in it. */
  const containerPids = async (mark: string): Promise<number[]> =>
    (await host1.processes())
      .filter((info) => info.depth === 3 && info.innerPid === 1 && info.argv.join(" ").includes(mark))
      .map(({ pid }) => pid)
      .toSorted((a, b) => a - b);
  const logLines = async (): Promise<string[]> =>
    (await client.run(host1, ["service", "logs", "--raw", "counter"])).split("\n").filter(Boolean);

  t.test("services to watch", async (t) => {
    // A busy machine may need longer than the usual grace of three seconds to start a process again. That a node which
    // stays away is replaced is tested elsewhere; here nothing may be, however slow the machine.
    await client.run(host1, ["swarm", "update", "--dispatcher-heartbeat", "10s"]);
    const here = ["--constraint", "node.hostname==host1"];
    await client.run(host1, [
      "service",
      "create",
      ...quick,
      "--name",
      "counter",
      ...here,
      images.bb1,
      "sh",
      "-c",
      count,
    ]);
    t.equal((await containerPids("line $i")).length, 1);
  });

  for (const name of ["worker", "manager", "shoald", "containerd"] satisfies HostProcess[]) {
    t.test(`kill -9 of ${name}: every container runs on as the same process of the same task`, async (t) => {
      const tasks = identities(await view.running("counter"));
      const pids = await containerPids("line $i");
      const old = await host1.signalProcess(name);
      await waitFor(`new ${name}`, { timeoutMs: 15_000 }, async () => {
        const pid = (await host1.ownProcesses())[name]?.pid;
        return pid !== undefined && pid !== old;
      });
      await view.waitNode(host1, "ready", 30_000);
      const lines = await waitFor("logs to be read again", { timeoutMs: 30_000 }, logLines);
      await waitFor(
        "new log lines",
        { timeoutMs: 20_000 },
        async () => (await logLines()).length > lines.length,
      );
      t.strictSame(await containerPids("line $i"), pids);
      t.strictSame(identities(await view.waitRunning("counter", 1)), tasks);
    });
  }

  t.test("no log line was lost or came twice", async (t) => {
    const lines = await logLines();
    const wanted = lines.map((_, at) => `line ${at}`);
    t.ok(lines.length > 50, `${lines.length} lines`);
    t.strictSame(lines, wanted);
  });

  for (const name of ["worker", "shoald", "containerd"] satisfies HostProcess[]) {
    t.test(`a container that ends while ${name} is away keeps its exit code`, async (t) => {
      const service = `ends-${name}`;
      const flags = [
        "--name",
        service,
        "--constraint",
        "node.hostname==host1",
        "--restart-condition",
        "none",
      ];
      await client.run(host1, [
        "service",
        "create",
        ...quick,
        ...flags,
        images.bb1,
        "sh",
        "-c",
        `: ${service}; ${obedient}`,
      ]);
      const [pid] = await waitFor("its process", { timeoutMs: 10_000 }, async () => {
        const pids = await containerPids(service);
        return pids.length === 1 && pids;
      });
      if (pid === undefined) throw new Error("it has no process");
      await host1.signalProcess(name);
      signal(pid, "SIGUSR1");
      const ended = await waitFor("task that has ended", { timeoutMs: 30_000 }, async () =>
        (await view.tasks(service)).find(({ Status }) => ["failed", "complete"].includes(Status.State)),
      );
      t.match(ended.Status, { State: "failed", ContainerStatus: { ExitCode: 42 } });
      t.equal((await view.tasks(service)).length, 1, "and no second task was made");
      await waitFor("api", { timeoutMs: 20_000 }, () => client.run(host1, ["service", "rm", service]));
    });
  }

  t.test(
    "worker and shoald of a worker node killed at once: it re-adopts, and nothing is replaced",
    async (t) => {
      const flags = ["--name", "adopted", "--replicas", "3", "--constraint", "node.hostname==host2"];
      await client.run(host1, ["service", "create", ...quick, ...flags, images.bb1, "sh", "-c", count]);
      const before = identities(await view.running("adopted"));
      t.equal(before.length, 3);
      await host2.signalProcess("shoald");
      await host2.signalProcess("worker").catch(() => undefined); // it may have ended with its parent
      await waitFor(
        "new worker on host2",
        { timeoutMs: 15_000 },
        async () => (await host2.ownProcesses()).worker,
      );
      await view.waitNode(host2, "ready", 30_000);
      t.strictSame(identities(await view.waitRunning("adopted", 3)), before);
    },
  );

  t.test("containers on networks of the cluster", { skip: client !== docker && "docker's part" }, async (t) =>
    attachedContainers(t, [host1, host2], view),
  );

  t.test("no error was left unhandled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
