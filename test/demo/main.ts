import { Listr, type ListrTask } from "listr2";
import { fileURLToPath } from "node:url";
import { clients } from "../e2e/clients.ts";
import { identities, View, type TaskSummary } from "../e2e/view.ts";
import { call } from "../lab/api.ts";
import { nameOption } from "../lab/guide.ts";
import { Lab, labPlace, type Host } from "../lab/lab.ts";
import { sleep } from "../lab/shell.ts";
import { isDrawn, nodeTable, runningTasks, serviceTable, versions, type ListedService } from "./tables.ts";

const examples = fileURLToPath(new URL("../../../examples/", import.meta.url));
/** Generous: a busy machine is slow, and a step that is still getting on has not failed. */
const stepLimitMs = 180_000;
const lookEveryMs = 100;
/** Listr's own condition, and ours: a terminal that does not know its width says 0, and every letter would get a line of its own. */
const terminal = process.stdout.isTTY && process.stdout.columns !== 0;
const stacks = {
  one: "01-one-service",
  roll: "02-rolling-update",
  every: "03-global-service",
  app: "05-several-services",
};

interface Seen {
  readonly nodes: Awaited<ReturnType<View["nodes"]>>;
  readonly services: readonly ListedService[];
  readonly tasks: readonly TaskSummary[];
}

interface Show {
  output: string;
  title: string;
}

const client = clients.find(({ missing }) => missing === false);
if (client === undefined) throw new Error("neither docker nor shoal is there: run ./setup.sh");
const cli = client;
const place = labPlace({ name: process.argv[2] ?? "shoal" });
let lab!: Lab; // given by the first step, like the three below by theirs
let view!: View;
let lostWorker!: Host;
let lostLeader!: Host;

const steps: ListrTask[] = [
  step(
    "Bring up five hosts: three managers, two workers, a registry with the demo's images",
    async (show) => {
      lab = await Lab.up({ ...place, managers: 3, workers: 2, onStep: (text) => (show.output = text) });
      view = new View(lab);
      const { repositories } = JSON.parse(
        await lab.lan.run(["busybox", "wget", "-qO-", "http://10.230.0.254:5000/v2/_catalog"]),
      ) as { repositories: string[] };
      const { nodes, tasks } = await look();
      show.output = `images built from busybox-static and pushed: ${repositories.join(", ")} in versions 1 and 2\n${nodeTable(nodes, tasks)}`;
    },
  ),
  step(`Deploy four stacks from compose files with ${cli.name} stack deploy`, async (show) => {
    for (const [stack, folder] of Object.entries(stacks)) await deploy(stack, folder);
    await showUntil(show, both, (seen) => seen.services.length === 5 && converged(seen));
  }),
  step(`Scale: ${cli.name} service scale roll_web=10`, async (show) => {
    await command("service", "scale", "--detach", "roll_web=10");
    await showUntil(show, both, (seen) => runningOf(seen, "roll_web").length === 10);
  }),
  step("Roll out web:2, two tasks at a time, new before old", async (show) => {
    const target = 10;
    await command("service", "update", "--detach", "--image", "10.230.0.254:5000/web:2", "roll_web");
    await showUntil(show, perVersion, (seen) => {
      const running = runningOf(seen, "roll_web");
      const renewed = running.every((task) => task.Spec.ContainerSpec.Image.includes("web:2"));
      return running.length === target && renewed && updateState(seen, "roll_web") === "completed";
    });
  }),
  step("Roll out a version that fails: it is taken back by itself", async (show) => {
    await command("service", "update", "--detach", "--image", "10.230.0.254:5000/web:broken", "roll_web");
    await showUntil(show, perVersion, (seen) => {
      return (
        updateState(seen, "roll_web") === "rollback_completed" && runningOf(seen, "roll_web").length === 10
      );
    });
  }),
  step("Cut the power of a worker", async (show) => {
    lostWorker = lab.host("host5");
    const lost = (await view.node(lostWorker)).ID;
    await lostWorker.kill();
    await showUntil(show, both, (seen) => {
      return converged(seen) && runningOf(seen, "roll_web").every((task) => task.NodeID !== lost);
    });
  }),
  step("Cut the power of the leader", async (show) => {
    lostLeader = await view.leader();
    const leaderNode = (await view.node(lostLeader)).ID;
    const others = (await view.running("roll_web")).filter((task) => task.NodeID !== leaderNode);
    await lostLeader.kill();
    const tookMs = await untilWrite();
    await showUntil(show, both, (seen) => {
      return converged(seen) && runningOf(seen, "roll_web").every((task) => task.NodeID !== leaderNode);
    });
    const now = new Set(identities(await view.running("roll_web")));
    const untouched = identities(others).filter((identity) => now.has(identity)).length;
    show.output += `\nnext write after ${Math.round(tookMs)} ms; ${untouched} of ${others.length} tasks on other hosts untouched`;
  }),
  step("Power is back: both hosts return", async (show) => {
    await Promise.all([lab.restart(lostWorker), lab.restart(lostLeader)]);
    await showUntil(
      show,
      both,
      (seen) =>
        seen.nodes.every((node) => node.Status.State === "ready") &&
        seen.nodes.filter((node) => node.ManagerStatus?.Reachability === "reachable").length === 3 &&
        converged(seen),
    );
  }),
];

const option = nameOption(place.name);
const left = `The lab is left as it is: look with 'npm run lab -- status${option}', remove it with 'npm run lab -- down${option}'.`;
process.once("SIGINT", () => {
  console.error(`\ndemo: interrupted\n${left}`);
  process.exit(130);
});

console.log(
  `demo: makes the lab '${place.name}' in ${place.dir}; one of that name that is up is removed first\n`,
);
try {
  await new Listr(steps, {
    concurrent: false,
    fallbackRenderer: "simple",
    fallbackRendererCondition: () => !terminal,
    rendererOptions: { collapseSubtasks: false },
  }).run();
  console.log(goOn(lab.host("host1"), await webAddress()));
} catch (error) {
  console.error(`\ndemo: ${error instanceof Error ? error.message : String(error)}`);
  console.error(left);
  process.exitCode = 1;
}

function step(title: string, work: (show: Show) => Promise<void>): ListrTask {
  return {
    title,
    task: async (_, task) => {
      const start = performance.now();
      await work(task);
      task.title = `${title} (${((performance.now() - start) / 1000).toFixed(1)} s)`;
    },
    rendererOptions: { persistentOutput: true, outputBar: true },
  };
}

function command(...args: string[]): Promise<string> {
  return view.entry().then((host) => cli.run(host, args));
}

function deploy(stack: string, folder: string): Promise<string> {
  return command("stack", "deploy", "--detach=true", "-c", `${examples}${folder}/compose.yaml`, stack);
}

async function look(): Promise<Seen> {
  const [nodes, services, tasks] = await Promise.all([
    view.nodes(),
    view.get<ListedService[]>("/services?status=true"),
    view.get<TaskSummary[]>("/tasks"),
  ]);
  return { nodes, services, tasks };
}

/** Shows the cluster whenever it looks different, until it is as wanted. */
async function showUntil(
  show: Show,
  draw: (seen: Seen) => string,
  wanted: (seen: Seen) => boolean,
): Promise<void> {
  const end = performance.now() + stepLimitMs;
  let drawnAt = 0;
  for (;;) {
    const seen = await look().catch(() => undefined); // no manager may answer for a moment: that is part of the show
    if (seen !== undefined) {
      const there = wanted(seen);
      const drawn = draw(seen);
      const sinceDrawnMs = performance.now() - drawnAt;
      if (isDrawn({ terminal, there, changed: drawn !== show.output, sinceDrawnMs })) {
        show.output = drawn;
        drawnAt = performance.now();
      }
      if (there) return;
    }
    if (performance.now() > end)
      throw new Error(`the cluster did not get there within ${stepLimitMs / 1000} s`);
    await sleep(lookEveryMs);
  }
}

function both({ nodes, services, tasks }: Seen): string {
  return `${nodeTable(nodes, tasks)}\n${serviceTable(services, nodes, tasks)}`;
}

/** The rolling service alone: one line a slot with the version that runs there now. */
function perVersion(seen: Seen): string {
  const id = seen.services.find(({ Spec }) => Spec.Name === "roll_web")?.ID;
  const own = seen.tasks.filter((task) => task.ServiceID === id);
  const slots = [...new Set(own.map((task) => task.Slot ?? 0))].toSorted((a, b) => a - b);
  const lines = slots.map((slot) => {
    const here = own.filter((task) => task.Slot === slot);
    const coming = here.filter((task) => task.DesiredState === "running" && task.Status.State !== "running");
    const states = coming.map(
      (task) =>
        `${task.Spec.ContainerSpec.Image.replace(/@.*/, "").replace(/.*\//, "")} ${task.Status.State}`,
    );
    return `roll_web.${slot}  ${[versions(here).replaceAll("▪", ""), ...states].join("  ").trim()}`;
  });
  return `${versions(own)}   ${updateState(seen, "roll_web")}\n${lines.join("\n")}`;
}

function converged(seen: Seen): boolean {
  return seen.services.every((service) => {
    const wanted = service.ServiceStatus?.DesiredTasks ?? 0;
    return wanted > 0 && runningTasks(service, seen.nodes, seen.tasks).length === wanted;
  });
}

function runningOf({ services, nodes, tasks }: Seen, name: string): TaskSummary[] {
  const service = services.find(({ Spec }) => Spec.Name === name);
  return service === undefined ? [] : runningTasks(service, nodes, tasks);
}

function updateState({ services }: Seen, name: string): string {
  return services.find(({ Spec }) => Spec.Name === name)?.UpdateStatus?.State ?? "";
}

/** Milliseconds until a surviving manager takes a write. */
async function untilWrite(): Promise<number> {
  const start = performance.now();
  const survivor = lab.managers.find(({ name }) => name !== lostLeader.name);
  if (survivor === undefined) throw new Error("no manager is left");
  for (let attempt = 1; ; attempt++) {
    const body = { Name: `written-${attempt}`, Data: "aGk=" };
    const done = await call(survivor.socket, "POST", "/configs/create", { body, timeoutMs: 1_000 }).then(
      () => true,
      () => false,
    );
    const tookMs = performance.now() - start;
    if (done) return tookMs;
    if (tookMs > stepLimitMs) throw new Error("no manager takes a write");
    await sleep(10);
  }
}

/** The address of a host on which a task of the published service runs. */
async function webAddress(): Promise<string> {
  const seen = await look();
  const nodeId = runningOf(seen, "one_web")[0]?.NodeID;
  const node = seen.nodes.find(({ ID }) => ID === nodeId);
  return lab.host(node?.Description.Hostname ?? "host1").addr;
}

function goOn({ socket }: Host, webAddr: string): string {
  const name = cli.name === "docker" ? "docker" : "bin/shoal";
  return `
The cluster stays up. To go on by hand:

  export DOCKER_HOST=unix://${socket}
  ${name} node ls
  ${name} service ls
  ${name} service ps roll_web
  ${name} service logs -f app_front
  nsenter --net=/run/netns/${lab.lan.netns} busybox wget -qO- http://${webAddr}:8080/
  npm run lab -- kill host4${option}        # or pause, cut, restart, kill-process; see npm run lab -- --help
  npm run lab -- down${option}              # removes everything
`;
}
