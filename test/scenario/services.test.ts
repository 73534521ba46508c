import t from "tap";
import type { UpdatePolicy } from "../../model/service.ts";
import { isTerminal } from "../../model/task.ts";
import { serviceSpec, taskSpec, networkObject, id, nodeObject } from "../sim/objects.ts";
import { removeNode } from "../../manager/orchestrator/lost.ts";
import { image, scale, started } from "./cluster.ts";

const policy: UpdatePolicy = {
  parallelism: 2,
  delayMs: 0,
  failureAction: "pause",
  monitorMs: 1000,
  maxFailureRatio: 0,
  order: "stop-first",
};

t.test("150 tasks are created, addressed and placed in a handful of entries", async (t) => {
  await using c = await started(["n1", "n2", "n3"]);
  const before = c.lone.log.length;
  await c.create("web", serviceSpec({ replicas: 150 }));
  await c.until(() => c.tasks("web").filter((task) => task.status.state === "assigned").length === 150, 10);
  t.equal(c.lone.log.length - before, 3, "service, tasks, assigned");
  await c.until(() => c.running("web").length === 150);
  for (const name of ["n1", "n2", "n3"]) {
    t.equal(c.running("web").filter((task) => task.nodeId === id(name)).length, 50);
  }
  t.strictSame(
    c
      .tasks("web")
      .map((task) => task.slot)
      .toSorted((a, b) => a - b),
    Array.from({ length: 150 }, (_, i) => i + 1),
  );
  t.equal(c.service("web").updateStatus, undefined);
  t.strictSame(c.errors, []);
});

t.test("scaling changes the count and restarts nothing", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("web", serviceSpec({ replicas: 3 }));
  await c.until(() => c.running("web").length === 3);
  const first = new Set(c.tasks("web").map((task) => task.id));
  await c.update("web", scale(6));
  await c.until(() => c.running("web").length === 6);
  t.equal(c.tasks("web").filter((task) => first.has(task.id)).length, 3);
  await c.update("web", scale(2));
  await c.until(() => c.tasks("web").length === 2);
  t.equal(c.running("web").length, 2);
  t.strictSame(new Set(c.running("web").map((task) => task.nodeId)).size, 2, "one on each node stays");
  await c.update("web", scale(0));
  await c.until(() => c.tasks("web").length === 0);
  t.equal(c.service("web").updateStatus, undefined);
  t.strictSame(c.errors, []);
});

for (const order of ["stop-first", "start-first"] as const) {
  t.test(`a rolling update, ${order}, replaces everything and keeps within its bounds`, async (t) => {
    await using c = await started(["n1", "n2", "n3"]);
    await c.create("web", serviceSpec({ replicas: 6, update: { ...policy, order } }));
    await c.until(() => c.running("web").length === 6);
    await c.update("web", image("web:2"));
    const seen = { least: 6, most: 0 };
    await c.until(() => {
      const now = c.running("web").length;
      seen.least = Math.min(seen.least, now);
      seen.most = Math.max(
        seen.most,
        c.tasks("web").filter((task) => task.desiredState === "running" && !isTerminal(task)).length,
      );
      return c.running("web", "web:2").length === 6;
    });
    t.ok(order === "stop-first" ? seen.least >= 4 : seen.least === 6, `never below: ${seen.least}`);
    t.ok(order === "stop-first" ? seen.most <= 6 : seen.most <= 8, `never above: ${seen.most}`);
    t.match(c.service("web").updateStatus, { state: "updating", message: "update in progress" });
    const monitored = await c.until(() => c.service("web").updateStatus?.state === "completed");
    t.ok(monitored <= 1100, `monitor ${monitored}`);
    t.match(c.service("web").updateStatus, { message: "update completed", completedAtMs: Number });
    t.equal(c.running("web").length, 6);
    t.equal(
      c.store.view((view) => view.revisions.byService(id("web")).length),
      2,
      "history still refers to the old",
    );
    t.strictSame(c.errors, []);
  });
}

t.test(
  "a failing update pauses, names the task, and leaves the other slots on the old version",
  async (t) => {
    await using c = await started(["n1", "n2"]);
    await c.create("web", serviceSpec({ replicas: 4, update: { ...policy, parallelism: 1, delayMs: 500 } }));
    await c.until(() => c.running("web").length === 4);
    await c.update("web", image("crash:1"));
    await c.until(() => c.service("web").updateStatus?.state === "paused");
    const { message = "" } = c.service("web").updateStatus ?? {};
    t.match(message, /^update paused due to failure or early termination of task [0-9a-z]{25}$/);
    await c.clock.advance(20_000);
    t.equal(c.running("web", "web:1").length, 3);
    t.equal(c.service("web").updateStatus?.state, "paused");
    await c.update("web", image("web:3"));
    await c.until(() => c.service("web").updateStatus?.state === "completed");
    t.equal(c.running("web", "web:3").length, 4);
    t.strictSame(c.errors, []);
  },
);

t.test("a start-first update that never runs keeps all old tasks, also once it is paused", async (t) => {
  await using c = await started(["n1"]);
  await c.create(
    "web",
    serviceSpec({ replicas: 2, update: { ...policy, parallelism: 1, order: "start-first" } }),
  );
  await c.until(() => c.running("web").length === 2);
  await c.update("web", image("bad:1"));
  await c.until(() => c.service("web").updateStatus?.state === "paused");
  await c.clock.advance(30_000);
  t.equal(c.running("web", "web:1").length, 2);
  t.strictSame(c.errors, []);
});

t.test("a failing update rolls back by itself, and a failing rollback pauses", async (t) => {
  await using c = await started(["n1", "n2"]);
  const update: UpdatePolicy = { ...policy, failureAction: "rollback" };
  await c.create(
    "web",
    serviceSpec({ replicas: 4, update, rollback: { ...policy, failureAction: "rollback" } }),
  );
  await c.until(() => c.running("web").length === 4);
  await c.update("web", image("bad:1"));
  await c.until(() => c.service("web").updateStatus?.state === "rollback_started");
  t.match(
    c.service("web").updateStatus?.message,
    /^update rolled back due to failure or early termination of task /,
  );
  t.equal(c.service("web").previous, undefined);
  await c.until(() => c.service("web").updateStatus?.state === "rollback_completed");
  t.equal(c.service("web").updateStatus?.message, "rollback completed");
  t.equal(c.running("web", "web:1").length, 4);
  t.equal(c.service("web").spec.task.container.image, "web:1");
  // Now a version that was fine becomes one that is not.
  await c.update("web", image("crash:1"));
  await c.store.update((tx) => {
    const service = tx.services.get(id("web"));
    if (service?.previous === undefined) throw new Error("no previous spec");
    const spec = image("bad:2")(service.previous.spec);
    tx.services.update({ ...service, previous: { spec, specVersion: service.meta.version + 1 } });
  });
  await c.until(() => c.service("web").updateStatus?.state === "rollback_paused");
  t.match(
    c.service("web").updateStatus?.message,
    /^rollback paused due to failure or early termination of task /,
  );
  t.strictSame(c.errors, []);
});

t.test("a user's rollback returns to the previous version and a second one to the newer", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("web", serviceSpec({ replicas: 2, update: policy, rollback: policy }));
  await c.until(() => c.running("web").length === 2);
  await c.update("web", image("web:2"));
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  await c.rollback("web");
  t.match(c.service("web").updateStatus, {
    state: "rollback_started",
    message: "manually requested rollback",
  });
  await c.until(() => c.service("web").updateStatus?.state === "rollback_completed");
  t.equal(c.running("web", "web:1").length, 2);
  await c.rollback("web");
  await c.until(() => c.service("web").updateStatus?.state === "rollback_completed");
  t.equal(c.running("web", "web:2").length, 2);
  t.strictSame(c.errors, []);
});

t.test("an update that changes image and replicas is complete only when all run", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("web", serviceSpec({ replicas: 2, update: policy }));
  await c.until(() => c.running("web").length === 2);
  await c.update("web", (spec) => scale(5)(image("web:2")(spec)));
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  t.equal(c.running("web", "web:2").length, 5);
});

t.test("a node that is down loses its tasks to the others without the restart delay", async (t) => {
  await using c = await started(["n1", "n2", "n3"]);
  await c.create("web", serviceSpec({ replicas: 6 }));
  await c.until(() => c.running("web").length === 6);
  await c.setNode("n2", "unreachable");
  await c.clock.advance(5000);
  t.equal(c.tasks("web").length, 6, "unreachable moves nothing");
  await c.setNode("n2", "down");
  const took = await c.until(() => c.running("web").length === 6);
  t.ok(took <= 300, `took ${took} ms`);
  t.equal(c.running("web").filter((task) => task.nodeId === id("n2")).length, 0);
  await c.setNode("n2", "ready");
  await c.clock.advance(10_000);
  t.equal(c.running("web").length, 6);
  t.ok(
    c
      .tasks("web")
      .filter((task) => task.nodeId === id("n2"))
      .every(isTerminal),
    "what was replaced is stopped",
  );
  t.strictSame(c.errors, []);
});

t.test("a node down for a day and a node removed leave orphans, never lost replicas", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.create("web", serviceSpec({ replicas: 2 }));
  await c.until(() => c.running("web").length === 2);
  await c.setNode("n2", "down");
  await c.until(() => c.running("web").length === 2);
  await c.sleepAgents(24 * 3_600_000 + 1000);
  t.equal(c.tasks("web").filter((task) => task.nodeId === id("n2"))[0]?.status.state, "orphaned");
  await c.store.update((tx) => removeNode(tx, id("n1")));
  await c.setNode("n2", "ready");
  await c.until(() => c.running("web").length === 2);
  t.ok(c.store.view((view) => view.cluster?.removedNodes[id("n1")]) !== undefined);
  t.strictSame(c.errors, []);
});

t.test(
  "a service that waits for its node loses no task to a day without it, only to its removal",
  async (t) => {
    await using c = await started(["n1"]);
    await c.create("web", serviceSpec({ replicas: 1, labels: { "shoal.on-unreachable": "wait" } }));
    await c.until(() => c.running("web").length === 1);
    await c.setNode("n1", "down");
    await c.sleepAgents(24 * 3_600_000 + 1000);
    t.strictSame(
      c.tasks("web").map((task) => task.status.state),
      ["running"],
    );
    await c.store.update((tx) => removeNode(tx, id("n1")));
    t.ok(c.tasks("web").some((task) => task.status.state === "orphaned"));
    t.strictSame(c.errors, []);
  },
);

t.test("draining moves tasks; with start-first none is stopped before its replacement runs", async (t) => {
  for (const order of ["stop-first", "start-first"] as const) {
    await using c = await started(["n1", "n2"]);
    await c.create("web", serviceSpec({ replicas: 4, update: { ...policy, order } }));
    await c.until(() => c.running("web").length === 4);
    await c.store.update((tx) => {
      const node = tx.nodes.get(id("n1"));
      if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, availability: "drain" } });
    });
    let least = 4;
    await c.until(() => {
      least = Math.min(least, c.running("web").length);
      return (
        c.running("web").filter((task) => task.nodeId === id("n2")).length === 4 &&
        c.running("web").length === 4
      );
    });
    t.ok(order === "start-first" ? least === 4 : least >= 2, `${order}: ${least}`);
    t.equal(c.service("web").updateStatus, undefined);
    t.strictSame(c.errors, []);
  }
});

t.test(
  "a crashing task is restarted after its delay, at most as often as allowed, and history is trimmed",
  async (t) => {
    await using c = await started(["n1"]);
    const restart = { delayMs: 1000, maxAttempts: 3 } as const;
    await c.create("web", serviceSpec({ task: { ...taskSpec({ image: "crash:1" }), restart } }));
    await c.clock.advance(30_000);
    const tasks = c.tasks("web");
    t.equal(tasks.length, 4, "the first and three restarts");
    t.ok(tasks.every(isTerminal));
    const times = tasks.map((task) => task.meta.createdAtMs).toSorted((a, b) => a - b);
    t.ok((times[2] ?? 0) - (times[1] ?? 0) >= 1000, "the delay passes between attempts");
    await c.create(
      "loop",
      serviceSpec({ task: { ...taskSpec({ image: "crash:1" }), restart: { delayMs: 100 } } }),
    );
    await c.clock.advance(30_000);
    // The limit of five, and what came since the last trim.
    t.ok(c.tasks("loop").length <= 8, `kept ${c.tasks("loop").length}`);
    await c.create(
      "once",
      serviceSpec({ task: { ...taskSpec({ image: "done:1" }), restart: { condition: "on-failure" } } }),
    );
    await c.clock.advance(30_000);
    t.equal(c.tasks("once").length, 1, "finished is finished");
    t.strictSame(c.errors, []);
  },
);

t.test("a removed service takes its tasks and revisions with it", async (t) => {
  await using c = await started(["n1", "n2"]);
  const web = await c.create("web", serviceSpec({ replicas: 3 }));
  await c.until(() => c.running("web").length === 3);
  await c.store.update((tx) => tx.services.remove(web));
  await c.until(() => c.tasks("web").length === 0);
  t.equal(
    c.store.view((view) => view.revisions.count),
    0,
  );
  const idle = await c.create("idle", serviceSpec({ replicas: 0 }));
  await c.store.update((tx) => tx.services.remove(idle));
  t.strictSame(c.errors, []);
});

t.test(
  "a global service has one task on each node that fits, comes back with its node and updates",
  async (t) => {
    await using c = await started(["n1", "n2", "n3"]);
    await c.create("agent", serviceSpec({ mode: { kind: "global" }, update: policy }));
    await c.until(() => c.running("agent").length === 3);
    await c.store.update((tx) => tx.nodes.create(nodeObject("n4")));
    await c.until(() => c.running("agent").length === 4);
    t.match(c.running("agent")[0]?.slot, 0);
    await c.setNode("n2", "down");
    await c.clock.advance(1000);
    t.equal(c.running("agent").length, 3);
    await c.setNode("n2", "ready");
    await c.until(() => c.running("agent").length === 4);
    await c.update("agent", image("web:2"));
    await c.until(() => c.service("agent").updateStatus?.state === "completed");
    t.equal(c.running("agent", "web:2").length, 4);
    await c.update("agent", (spec) => ({
      ...spec,
      task: { ...spec.task, placement: { ...spec.task.placement, constraints: ["node.hostname != n3"] } },
    }));
    await c.until(() => c.running("agent").length === 3);
    t.equal(c.running("agent").filter((task) => task.nodeId === id("n3")).length, 0);
    t.strictSame(c.errors, []);
  },
);

t.test("a label that no longer fits moves the tasks elsewhere", async (t) => {
  await using c = await started([]);
  await c.store.update((tx) => {
    for (const name of ["n1", "n2"]) tx.nodes.create(nodeObject(name, { spec: { labels: { zone: "a" } } }));
  });
  const placement = { constraints: ["node.labels.zone==a"], spread: [], maxReplicas: 0, platforms: [] };
  await c.create("web", serviceSpec({ replicas: 2, task: { ...taskSpec(), placement } }));
  await c.until(() => c.running("web").length === 2);
  await c.store.update((tx) => {
    const node = tx.nodes.get(id("n1"));
    if (node !== undefined) tx.nodes.update({ ...node, spec: { ...node.spec, labels: {} } });
  });
  await c.until(() => c.running("web").filter((task) => task.nodeId === id("n2")).length === 2);
  t.strictSame(c.errors, []);
});

t.test("tasks without room stay pending, say why, and run once there is room", async (t) => {
  await using c = await started(["n1"]);
  const resources = { reservations: { nanoCpus: 3e9 } };
  await c.create("big", serviceSpec({ replicas: 2, task: { ...taskSpec(), resources } }));
  await c.until(() => c.running("big").length === 1);
  const waiting = c.tasks("big").find((task) => task.status.state === "pending");
  t.equal(waiting?.status.error, "no suitable node (insufficient resources on 1 node)");
  await c.store.update((tx) => tx.nodes.create(nodeObject("n2")));
  await c.until(() => c.running("big").length === 2);
  t.strictSame(c.errors, []);
});

t.test(
  "an overlay gets its subnet and its tasks their addresses; a full one says so and recovers",
  async (t) => {
    await using c = await started(["n1"]);
    await c.store.update((tx) => {
      tx.networks.create(networkObject("net"));
      tx.networks.create(networkObject("tiny", { ipam: [{ subnet: "192.168.7.0/29" }] }));
    });
    await c.clock.advance(10);
    t.strictSame(
      c.store.view((view) => view.networks.byName("net")?.state),
      { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4096 },
    );
    const networks = [{ networkId: id<never>("net"), aliases: ["web"] }];
    await c.create("web", serviceSpec({ replicas: 3, task: { ...taskSpec(), networks } }));
    await c.until(() => c.running("web").length === 3);
    t.strictSame(
      new Set(c.tasks("web").map((task) => task.networks[0]?.address)),
      new Set(["10.0.1.3/24", "10.0.1.4/24", "10.0.1.5/24"]),
    );
    t.strictSame(c.service("web").endpoint?.virtualIps, [{ networkId: id("net"), address: "10.0.1.2/24" }]);
    const tiny = [{ networkId: id<never>("tiny"), aliases: [] }];
    await c.create("full", serviceSpec({ replicas: 6, task: { ...taskSpec(), networks: tiny } }));
    await c.until(() => c.running("full").length === 4);
    const stuck = c.tasks("full").find((task) => task.status.state === "new");
    t.equal(stuck?.status.error, "no address is left on network tiny: all of 192.168.7.0/29 are taken");
    const crashed = c.running("full")[0];
    if (crashed === undefined) throw new Error("none runs");
    await c.update("full", scale(4));
    await c.until(() => c.tasks("full").length === 4);
    t.strictSame(new Set(c.tasks("full").map((task) => task.networks[0]?.address)).size, 4);
    t.strictSame(c.errors, []);
  },
);

t.test("a new leader's loops change nothing about what is settled", async (t) => {
  await using c = await started(["n1", "n2"]);
  await c.store.update((tx) => tx.networks.create(networkObject("net")));
  const networks = [{ networkId: id<never>("net"), aliases: [] }];
  await c.create("web", serviceSpec({ replicas: 4, task: { ...taskSpec(), networks } }));
  await c.until(() => c.running("web").length === 4);
  await c.clock.advance(1000);
  const before = c.lone.log.length;
  c.startLoops();
  await c.clock.advance(10_000);
  t.equal(c.lone.log.length, before);
  t.strictSame(c.errors, []);
});

for (const changes of [0, 6]) {
  t.test(`a job of 7 runs 3 at a time to its end, under ${changes} changes of leader`, async (t) => {
    await using c = await started(["n1", "n2", "n3"]);
    const mode = { kind: "replicated-job", maxConcurrent: 3, totalCompletions: 7 } as const;
    await c.create("sweep", serviceSpec({ mode, image: "done:1" }));
    let most = 0;
    const done = (): number => c.tasks("sweep").filter((task) => task.status.state === "complete").length;
    const look = (): boolean => {
      most = Math.max(most, c.tasks("sweep").filter((task) => !isTerminal(task)).length);
      return done() === 7;
    };
    for (let term = 2; term < 2 + changes; term += 1) {
      await c.clock.advance(70);
      look();
      await c.changeLeader(term);
    }
    await c.until(look);
    t.equal(most, 3);
    await c.clock.advance(60_000);
    t.equal(c.tasks("sweep").length, 7, "nothing runs twice");
    t.same(
      c
        .tasks("sweep")
        .map((task) => task.slot)
        .toSorted((a, b) => a - b),
      [1, 2, 3, 4, 5, 6, 7],
    );
    t.equal(c.service("sweep").updateStatus, undefined);
    t.strictSame(c.errors, []);
  });
}

t.test("an update of a job begins a new iteration, and old ones leave the history", async (t) => {
  await using c = await started(["n1", "n2"]);
  const mode = { kind: "replicated-job", maxConcurrent: 2, totalCompletions: 2 } as const;
  await c.create("sweep", serviceSpec({ mode, image: "done:1" }));
  const done = (iteration: number): boolean =>
    c.tasks("sweep").filter((task) => task.jobIteration === iteration && task.status.state === "complete")
      .length === 2;
  await c.until(() => done(0));
  for (let iteration = 1; iteration <= 8; iteration += 1) {
    await c.update("sweep", (spec) => spec);
    await c.until(() => done(iteration));
  }
  await c.clock.advance(1000);
  t.equal(c.service("sweep").job?.iteration, 8);
  t.equal(c.tasks("sweep").length, 10, "five iterations of two");
  await c.rollback("sweep");
  await c.until(() => done(9));
  t.equal(c.service("sweep").updateStatus, undefined);
  t.strictSame(c.errors, []);
});

t.test("a job whose tasks fail backs off, and is given up with its attempts", async (t) => {
  await using c = await started(["n1"]);
  const mode = { kind: "replicated-job", maxConcurrent: 1, totalCompletions: 2 } as const;
  const restart = { maxAttempts: 2, delayMs: 1000 };
  await c.create("sweep", serviceSpec({ mode, task: { ...taskSpec({ image: "crash:1" }), restart } }));
  await c.until(() => c.tasks("sweep").filter((task) => task.status.state === "failed").length === 6);
  await c.clock.advance(600_000);
  t.equal(c.tasks("sweep").length, 6, "two slots of three tasks");
  t.strictSame(c.errors, []);
});

t.test(
  "a global job runs once on each node, later ones too, and again on one that was interrupted",
  async (t) => {
    await using c = await started(["n1", "n2"]);
    await c.create("scan", serviceSpec({ mode: { kind: "global-job" }, image: "done:1" }));
    const done = (): number => c.tasks("scan").filter((task) => task.status.state === "complete").length;
    await c.until(() => done() === 2);
    await c.store.update((tx) => tx.nodes.create(nodeObject("n3", { state: "down" })));
    await c.clock.advance(10_000);
    t.equal(c.tasks("scan").length, 2);
    await c.setNode("n3", "ready");
    await c.until(() => done() === 3);
    await c.setNode("n1", "down");
    await c.setNode("n1", "ready");
    await c.clock.advance(10_000);
    t.equal(c.tasks("scan").length, 3, "what finished stays finished");
    t.strictSame(c.errors, []);
  },
);

t.test("draining the node of a start-first service never goes below its replicas", async (t) => {
  await using c = await started(["n1", "n2", "n3"]);
  await c.create("web", serviceSpec({ replicas: 9, update: { ...policy, order: "start-first" } }));
  await c.until(() => c.running("web").length === 9);
  await c.setAvailability("n1", "drain");
  let least = 9;
  await c.until(() => {
    least = Math.min(least, c.running("web").length);
    return c.running("web").every((task) => task.nodeId !== id("n1"));
  });
  t.equal(least, 9);
  await c.until(() => c.tasks("web").filter((task) => !isTerminal(task)).length === 9);
  t.strictSame(c.errors, []);
});

t.test(
  "tasks that are told to move do so in their service's order, and start-first keeps all running",
  async (t) => {
    await using c = await started(["n1", "n2"]);
    await c.create("web", serviceSpec({ replicas: 4, update: { ...policy, order: "start-first" } }));
    await c.until(() => c.running("web").length === 4);
    await c.store.update((tx) => tx.nodes.create(nodeObject("n3")));
    await c.store.update((tx) => {
      const task = tx.tasks.byService(id("web")).find((each) => each.nodeId === id("n1"));
      if (task !== undefined) tx.tasks.update({ ...task, moving: true });
    });
    let least = 4;
    await c.until(() => {
      least = Math.min(least, c.running("web").length);
      return c.running("web").some((task) => task.nodeId === id("n3"));
    });
    t.equal(least, 4);
    await c.until(() => c.tasks("web").filter((task) => !isTerminal(task)).length === 4);
    t.strictSame(c.errors, []);
  },
);

t.test("a node that returns before its tasks run elsewhere keeps them", async (t) => {
  await using c = await started(["n1"]);
  await c.create("web", serviceSpec({ replicas: 3 }));
  await c.until(() => c.running("web").length === 3);
  const before = new Set(c.running("web").map((task) => task.id));
  await c.setNode("n1", "down");
  await c.clock.advance(5000);
  t.ok(
    c.tasks("web").some((task) => task.status.error.startsWith("no suitable node")),
    "the replacements have nowhere to go",
  );
  await c.setNode("n1", "ready");
  await c.until(() => c.tasks("web").filter((task) => !isTerminal(task)).length === 3);
  t.ok(c.running("web").every((task) => before.has(task.id)));
  t.strictSame(c.errors, []);
});

t.test("start-first goes on where every node holds as many replicas as it may", async (t) => {
  await using c = await started(["n1", "n2"]);
  const placement = { constraints: [], spread: [], maxReplicas: 1, platforms: [] };
  const task = { ...taskSpec(), placement };
  await c.create("web", serviceSpec({ replicas: 2, task, update: { ...policy, order: "start-first" } }));
  await c.until(() => c.running("web").length === 2);
  await c.update("web", image("web:2"));
  await c.until(() => c.service("web").updateStatus?.state === "completed");
  t.equal(c.running("web", "web:2").length, 2);
  t.strictSame(c.errors, []);
});
