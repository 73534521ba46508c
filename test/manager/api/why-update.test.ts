import t from "tap";
import { createTask } from "../../../manager/store/revisions.ts";
import { type Answer } from "../../../manager/api/why-update.ts";
import { whyService } from "../../../manager/api/why.ts";
import type { TaskId } from "../../../model/ids.ts";
import type { ServiceSpec, UpdateStatus } from "../../../model/service.ts";
import type { DesiredState, TaskState } from "../../../model/task.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { id, serviceSpec, taskSpec } from "../../sim/objects.ts";
import { makeHarness } from "./harness.ts";

interface Situation {
  readonly replicas: number;
  /** Of each version, oldest first; the last is the present one unless `current` names another. */
  readonly images: readonly string[];
  readonly current?: number;
  readonly previous?: number;
  readonly updateStatus?: UpdateStatus;
  /** "version.slot=state desired error", oldest first; `+` behind the state: it has an exit code. */
  readonly tasks: readonly string[];
  readonly change?: (spec: ServiceSpec) => ServiceSpec;
}

async function ask(situation: Situation): Promise<Answer> {
  const { replicas, images, previous, updateStatus, tasks, change = (spec) => spec } = situation;
  const { current = images.length - 1 } = situation;
  const { store } = await makeHarness({ clock: new VirtualClock() });
  const specs = images.map((image) => change(serviceSpec({ replicas, image })));
  const specOf = (version: number): ServiceSpec => specs[version] ?? serviceSpec();
  await store.update((tx) => tx.services.create({ id: id("web"), spec: specOf(0), specVersion: 0 }));
  for (const [index, text] of tasks.entries()) {
    const [, version, slot, state, ran, desiredState, error = ""] =
      /^(\d)\.(\d)=(\w+?)(\+?) (\w+) ?(.*)$/.exec(text) ?? [];
    await store.update((tx) => {
      const service = tx.services.byName("web");
      if (service === undefined || state === undefined) throw new Error(`no task: ${text}`);
      const specVersion = Number(version);
      const made = tx.services.update({ ...service, spec: specOf(specVersion), specVersion });
      const task = createTask(tx, made, {
        id: id<TaskId>(`t${index}`),
        slot: Number(slot),
        desiredState: desiredState as DesiredState, // As written above.
        nodeId: id("w1"),
        ...(desiredState === "ready" && { crashes: 1 }),
      });
      const status = { ...task.status, state: state as TaskState, message: "preparing", error };
      tx.tasks.update({ ...task, status: { ...status, atMs: index, ...(ran === "+" && { exitCode: 143 }) } });
    });
  }
  await store.update((tx) => {
    const service = tx.services.byName("web");
    if (service === undefined) throw new Error("the service is gone");
    tx.services.update({
      ...service,
      spec: specOf(current),
      specVersion: current,
      ...(previous !== undefined && { previous: { spec: specOf(previous), specVersion: previous } }),
      ...(updateStatus !== undefined && { updateStatus }),
    });
  });
  return store.view((view) => {
    const service = view.services.byName("web");
    if (service === undefined) throw new Error("the service is gone");
    return whyService(view, service, 0);
  });
}

const noImage = "No such image: reg/nope:1";
const noSource = 'invalid mount config for type "bind": bind source path does not exist: /nosuch';
const rolledBack: UpdateStatus = { state: "rollback_completed", message: "rollback completed" };
const paused: UpdateStatus = { state: "paused", message: "update paused" };
const bind = (spec: ServiceSpec): ServiceSpec => ({
  ...spec,
  task: taskSpec({
    container: {
      ...spec.task.container,
      mounts: [{ type: "bind", source: "/nosuch", target: "/dx", readOnly: false }],
    },
  }),
});

const cases: readonly (Situation & { readonly name: string; readonly want: object })[] = [
  {
    name: "every task is rejected: the error of the newest, and what mends the spec",
    replicas: 1,
    images: ["reg/nope:1"],
    tasks: ["0.1=rejected shutdown older", `0.1=rejected running ${noImage}`],
    want: {
      Cause: `its tasks are rejected: ${noImage}`,
      Evidence: ["0 of 1 wanted tasks run", /^task t1.* rejected: No such image/, /^task t0/],
      Next: "shoal service update --image IMAGE web, with an image that the hosts can pull",
    },
  },
  {
    name: "rejected, and the next one waits: the error comes before the wait",
    replicas: 1,
    images: ["reg/nope:1"],
    tasks: [`0.1=rejected shutdown ${noImage}`, "0.1=ready ready"],
    want: { Cause: /^a task was rejected: No such image: reg\/nope:1; restart delay: starts at / },
  },
  {
    name: "a mount that cannot be: where to make its source, or how to drop it",
    replicas: 1,
    images: ["web:1"],
    change: bind,
    tasks: [`0.1=rejected running ${noSource}`],
    want: {
      Cause: `a task was rejected: ${noSource}`,
      Next: "on w1: mkdir -p /nosuch, or shoal service update --mount-rm /dx web",
    },
  },
  {
    name: "one that fails: its output next",
    replicas: 1,
    images: ["web:1"],
    tasks: ["0.1=failed shutdown task: non-zero exit (1)", "0.1=preparing running"],
    want: { Cause: "a task failed: task: non-zero exit (1)", Next: "shoal service logs --tail 20 web" },
  },
  {
    name: "failures of an earlier version are not those of this one",
    replicas: 1,
    images: ["web:1", "web:2"],
    tasks: ["0.1=failed shutdown task: non-zero exit (1)", "1.1=preparing running"],
    want: { Cause: "on its way: 0 of 1 wanted tasks run" },
  },
  {
    name: "rolled back by itself, make before break: the image and why, nothing is given up",
    replicas: 2,
    images: ["web:2", "web:broken@sha256:00"],
    current: 0,
    updateStatus: rolledBack,
    tasks: ["0.1=running running", "0.2=running running", "1.1=failed shutdown task: non-zero exit (1)"],
    want: {
      Cause: "the update to web:broken was rolled back: failed: task: non-zero exit (1)",
      Evidence: ["2 of 2 wanted tasks run, on web:2", /^task t2/],
      Next: /^shoal service logs --tail 20 t20+$/,
    },
  },
  {
    name: "rolled back by itself, and its tasks are forgotten: that much is said",
    replicas: 1,
    images: ["web:2"],
    updateStatus: rolledBack,
    tasks: ["0.1=running running"],
    want: { Cause: "the update was rolled back: its tasks are no longer in the history" },
  },
  {
    name: "rolling back by itself: why",
    replicas: 2,
    images: ["web:2", "web:nope"],
    current: 0,
    updateStatus: { state: "rollback_started", message: "update rolled back due to failure" },
    tasks: [`1.1=rejected shutdown ${noImage}`, "0.1=preparing running", "0.2=running running"],
    want: {
      Cause: `the update to web:nope is being rolled back: rejected: ${noImage}`,
      Evidence: ["1 of 2 wanted tasks run", /^task t0/],
      Next: "shoal service ps web",
    },
  },
  {
    name: "rolled back, and short of a task since: what is wrong now",
    replicas: 1,
    images: ["web:2", "web:broken"],
    current: 0,
    updateStatus: rolledBack,
    tasks: ["1.1=failed shutdown task: non-zero exit (1)", "0.1=failed running no space left"],
    want: { Cause: "a task failed: no space left" },
  },
  {
    name: "a rollback that a user asked for is nothing wrong",
    replicas: 1,
    images: ["web:1", "web:2"],
    current: 0,
    previous: 1,
    updateStatus: rolledBack,
    tasks: ["1.1=shutdown+ shutdown", "0.1=running running"],
    want: { Cause: "nothing is wrong: 1 of 1 wanted tasks run", Next: "" },
  },
  {
    name: "the newest of a slot failed beside one that serves: the update is named, nothing is short",
    replicas: 1,
    images: ["web:1", "web:2"],
    tasks: ["0.1=running running", "1.1=failed shutdown task: non-zero exit (1)"],
    want: {
      Cause:
        "the update failed for 1 of 1, where the version before still runs: failed: task: non-zero exit (1)",
      Next: "shoal service update --image web:1 web, which is what still runs",
    },
  },
  {
    name: "paused, and the previous spec runs: back to it",
    replicas: 2,
    images: ["web:1", "web:broken"],
    previous: 0,
    updateStatus: paused,
    tasks: ["0.1=shutdown+ shutdown", "0.2=running running", "1.1=failed shutdown task: non-zero exit (1)"],
    want: { Cause: "update paused", Next: "shoal service rollback web" },
  },
  {
    name: "paused, and the previous spec ran until it was replaced, though a task of it failed once",
    replicas: 1,
    images: ["web:1", "web:broken"],
    previous: 0,
    updateStatus: paused,
    tasks: ["0.1=failed shutdown oom", "0.1=shutdown+ shutdown", `1.1=rejected shutdown ${noImage}`],
    want: { Next: "shoal service rollback web" },
  },
  {
    name: "paused, and the previous spec failed as well: what still runs is advised",
    replicas: 3,
    images: ["web:1", "web:nope", "web:broken"],
    previous: 1,
    updateStatus: paused,
    tasks: [
      "0.1=shutdown+ shutdown",
      "0.2=running running",
      "0.3=running running",
      `1.1=rejected shutdown ${noImage}`,
      "2.1=failed shutdown task: non-zero exit (1)",
    ],
    want: {
      Evidence: [
        "2 of 3 wanted tasks run",
        "the tasks of the previous spec, web:nope, failed too",
        /^task t4/,
        /^task t3/,
      ],
      Next: "shoal service update --image web:1 web, which is what still runs",
    },
  },
  {
    name: "paused, the previous spec failed as well and nothing runs: the spec is to be mended",
    replicas: 1,
    images: ["web:nope", "web:nope2"],
    previous: 0,
    updateStatus: paused,
    tasks: [`0.1=rejected shutdown ${noImage}`, `1.1=rejected shutdown ${noImage}2`],
    want: { Next: "shoal service update --image IMAGE web, with an image that the hosts can pull" },
  },
  {
    name: "a rollback paused, with nothing before it",
    replicas: 1,
    images: ["web:1"],
    updateStatus: { state: "rollback_paused", message: "rollback paused" },
    tasks: ["0.1=failed shutdown task: non-zero exit (1)"],
    want: { Cause: "rollback paused", Next: "shoal service logs --tail 20 web" },
  },
];

for (const { name, want, ...situation } of cases) {
  t.test(name, async (t) => {
    t.match(await ask(situation), want);
  });
}
