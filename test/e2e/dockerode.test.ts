import Docker from "dockerode";
import t from "tap";
import { waitFor } from "../lab/shell.ts";
import { idle, images, labForTests, noLab, unhandledErrors } from "./fixture.ts";

interface Thing {
  readonly ID: string;
  readonly Version: { readonly Index: number };
}
interface TaskThing extends Thing {
  readonly Slot?: number;
  readonly NodeID?: string;
  readonly Status: { readonly State: string };
}
interface ServiceThing extends Thing {
  readonly Spec: {
    readonly Name: string;
    readonly Labels: Readonly<Record<string, string>>;
    readonly TaskTemplate: { readonly ForceUpdate?: number; readonly ContainerSpec: object };
    readonly Mode: object;
  };
  readonly PreviousSpec?: object;
  readonly UpdateStatus?: { readonly State: string; readonly Message: string };
  readonly ServiceStatus?: object;
  readonly JobStatus?: object;
}

/** What a failed call rejects with. */
interface Refusal extends Error {
  readonly statusCode: number;
  readonly json: { readonly message: string };
}

const second = 1_000_000_000;

t.test(
  "dockerode drives the swarm, and rejects with what it rejects with at Docker",
  { skip: noLab },
  async (t) => {
    const { lab } = await labForTests(t, { name: "e-node", managers: 1, workers: 1 });
    const [manager, worker] = lab.hosts;
    if (manager === undefined || worker === undefined) throw new Error("two hosts were asked for");
    const docker = new Docker({ socketPath: manager.socket });

    const refused = async (status: number, text: string, call: () => Promise<unknown>): Promise<void> => {
      const reason = (await call().then(
        () => undefined,
        (error: unknown) => error,
      )) as Refusal | undefined;
      t.equal(reason?.statusCode, status, text);
      t.match(reason?.json.message ?? "", text);
    };
    const tasksOf = async (service: string, filters: object = {}): Promise<TaskThing[]> =>
      (await docker.listTasks({
        filters: JSON.stringify({ service: [service], ...filters }),
      })) as TaskThing[];
    const running = (service: string, count: number): Promise<TaskThing[]> =>
      waitFor(`${count} running tasks of ${service}`, { timeoutMs: 30_000 }, async () => {
        const tasks = await tasksOf(service, { "desired-state": { running: true } });
        const isThere = tasks.length === count && tasks.every(({ Status }) => Status.State === "running");
        return isThere ? tasks : false;
      });
    const look = async (name: string): Promise<ServiceThing> =>
      (await docker.getService(name).inspect()) as ServiceThing;
    const settled = (name: string, state: string): Promise<ServiceThing> =>
      waitFor(`${name} ${state}`, { timeoutMs: 30_000 }, async () => {
        const service = await look(name);
        return service.UpdateStatus?.State === state ? service : false;
      });
    const plain = (name: string, change: object = {}): Docker.CreateServiceOptions =>
      ({
        Name: name,
        TaskTemplate: {
          ContainerSpec: {
            Image: images.bb1,
            Args: [...idle],
            Env: ["A=1"],
            StopGracePeriod: 2 * second,
          },
        },
        UpdateConfig: { Parallelism: 0, Monitor: second / 10 },
        RollbackConfig: { Parallelism: 0, Monitor: second / 10 },
        ...change,
      }) as Docker.CreateServiceOptions;

    t.test("the swarm itself", async (t) => {
      const before = (await docker.swarmInspect()) as Thing & {
        JoinTokens: { Worker: string };
        Spec: object;
      };
      t.match(before.JoinTokens.Worker, /^SWMTKN-1-/);
      const change = { version: before.Version.Index, rotateWorkerToken: true };
      await docker.swarmUpdate({ _query: change, _body: before.Spec });
      const after = (await docker.swarmInspect()) as typeof before;
      t.not(after.JoinTokens.Worker, before.JoinTokens.Worker);
      await refused(500, "update out of sequence", () =>
        docker.swarmUpdate({ _query: { version: 1 }, _body: before.Spec }),
      );
      await refused(503, "This node is already part of a swarm", () =>
        docker.swarmInit({ ListenAddr: "0.0.0.0:2377" }),
      );
      const onWorker = new Docker({ socketPath: worker.socket });
      await refused(503, "Worker nodes can't be used to view or modify cluster state", () =>
        onWorker.listServices(),
      );
    });

    t.test("secrets and configs", async () => {
      const secret = await docker.createSecret({ Name: "n-secret", Data: "aGVsbG8=", Labels: { k: "v" } });
      const shown = (await docker.getSecret(secret.id).inspect()) as Thing & { Spec: { Data?: string } };
      t.equal(shown.Spec.Data, undefined, "a secret's data never comes back");
      const spec = { ...shown.Spec, Labels: { k: "w" } };
      await docker.getSecret(secret.id).update({ version: shown.Version.Index, ...spec });
      const byLabel = await docker.listSecrets({ filters: { label: ["k=w"] } });
      t.equal(byLabel.length, 1);
      await refused(409, "secret n-secret already exists", () =>
        docker.createSecret({ Name: "n-secret", Data: "eA==" }),
      );
      await refused(400, "secret data must be larger than 0", () =>
        docker.createSecret({ Name: "n-other", Data: "" }),
      );
      await refused(404, "secret none not found", () => docker.getSecret("none").inspect());
      await docker.getSecret("n-secret").remove();
      const config = await docker.createConfig({ Name: "n-config", Data: "aGVsbG8=" });
      t.match(await docker.getConfig(config.id).inspect(), { Spec: { Name: "n-config", Data: "aGVsbG8=" } });
      await refused(400, "invalid config version", () =>
        docker.getConfig(config.id).update({ Name: "n-config" }),
      );
      await docker.getConfig(config.id).remove();
      await refused(404, "not found", () => docker.getConfig(config.id).inspect());
    });

    t.test("a service from its creation to its removal", async (t) => {
      const sinceS = Math.floor(Date.now() / 1_000) - 1;
      await docker.createService(
        plain("n-web", { Labels: { tier: "front" }, Mode: { Replicated: { Replicas: 2 } } }),
      );
      const [task] = await running("n-web", 2);
      t.match(await docker.getTask(task?.ID ?? "").inspect(), {
        DesiredState: "running",
        Spec: { ContainerSpec: {} },
      });
      const listed = (await docker.listServices({
        filters: { name: ["n-w"], label: ["tier=front"] },
        status: true,
      } as object)) as unknown as ServiceThing[];
      t.match(listed, [{ Spec: { Name: "n-web" }, ServiceStatus: { RunningTasks: 2, DesiredTasks: 2 } }]);
      await refused(409, "service n-web already exists", () => docker.createService(plain("n-web")));
      await refused(400, "name must be valid as a DNS name component", () =>
        docker.createService(plain("a.b")),
      );
      await refused(400, "invalid filter 'colour'", () =>
        docker.listServices({ filters: { colour: ["red"] } } as object),
      );
      await refused(404, "service none not found", () => docker.getService("none").inspect());
      await refused(404, "task none not found", () => docker.getTask("none").inspect());

      const first = await look("n-web");
      const change = (service: ServiceThing, spec: object): Promise<unknown> =>
        docker.getService("n-web").update({ version: service.Version.Index, ...service.Spec, ...spec });
      await change(first, { Mode: { Replicated: { Replicas: 3 } } });
      await running("n-web", 3);
      await refused(500, "update out of sequence", () => change(first, {}));
      const scaled = await look("n-web");
      const template = scaled.Spec.TaskTemplate;
      await change(scaled, {
        TaskTemplate: { ...template, ContainerSpec: { ...template.ContainerSpec, Env: ["A=2"] } },
      });
      const updated = await settled("n-web", "completed");
      t.match(updated.PreviousSpec, { TaskTemplate: { ContainerSpec: { Env: ["A=1"] } } });
      await docker.getService("n-web").update({
        _query: { version: updated.Version.Index, rollback: "previous" },
        _body: {},
      });
      const back = await settled("n-web", "rollback_completed");
      t.match(back.Spec.TaskTemplate.ContainerSpec, { Env: ["A=1"] });
      await waitFor("logs", { timeoutMs: 15_000 }, async () => {
        const logs = (await docker.getService("n-web").logs({ stdout: true, stderr: true })) as unknown;
        return text(logs).includes("started");
      });
      await docker.getService("n-web").remove();
      await refused(404, "service n-web not found", () => docker.getService("n-web").inspect());
      const events = await docker.getEvents({
        since: sinceS,
        until: Math.ceil(Date.now() / 1_000),
        filters: JSON.stringify({ type: ["service"] }),
      });
      let seen = "";
      for await (const chunk of events) seen += String(chunk);
      const actions = seen
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { Action: string }).Action);
      t.equal(actions[0], "create");
      t.equal(actions.at(-1), "remove");
      t.ok(actions.includes("update"));
    });

    t.test("global services and jobs", async (t) => {
      await docker.createService(plain("n-all", { Mode: { Global: {} } }));
      const everywhere = await running("n-all", lab.hosts.length);
      t.ok(everywhere.every(({ Slot }) => Slot === undefined));
      const job = {
        TaskTemplate: {
          ContainerSpec: { Image: images.bb1, Args: ["true"] },
          RestartPolicy: { Condition: "none" },
        },
        UpdateConfig: null,
        RollbackConfig: null,
      };
      const total = { MaxConcurrent: 2, TotalCompletions: 3 };
      await docker.createService(plain("n-job", { ...job, Mode: { ReplicatedJob: total } }));
      await docker.createService(plain("n-sweep", { ...job, Mode: { GlobalJob: {} } }));
      for (const [name, count] of [
        ["n-job", 3],
        ["n-sweep", lab.hosts.length],
      ] as const) {
        await waitFor(`${count} completions of ${name}`, { timeoutMs: 30_000 }, async () => {
          const tasks = await tasksOf(name);
          return tasks.filter(({ Status }) => Status.State === "complete").length === count;
        });
        t.ok((await look(name)).JobStatus !== undefined, `${name} has its JobStatus`);
      }
      for (const name of ["n-all", "n-job", "n-sweep"]) await docker.getService(name).remove();
    });

    t.test("nodes", async () => {
      const workers = (await docker.listNodes({
        filters: { role: { worker: true } },
      } as object)) as unknown as (Thing & {
        readonly Spec: object;
      })[];
      const [node] = workers;
      t.equal(workers.length, 1);
      if (node === undefined) return;
      const spec = { ...node.Spec, Labels: { zone: "a" }, Availability: "pause" };
      const handle = docker.getNode(node.ID);
      await handle.update({ version: node.Version.Index, ...spec });
      t.match(await handle.inspect(), { Spec: { Availability: "pause", Labels: { zone: "a" } } });
      await refused(500, "update out of sequence", () =>
        handle.update({ version: node.Version.Index, ...spec }),
      );
      await refused(400, "is not down and can't be removed", () => handle.remove());
      await refused(404, "node none not found", () => docker.getNode("none").inspect());
    });

    t.test("none of our processes met an error that nobody handled", async (t) => {
      t.strictSame(await unhandledErrors(lab), []);
    });
  },
);

/** Logs come as a buffer where they are not followed, as a stream where they are. */
function text(logs: unknown): string {
  return Buffer.isBuffer(logs) ? logs.toString("utf8") : String(logs);
}
