/** The worker process as shoald runs it: real containerd, kernel network and mutual TLS; the leader is a fake. */
import { execFile, fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import t from "tap";
import { createRoot } from "../../manager/ca/root.ts";
import type { DaemonToWorker, WorkerToDaemon } from "../../proto/host.ts";
import { systemClock } from "../../runtime/clock.ts";
import type { Assignment } from "../../worker/agent/assignment.ts";
import { bundledFile } from "../../runtime/programs.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { caDeps, clusterId, identityOf, nodeIdOf } from "../manager/ca/certificates.ts";
import { FakeDispatcher } from "../worker/agent/dispatcher.ts";
import { assignment, revision } from "../worker/agent/fixtures.ts";
import { hostSettings, insideNamespaces, startTestHost } from "./containerd.ts";

insideNamespaces(import.meta.url);

const host = await startTestHost("worker");
const image = `${host.registry}/test/bb:1`;
const root = await createRoot(caDeps);
const leader = await FakeDispatcher.start(await identityOf(root, nodeIdOf("m"), "manager"));
const settings = hostSettings(host);
const certificate = await identityOf(root, nodeIdOf("w"), "worker");
const identity: Extract<DaemonToWorker, { kind: "identity" }> = {
  kind: "identity",
  state: "active",
  error: "",
  identity: {
    ...certificate,
    nodeId: nodeIdOf("w"),
    clusterId,
    role: "worker",
    managers: [leader.address],
    listenAddress: "0.0.0.0:2377",
    advertiseAddress: "127.0.0.1:2377",
    dataPathAddress: "127.0.0.1",
  },
};
let worker = startWorker();

t.teardown(async () => {
  worker.kill("SIGKILL");
  await leader.stop();
  await host.stop();
});

await pushImage(host.registry, "test/bb", "1", buildImage([await busyboxLayer()], { Cmd: ["sleep", "600"] }));

function startWorker(): ChildProcess {
  const child = fork(fileURLToPath(bundledFile("worker")), [], {
    env: { ...process.env, SHOAL_HOST: JSON.stringify(settings) },
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  child.send(identity);
  return child;
}

async function heard(kind: WorkerToDaemon["kind"]): Promise<WorkerToDaemon> {
  for (;;) {
    const [message] = (await once(worker, "message")) as [WorkerToDaemon];
    if (message.kind === kind) return message;
  }
}

function task(id: string, script: string, more: Partial<Assignment> = {}): Assignment {
  const container = { image, args: ["sh", "-c", script] };
  return assignment(id, { revision: revision(container), ...more });
}

function docker(...args: string[]): Promise<string> {
  const env = { PATH: process.env["PATH"], HOME: host.directory, DOCKER_HOST: `unix://${settings.socket}` };
  return new Promise((resolve, reject) => {
    execFile("docker", args, { env, timeout: 20_000 }, (error, out, err) =>
      error === null ? resolve(out) : reject(new Error(err)),
    );
  });
}

t.test("tasks run on the host's bridge, and the docker client sees them", async (t) => {
  const ids = ["t1", "t2", "t3"];
  leader.tasks = ids.map((id) => task(id, `echo hello from ${id}; exec sleep 600`));
  await heard("cluster");
  for (const id of ids) await leader.untilState(id, "running");
  const names = (await docker("ps", "--format", "{{.Names}}")).trim().split("\n");
  t.strictSame(names.toSorted(), ["web.1.t1", "web.1.t2", "web.1.t3"]);
  t.equal(await docker("logs", "web.1.t2"), "hello from t2\n");
  t.match(await docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", "web.1.t1"), /172\.31\./);
  t.match(await docker("info"), /Swarm: active/);
});

t.test("kill -9 of the worker: containers run on, an exit meanwhile is known, no line is lost", async (t) => {
  leader.tasks = [
    ...(leader.tasks ?? []),
    task("t4", "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 7"),
  ];
  leader.send({}, leader.tasks.slice(3));
  await leader.untilState("t4", "running");
  const before = await docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}");
  worker.kill("SIGKILL");
  await once(worker, "exit");
  await systemClock.sleep(4_000); // t4 ends while no worker is there to see it.
  worker = startWorker();
  await leader.untilState("t4", "failed");
  t.match(leader.latest.get("t4"), { exitCode: 7, error: "task: non-zero exit (7)" });
  const after = await docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}");
  t.strictSame(
    after.trim().split("\n"),
    before
      .trim()
      .split("\n")
      .filter((line) => !line.includes("t4")),
  );
  const lines = (await docker("logs", "web.1.t4")).trim().split("\n");
  t.strictSame(
    lines,
    Array.from({ length: 60 }, (_, index) => `line ${index}`),
  );
});

t.test("how tasks end: image, command and mount that are not there, and a health check", async (t) => {
  const none = { intervalMs: 0, timeoutMs: 0, startPeriodMs: 0, startIntervalMs: 0, retries: 0 };
  const check = (command: string) => ({ ...none, test: ["CMD-SHELL", command], intervalMs: 300, retries: 2 });
  const mounts = [{ type: "bind" as const, source: "/nowhere", target: "/x", readOnly: false }];
  const more = [
    assignment("e1", { revision: revision({ image: `${host.registry}/test/none:1` }) }),
    assignment("e2", { revision: revision({ image, command: ["/no/such/file"] }) }),
    assignment("e3", { revision: revision({ image, mounts }) }),
    assignment("e4", { revision: revision({ image, healthcheck: check("exit 1"), stopGracePeriodMs: 0 }) }),
    assignment("e5", { revision: revision({ image, healthcheck: check("true") }) }),
  ];
  leader.tasks = [...(leader.tasks ?? []), ...more];
  leader.send({}, more);
  await leader.untilState("e1", "rejected");
  await leader.untilState("e2", "failed");
  await leader.untilState("e3", "rejected");
  await leader.untilState("e4", "failed");
  await leader.untilState("e5", "running");
  const errors = ["e1", "e2", "e3", "e4"].map((id) => leader.latest.get(id)?.error ?? "");
  t.equal(errors[0], `No such image: ${host.registry}/test/none:1`);
  t.match(errors[1], /^task: non-zero exit \(127\)/);
  t.match(errors[2], /bind source path does not exist: \/nowhere/);
  t.match(errors[3], /^task: non-zero exit \(137\): dockerexec: unhealthy container$/);
});

t.test("thirty more are running within a few seconds", async (t) => {
  const many = Array.from({ length: 30 }, (_, index) => task(`m${index}`, "exec sleep 600"));
  const before = performance.now();
  leader.tasks = [...(leader.tasks ?? []), ...many];
  leader.send({}, many);
  for (const { taskId } of many) await leader.untilState(taskId, "running");
  const seconds = (performance.now() - before) / 1_000;
  t.comment(`30 tasks in ${seconds.toFixed(2)} s`);
  t.ok(seconds < 20);
});

t.test("when the node leaves its cluster, all of it goes", async (t) => {
  worker.send({ kind: "identity", state: "inactive", error: "" });
  while ((await docker("ps", "-aq")) !== "") await systemClock.sleep(100);
  t.match(await docker("info"), /Swarm: inactive/);
});

t.test("the worker ends in order when shoald is gone", async (t) => {
  const ended = once(worker, "exit");
  worker.disconnect();
  t.strictSame(await ended, [0, null]);
});
