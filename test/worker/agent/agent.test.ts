import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { ClusterError } from "../../../model/errors.ts";
import type { ClusterId, NetworkId, NodeId, SecretId } from "../../../model/ids.ts";
import type { ClusterFacts, NodeIdentity } from "../../../proto/host.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemDisk } from "../../../runtime/disk.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom, systemRandom } from "../../../runtime/random.ts";
import { Agent } from "../../../worker/agent/agent.ts";
import { Attachments } from "../../../worker/agent/attachments.ts";
import type { Assignment } from "../../../worker/agent/assignment.ts";
import { Journal } from "../../../worker/agent/journal.ts";
import { FakeEngine } from "../../sim/engine.ts";
import type { ImageScript } from "../../sim/engine.ts";
import { FakeNetwork } from "../../sim/network.ts";
import { FakeDispatcher } from "./dispatcher.ts";
import { assignment, revision } from "./fixtures.ts";

const noPeriod = { intervalMs: 0, timeoutMs: 0, startPeriodMs: 0, startIntervalMs: 0, retries: 0 };
let seed = 0;

/** One worker whose agent can be restarted over the same engine, network and journal. */
class World {
  readonly manager: FakeDispatcher;
  readonly engine: FakeEngine;
  readonly network = new FakeNetwork();
  readonly facts: ClusterFacts[] = [];
  readonly directory: string;
  managers: string[];
  journal: Journal | undefined;
  agent: Agent | undefined;
  attachments = new Attachments({ clock: systemClock, random: systemRandom });

  private constructor(
    manager: FakeDispatcher,
    directory: string,
    registry: Record<string, ImageScript>,
    present: string[],
  ) {
    this.manager = manager;
    this.directory = directory;
    this.engine = new FakeEngine(systemClock, { registry, present });
    this.managers = [manager.address];
  }

  static async make(
    t: HasTeardown,
    registry: Record<string, ImageScript> = { "web:1": {} },
    present: string[] = [],
  ) {
    const directory = await mkdtemp(join(tmpdir(), "shoal-agent-"));
    const world = new World(await FakeDispatcher.start(), directory, registry, present);
    t.teardown(async () => {
      await world.stop();
      await world.manager.stop();
      await rm(directory, { recursive: true });
    });
    return world;
  }

  async start(): Promise<Agent> {
    this.journal = await Journal.open({ disk: systemDisk, log: silentLog }, this.directory);
    seed += 1;
    this.agent = new Agent(
      {
        clock: systemClock,
        random: seededRandom(seed),
        log: silentLog,
        engine: this.engine,
        network: this.network,
        journal: this.journal,
        attachments: this.attachments,
        connect: (address) => FakeDispatcher.connect(address),
        onFacts: (facts) => this.facts.push(facts),
        onHealth: () => undefined,
      },
      identity(this.managers),
      {
        hostname: "host1",
        platform: { architecture: "x86_64", os: "linux" },
        resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
        engineVersion: "0.1.0",
        engineLabels: {},
        plugins: [],
      },
    );
    this.agent.start();
    return this.agent;
  }

  async stop(): Promise<void> {
    await this.agent?.stop();
    await this.journal?.close();
    this.agent = undefined;
  }

  containerOf(taskId: string): string {
    return this.manager.latest.get(taskId)?.containerId ?? "";
  }
}

interface HasTeardown {
  teardown(work: () => Promise<void>): void;
}

function identity(managers: readonly string[]): NodeIdentity {
  return {
    nodeId: "node1" as NodeId,
    clusterId: "c" as ClusterId,
    role: "worker",
    certificatePem: "",
    keyPem: "",
    rootPem: "",
    managers,
    listenAddress: "",
    advertiseAddress: "",
    dataPathAddress: "10.0.0.1",
  };
}

function running(...ids: string[]): Assignment[] {
  return ids.map((id) => assignment(id));
}

t.test(
  "containers on networks of the cluster: each session begins with what they want, and tells what they get",
  async (t) => {
    const world = await World.make(t);
    await world.start();
    const { manager, attachments } = world;
    await manager.until("the first list", () => manager.attachments.length === 1);
    t.strictSame(manager.attachments, [[]], "that it wants none is said as well");
    const wish = { containerId: "c1", network: "front", names: ["web"], address: "" };
    const given = attachments.attach(wish, new AbortController().signal);
    await manager.until("the wish", () => manager.attachments.length === 2);
    const attempt = manager.attachments[1]?.[0]?.attempt ?? "";
    const network = {
      id: "n1",
      name: "front",
      driver: "overlay",
      subnet: "10.0.1.0/24",
      gateway: "10.0.1.1",
    };
    manager.send({
      networks: [{ ...network, vni: 4096 }],
      attachments: [{ id: "x", networkId: "n1", attempt, address: "10.0.1.5/24" }],
    });
    t.match(await given, { networkId: "n1", networkName: "front", address: "10.0.1.5/24" });
    t.match(world.network.wanted?.networks, [{ id: "n1" }], "and the host has the network by then");
    manager.dropSessions();
    await manager.until("the list of the next session", () => manager.attachments.length === 3);
    t.match(manager.attachments[2], [{ attempt, network: "n1", address: "10.0.1.5", containerId: "c1" }]);
  },
);

t.test("a node that leaves does so once the managers have heard what its containers gave back", async (t) => {
  const world = await World.make(t);
  const agent = await world.start();
  const { manager, attachments } = world;
  const wish = { containerId: "c1", network: "front", names: ["web"], address: "" };
  await manager.until("the first list", () => manager.attachments.length === 1);
  const given = attachments.attach(wish, new AbortController().signal);
  await manager.until("the wish", () => manager.attachments.length === 2);
  const attempt = manager.attachments[1]?.[0]?.attempt ?? "";
  const network = { id: "n1", name: "front", driver: "overlay", subnet: "10.0.1.0/24", gateway: "10.0.1.1" };
  manager.send({
    networks: [{ ...network, vni: 4096 }],
    attachments: [{ id: "x", networkId: "n1", attempt, address: "10.0.1.5/24" }],
  });
  await given;
  attachments.keep("c1", new Set());
  let hasLeft = false;
  const leaving = agent.removeAll(new AbortController().signal).then(() => (hasLeft = true));
  await manager.until("what it gave back", () => manager.attachments.at(-1)?.length === 0);
  t.equal(hasLeft, false);
  manager.send({ removedAttachments: ["x"], removedNetworks: ["n1"] });
  await leaving;
  t.equal(manager.sessionCount, 1);
});

t.test(
  "a task that is to stop when its host comes back is first withdrawn from the host's own balancers",
  async (t) => {
    const world = await World.make(t);
    const { manager, network } = world;
    const networks = [{ networkId: "n1" as NetworkId, address: "10.0.1.5/24", aliases: [] }];
    const front = { id: "n1", name: "front", driver: "overlay", subnet: "10.0.1.0/24", gateway: "10.0.1.1" };
    manager.tasks = [assignment("t1", { networks })];
    manager.extra = { networks: [{ ...front, vni: 4096 }] };
    await world.start();
    await manager.untilState("t1", "running");
    let open = (): void => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const apply = network.apply.bind(network);
    let isApplying = false;
    network.apply = async (wanted, signal) => {
      isApplying = true;
      await gate;
      await apply(wanted, signal);
    };
    manager.tasks = [assignment("t1", { networks, desiredState: "shutdown" })];
    manager.dropSessions();
    await manager.until("the next session", () => manager.sessionCount === 2 && isApplying);
    const beats = manager.heartbeatCount;
    await manager.until("some heartbeats", () => manager.heartbeatCount > beats + 2);
    t.equal(manager.latest.get("t1")?.state, "running");
    open();
    await manager.untilState("t1", "shutdown");
  },
);

t.test("what the network is brought to is not told to a session that it is not of", async (t) => {
  const world = await World.make(t);
  const { manager, network } = world;
  const front = { id: "n1", name: "front", driver: "overlay", subnet: "10.0.1.0/24", gateway: "10.0.1.1" };
  await world.start();
  await manager.until("the first set", () => manager.applied.length === 1);
  let open = (): void => undefined;
  const gate = new Promise<void>((resolve) => (open = resolve));
  const apply = network.apply.bind(network);
  let calls = 0;
  network.apply = async (wanted, signal) => {
    calls += 1;
    if (calls === 1) await gate;
    await apply(wanted, signal);
  };
  manager.send({ networks: [{ ...front, vni: 4096 }] });
  await manager.until("its work", () => calls === 1);
  manager.dropSessions();
  await manager.until("the next session", () => manager.sessionCount === 2);
  const beats = manager.heartbeatCount;
  await manager.until("the node in it", () => manager.heartbeatCount > beats + 1);
  open();
  await manager.until("its set", () => manager.applied.length === 2);
  t.strictSame(manager.applied, [1, 1]);
});

t.test("a task climbs every rung, and its container has Docker's name and labels", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = running("t1");
  await world.start();
  await world.manager.untilState("t1", "running");
  const rungs = world.manager.seen.filter((entry, index, all) => all.indexOf(entry) === index);
  const ladder = ["t1=accepted", "t1=preparing", "t1=ready", "t1=starting", "t1=running"];
  t.strictSame(
    rungs,
    ladder.filter((rung) => rungs.includes(rung)),
    "in order",
  );
  t.match(world.containerOf("t1"), /^[0-9a-f]{64}$/);
  const request = world.engine.request(world.containerOf("t1"));
  t.equal(request.name, "web.1.t1");
  t.match(request.labels, {
    own: "label",
    "com.docker.swarm.node.id": "node1",
    "com.docker.swarm.service.id": "s",
    "com.docker.swarm.service.name": "web",
    "com.docker.swarm.task": "",
    "com.docker.swarm.task.id": "t1",
    "com.docker.swarm.task.name": "web.1.t1",
  });
  t.strictSame(request.spec.env, ["SLOT=1"]);
  t.equal(request.spec.hostname, world.containerOf("t1").slice(0, 12));
  t.match(world.facts[0], { managers: [world.manager.address], desiredRole: "worker" });
});

t.test("thirty tasks start at the same time, bounded", async (t) => {
  const world = await World.make(t, { "web:1": { startMs: 30, pullMs: 10 } });
  const ids = Array.from({ length: 30 }, (_, index) => `t${index}`);
  world.manager.tasks = running(...ids);
  await world.start();
  const before = performance.now();
  await world.manager.until("all running", () =>
    ids.every((id) => world.manager.latest.get(id)?.state === "running"),
  );
  t.ok(performance.now() - before < 30 * 40, "not one after another");
});

t.test("how a task ends", async (t) => {
  const cases = [
    {
      name: "exit 0 completes",
      image: { exitAfterMs: 5, exitCode: 0 },
      want: { state: "complete", error: "", exitCode: 0 },
    },
    {
      name: "exit 3 fails",
      image: { exitAfterMs: 5, exitCode: 3 },
      want: { state: "failed", error: "task: non-zero exit (3)", exitCode: 3 },
    },
    {
      name: "an unknown image rejects",
      image: undefined,
      want: { state: "rejected", error: "No such image: web:1" },
    },
  ] as const;
  for (const { name, image, want } of cases) {
    const world = await World.make(t, image === undefined ? {} : { "web:1": image });
    world.manager.tasks = running("t1");
    await world.start();
    await world.manager.untilState("t1", want.state);
    t.match(world.manager.latest.get("t1"), want, name);
    while ((await world.network.list()).length > 0) await systemClock.sleep(1); // Its addresses are given back.
  }
});

t.test("a registry that is away does not matter when the image is present", async (t) => {
  const world = await World.make(t, {}, ["web:1"]);
  world.manager.tasks = running("t1");
  await world.start();
  await world.manager.untilState("t1", "running");
});

t.test("desired ready prepares and waits; running starts; shutdown stops; removal removes all", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = [assignment("t1", { desiredState: "ready" })];
  await world.start();
  await world.manager.untilState("t1", "ready");
  t.notOk(world.engine.calls.some((call) => call.startsWith("start")));
  world.manager.send({}, [assignment("t1", { desiredState: "running" })]);
  await world.manager.untilState("t1", "running");
  world.manager.send({}, [assignment("t1", { desiredState: "shutdown" })]);
  await world.manager.untilState("t1", "shutdown");
  t.equal(world.manager.latest.get("t1")?.exitCode, 143);
  t.equal((await world.engine.list()).length, 1, "an ended container is kept for its logs");
  world.manager.send({ removedTasks: ["t1"] });
  await world.manager.until("removed", () => world.journal?.tasks.size === 0);
  t.strictSame([await world.engine.list(), await world.network.list()], [[], []]);
});

t.test("with a health check, running comes only after the first healthy result", async (t) => {
  let healthy = false;
  const world = await World.make(t, { "web:1": { exec: () => ({ exitCode: healthy ? 0 : 1, output: "" }) } });
  const healthcheck = {
    ...noPeriod,
    test: ["CMD", "check"],
    intervalMs: 20,
    startPeriodMs: 60_000,
    startIntervalMs: 20,
  };
  world.manager.tasks = [assignment("t1", { revision: revision({ healthcheck }) })];
  await world.start();
  await world.manager.untilState("t1", "starting");
  await world.manager.until("some heartbeats", () => world.manager.heartbeatCount >= 2);
  t.equal(world.manager.latest.get("t1")?.state, "starting");
  healthy = true;
  await world.manager.untilState("t1", "running");
});

t.test("an unhealthy container is stopped and its task fails with Docker's text", async (t) => {
  let healthy = true;
  const exec = () => ({ exitCode: healthy ? 0 : 1, output: "" });
  const world = await World.make(t, { "web:1": { exec, stopMs: "ignores" } });
  const healthcheck = { ...noPeriod, test: ["CMD", "check"], intervalMs: 10, retries: 2 };
  world.manager.tasks = [assignment("t1", { revision: revision({ healthcheck, stopGracePeriodMs: 10 }) })];
  await world.start();
  await world.manager.untilState("t1", "running");
  healthy = false;
  await world.manager.untilState("t1", "failed");
  t.equal(
    world.manager.latest.get("t1")?.error,
    "task: non-zero exit (137): dockerexec: unhealthy container",
  );
});

t.test("after a restart without any manager, containers run on and exits are known", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = running("t1", "t2", "t3");
  await world.start();
  for (const id of ["t1", "t2", "t3"]) await world.manager.untilState(id, "running");
  const [second, third] = [world.containerOf("t2"), world.containerOf("t3")];
  await world.stop();
  world.engine.exit(second, 7);
  world.engine.calls.length = 0;
  const old = world.manager;
  world.managers = ["127.0.0.1:1"];
  const agent = await world.start();
  while (agent.taskStatus("t2")?.state !== "failed") await systemClock.sleep(1);
  t.match(agent.taskStatus("t2"), { state: "failed", exitCode: 7, error: "task: non-zero exit (7)" });
  t.equal(agent.taskStatus("t1")?.state, "running");
  t.notOk(
    world.engine.calls.some((call) => /^(create|start|stop|remove)/.test(call)),
    "no container was touched",
  );
  old.latest.clear();
  agent.setManagers([old.address]);
  await old.untilState("t2", "failed");
  await old.untilState("t3", "running");
  t.equal(world.containerOf("t3"), third);
});

t.test(
  "losing the manager changes nothing here; another leader is found by redirect and hears all",
  async (t) => {
    const world = await World.make(t);
    world.manager.tasks = running("t1");
    const other = await FakeDispatcher.start();
    t.teardown(() => other.stop());
    world.managers = [world.manager.address];
    await world.start();
    await world.manager.untilState("t1", "running");
    other.tasks = running("t1");
    world.manager.redirectTo = other.address;
    const before = performance.now();
    world.manager.dropSessions();
    await other.untilState("t1", "running");
    t.ok(performance.now() - before < 1_000, `found within ${Math.round(performance.now() - before)} ms`);
    t.equal(world.engine.calls.filter((call) => call.startsWith("start")).length, 1);
  },
);

t.test("without a manager for as long as its service allows, a task is ended; others run on", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = [
    assignment("t1", { stopAfterMs: 50 }),
    assignment("t2", { stopAfterMs: 3_600_000 }),
    assignment("t3"),
  ];
  const agent = await world.start();
  for (const id of ["t1", "t2", "t3"]) await world.manager.untilState(id, "running");
  world.manager.redirectTo = "127.0.0.1:1"; // No manager leads.
  world.manager.dropSessions();
  while (agent.taskStatus("t1")?.state === "running") await systemClock.sleep(1);
  t.match(agent.taskStatus("t1"), {
    state: "failed",
    error: "stopped by its node: no manager was heard for 0.05 s (shoal.on-unreachable=stop)",
    exitCode: 143,
  });
  t.equal(agent.taskStatus("t2")?.state, "running");
  t.equal(agent.taskStatus("t3")?.state, "running");
  world.manager.redirectTo = undefined;
  await world.manager.untilState("t1", "failed");
});

t.test("the time without a manager goes on over a restart of the worker", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = [assignment("t1", { stopAfterMs: 3_600_000 }), assignment("t2")];
  await world.start();
  for (const id of ["t1", "t2"]) await world.manager.untilState(id, "running");
  world.managers = ["127.0.0.1:1"];
  await world.stop();
  const restarted = await world.start();
  while (restarted.taskStatus("t1")?.state !== "running") await systemClock.sleep(1);
  await world.stop();
  // As if it had been down for longer than the task may be without a manager.
  const journal = await Journal.open({ disk: systemDisk, log: silentLog }, world.directory);
  await journal.noteSession(systemClock.now() - 3_600_001);
  await journal.close();
  const late = await world.start();
  while (late.taskStatus("t1")?.state !== "failed") await systemClock.sleep(1);
  t.equal(late.taskStatus("t2")?.state, "running");
});

t.test("a follower that still names a lost leader is asked again until it knows better", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = running("t1");
  world.manager.redirectTo = "127.0.0.1:1";
  await world.start();
  await systemClock.sleep(150);
  world.manager.redirectTo = undefined;
  const before = performance.now();
  await world.manager.untilState("t1", "running");
  t.ok(performance.now() - before < 1_000, `found within ${Math.round(performance.now() - before)} ms`);
});

t.test("a gap in the assignments makes a new session with a complete set", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = running("t1");
  await world.start();
  await world.manager.untilState("t1", "running");
  world.manager.tasks = running("t1", "t2");
  world.manager.send({ appliesTo: 41, resultsIn: 42, removedTasks: ["t1"] });
  await world.manager.untilState("t2", "running");
  t.equal(world.manager.sessionCount, 2);
  t.equal(world.manager.latest.get("t1")?.state, "running", "the stale message was not acted on");
});

t.test("an open session follows a changed heartbeat period, and one heartbeat comes at once", async (t) => {
  const world = await World.make(t);
  const { manager } = world;
  manager.heartbeatPeriodMs = 3_600_000;
  await world.start();
  await manager.until("a session", () => manager.sessionCount === 1);
  manager.heartbeatPeriodMs = 7_200_000;
  manager.sendInfo();
  await manager.until("one at once", () => manager.heartbeatCount === 1);
  manager.heartbeatPeriodMs = 100;
  manager.sendInfo();
  await manager.until("many", () => manager.heartbeatCount >= 4);
  t.equal(manager.sessionCount, 1);
});

t.test("networks are in place before a task of theirs, and the set is then confirmed", async (t) => {
  const world = await World.make(t);
  const { manager, network } = world;
  const net = { id: "n1", name: "net", driver: "overlay", subnet: "10.0.1.0/24", gateway: "10.0.1.1" };
  manager.extra = { networks: [{ ...net, vni: 4097 }] };
  const networks = [{ networkId: "n1" as NetworkId, address: "10.0.1.5/24", aliases: [] }];
  manager.tasks = [assignment("t1", { networks })];
  network.trouble = new ClusterError("internal", "nft is broken");
  await world.start();
  const why = (): string => manager.latest.get("t1")?.error ?? "";
  await manager.until("it says what it waits for", () => /host's network: nft is broken/.test(why()));
  t.strictSame([manager.latest.get("t1")?.state, manager.applied], ["preparing", []]);
  network.trouble = undefined;
  await manager.untilState("t1", "running");
  t.match(network.wanted?.networks, [{ id: "n1", vni: 4097 }]);
  t.ok(manager.applied.includes(1));
});

t.test(
  "keys of tunnels are told as they change, and what others know of them reaches the network",
  async (t) => {
    const world = await World.make(t);
    const { manager, network } = world;
    const key = { publicKey: "one", slot: 0 } as const;
    const next = { publicKey: "two", slot: 1 } as const;
    const tunnelKeys = [{ publicKey: "other", slot: 1 }];
    const other = { index: 2, tunnelKeys, ipv6Addresses: ["2001:db8::2"] };
    network.tunnelKeys = [key];
    manager.tasks = [];
    manager.tunnelKeys = ["one"];
    manager.extra = {
      networks: [{ id: "n1", name: "net", driver: "overlay", subnet: "10.0.1.0/24", encrypted: true }],
      hosts: [{ nodeId: "node2", address: "10.0.0.2", ...other }],
    };
    await world.start();
    await manager.until("the first set is applied", () => manager.applied.includes(1));
    t.match(manager.descriptions, [{ hostname: "host1", tunnel: { keys: [key] } }]);
    t.match(network.wanted, {
      self: { nodeIndex: 1, tunnelKeys: ["one"] },
      networks: [{ encrypted: true }],
      hosts: [other],
    });
    network.ipv6Addresses = ["2001:db8::1"];
    network.offerKeys([key, next]);
    await manager.until("the change is told", () => manager.descriptions.length === 2);
    t.match(manager.descriptions[1], { tunnel: { keys: [key, next] }, ipv6Addresses: ["2001:db8::1"] });
    const count = manager.applied.length;
    manager.tunnelKeys = ["one", "two"];
    manager.sendInfo();
    await manager.until("it is applied", () => manager.applied.length > count);
    t.strictSame(network.wanted?.self.tunnelKeys, ["one", "two"]);
  },
);

t.test("secrets reach the container from memory, never the disk", async (t) => {
  const world = await World.make(t);
  const file = { name: "key", uid: "0", gid: "0", mode: 0o444 };
  const secrets = [{ secretId: "sec1" as SecretId, secretName: "key", file }];
  world.manager.extra = { payloads: [{ id: "sec1", kind: "secret", data: Buffer.from("hush") }] };
  world.manager.tasks = [assignment("t1", { revision: revision({ secrets }) })];
  await world.start();
  await world.manager.untilState("t1", "running");
  t.equal(
    Buffer.from(world.engine.request(world.containerOf("t1")).secrets[0]?.data ?? []).toString(),
    "hush",
  );
});

t.test("leaving the cluster removes everything, also what waited for an idle host", async (t) => {
  const world = await World.make(t);
  const { engine, manager, network } = world;
  manager.tasks = running("t1", "t2");
  const agent = await world.start();
  for (const id of ["t1", "t2"]) await manager.untilState(id, "running");
  engine.isBusy = true;
  manager.send({ removedTasks: ["t1"] });
  await manager.until("a removal that waits", () => engine.calls.includes("when idle"));
  t.match(await network.list(), [{ taskId: "t2" }], "its addresses are given back at once");
  await agent.removeAll(AbortSignal.timeout(5_000));
  t.strictSame([await engine.list(), await network.list(), world.journal?.tasks.size], [[], [], 0]);
});

t.test("what nobody knows any more is swept once the managers have spoken", async (t) => {
  const world = await World.make(t);
  world.manager.tasks = running("t1", "t2");
  await world.start();
  for (const id of ["t1", "t2"]) await world.manager.untilState(id, "running");
  const kept = world.containerOf("t2");
  await world.stop();
  await rm(join(world.directory, "tasks.journal"));
  world.manager.latest.clear();
  world.manager.tasks = [assignment("t2", { statusState: "running" })];
  await world.start();
  await world.manager.until(
    "only the known one",
    () => world.manager.heartbeatCount > 0 && world.engine.calls.some((call) => call.startsWith("remove")),
  );
  t.strictSame(
    (await world.engine.list()).map(({ id }) => id),
    [kept],
    "the container of a known task is adopted",
  );
});
