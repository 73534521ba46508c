import t from "tap";
import { sleep, waitFor } from "../lab/shell.ts";
import { clients } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import { isRunning, type TaskSummary } from "./view.ts";

const replicas = 4;

t.test("rolling updates", { skip: noLab }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-upd", managers: 1, workers: 2 });
  const [host1] = lab.hosts;
  if (host1 === undefined) throw new Error("a host was asked for");

  /** Looks at the tasks until `work` has ended; what it saw at each look. */
  async function watchTasks(service: string, work: Promise<unknown>): Promise<TaskSummary[][]> {
    const seen: TaskSummary[][] = [];
    const ended = new AbortController();
    const ending = work.finally(() => ended.abort());
    while (!ended.signal.aborted) {
      seen.push(await view.tasks(service));
      await sleep(50); // between two looks, not in the place of one
    }
    await ending;
    return seen;
  }
  const uses = (image: string) => (task: TaskSummary) => task.Spec.ContainerSpec.Image.startsWith(image);
  const waitImage = (service: string, image: string): Promise<TaskSummary[]> =>
    waitFor(`${replicas} tasks of ${image}`, { timeoutMs: 30_000 }, async () => {
      const running = await view.running(service);
      return running.length === replicas && running.every(uses(image)) && running;
    });

  for (const client of clients) {
    t.test(`with ${client.name}`, { skip: client.missing }, async (t) => {
      const name = `web-${client.name}`;
      const update = (...flags: string[]): Promise<string> =>
        client.run(host1, ["service", "update", ...flags, name]);
      const pace = ["--update-parallelism", "2", "--update-delay", "0s", "--update-monitor", "1s"];

      t.test("create", async (t) => {
        const flags = ["--name", name, "--replicas", String(replicas), ...quick, ...pace];
        await client.run(host1, ["service", "create", ...flags, images.web1]);
        t.equal((await view.running(name)).length, replicas);
      });

      t.test("start-first: never fewer tasks than wanted", async (t) => {
        const seen = await watchTasks(name, update("--update-order", "start-first", "--image", images.web2));
        const fewest = Math.min(
          ...seen.map((tasks) => tasks.filter(({ Status }) => Status.State === "running").length),
        );
        t.ok(seen.length > 3, `${seen.length} looks`);
        t.equal(fewest, replicas);
        t.equal((await waitImage(name, images.web2)).length, replicas);
        t.equal((await view.service(name)).UpdateStatus?.State, "completed");
      });

      t.test("stop-first: never more tasks than wanted, never more down than the parallelism", async (t) => {
        const seen = await watchTasks(name, update("--update-order", "stop-first", "--image", images.web1));
        const running = seen.map((tasks) => tasks.filter(({ Status }) => Status.State === "running").length);
        t.ok(Math.max(...running) <= replicas, `at most ${Math.max(...running)}`);
        t.ok(Math.min(...running) >= replicas - 2, `at least ${Math.min(...running)}`);
        await waitImage(name, images.web1);
      });

      t.test("a version that fails is rolled back by itself, and the other tasks run on", async (t) => {
        const stable = (await view.running(name)).map(({ ID }) => ID);
        const flags = [
          "--update-failure-action",
          "rollback",
          "--update-parallelism",
          "1",
          "--image",
          images.broken,
        ];
        const trial = client.try(host1, ["service", "update", ...flags, name], { timeoutMs: 90_000 });
        const seen = await watchTasks(name, trial);
        await waitFor("rollback", { timeoutMs: 30_000 }, async () => {
          return (await view.service(name)).UpdateStatus?.State === "rollback_completed";
        });
        const after = await waitImage(name, images.web1);
        t.ok(
          after.filter(({ ID }) => stable.includes(ID)).length >= replicas - 1,
          "one task at most was replaced",
        );
        const fewest = Math.min(...seen.map((tasks) => tasks.filter(isRunning).length));
        t.ok(fewest >= replicas - 1, `at least ${fewest} ran all the time`);
        const service = await view.service(name);
        t.match(service.Spec.TaskTemplate.ContainerSpec.Image, images.web1);
      });

      t.test("rollback by hand brings the version before", async (t) => {
        await update("--image", images.web2, "--update-failure-action", "pause", "--update-parallelism", "0");
        await waitImage(name, images.web2);
        await client.run(host1, ["service", "rollback", name]);
        t.equal((await waitImage(name, images.web1)).length, replicas);
        await client.run(host1, ["service", "rm", name]);
      });
    });
  }

  t.test("no error was left unhandled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
