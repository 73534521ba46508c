import t from "tap";
import { call } from "../lab/api.ts";
import type { Host } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import { anyClient as client } from "./clients.ts";
import { idle, images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";
import { identities } from "./view.ts";

/** With the default heartbeat and grace; from the moment the power is cut. */
const workerLossLimitMs = 5_000;
const leaderLossLimitMs = 2_000;

t.test("hosts and wires that fail", { skip: noLab || client.missing }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-fault", managers: 3, workers: 2 });
  const [host1, , , host4, host5] = lab.hosts;
  if (host1 === undefined || host4 === undefined || host5 === undefined)
    throw new Error("five hosts were asked for");

  /** Creates a config through a manager: the smallest write there is. */
  const write = async (host: Host, name: string, timeoutMs: number): Promise<void> => {
    await call(host.socket, "POST", "/configs/create", { body: { Name: name, Data: "aGk=" }, timeoutMs });
  };
  const configs = async (host: Host): Promise<string[]> =>
    (await call<{ Spec: { Name: string } }[]>(host.socket, "GET", "/configs")).map(({ Spec }) => Spec.Name);
  const othersThan = (host: Host): Host[] => lab.managers.filter(({ name }) => name !== host.name);
  /** How long until a write through another manager succeeds. */
  const untilWrite = async (host: Host, name: string): Promise<number> => {
    const start = performance.now();
    let attempt = 0;
    await waitFor("write through another manager", { timeoutMs: 20_000, everyMs: 10 }, async () => {
      attempt += 1;
      await write(host, `${name}-${attempt}`, 1_000);
      return true;
    });
    return performance.now() - start;
  };
  const allManagersReachable = (): Promise<true> =>
    waitFor("all managers reachable", { timeoutMs: 30_000 }, async () => {
      const nodes = await view.nodes();
      const reachable = nodes.filter((node) => node.ManagerStatus?.Reachability === "reachable");
      return reachable.length === 3 && nodes.every((node) => node.Status.State === "ready");
    });

  t.test("services to watch", async (t) => {
    const create = (name: string, ...flags: string[]): Promise<string> =>
      client.run(host1, ["service", "create", ...quick, "--name", name, ...flags, images.bb1, ...idle]);
    await create("anywhere", "--replicas", "10");
    await create("steady", "--replicas", "4", "--constraint", "node.role==worker");
    await create("every", "--mode", "global");
    t.pass();
  });

  t.test(`a lost worker's tasks run elsewhere within ${workerLossLimitMs} ms`, async (t) => {
    const lost = await view.node(host5);
    const before = (await view.running("anywhere")).filter(({ NodeID }) => NodeID !== lost.ID);
    await host5.kill();
    const start = performance.now();
    const tasks = await waitFor("all replicas on living hosts", { timeoutMs: 20_000 }, async () => {
      const alive = (await view.running("anywhere")).filter(({ NodeID }) => NodeID !== lost.ID);
      return alive.length === 10 && alive;
    });
    const tookMs = performance.now() - start;
    t.ok(tookMs <= workerLossLimitMs, `took ${Math.round(tookMs)} ms`);
    const now = new Set(identities(tasks));
    t.ok(
      identities(before).every((identity) => now.has(identity)),
      "tasks on other hosts were not touched",
    );
    t.equal((await view.waitNode(host5, "down")).Status.State, "down");
  });

  t.test("it comes back after a reboot as the same node and gets work again", async (t) => {
    await lab.restart(host5);
    await view.waitNode(host5, "ready");
    await waitFor(
      "its task of the global service",
      { timeoutMs: 20_000 },
      async () => ((await view.spread(await view.running("every")))["host5"] ?? 0) === 1,
    );
    await view.waitRunning("anywhere", 10);
    t.pass();
  });

  t.test(
    "a worker cut off for longer than the grace: replaced elsewhere, its own stopped when it returns",
    async (t) => {
      const own = (await view.node(host4)).ID;
      const cutOff = (await view.running("anywhere"))
        .filter(({ NodeID }) => NodeID === own)
        .map(({ ID }) => ID);
      const containers = (await host4.processes()).filter(({ depth }) => depth > 2).length;
      t.ok(cutOff.length > 0 && containers > 0);
      await lab.cut(host4);
      await view.waitNode(host4, "down");
      await waitFor(
        "replacements",
        { timeoutMs: 20_000 },
        async () => (await view.running("anywhere")).filter(({ NodeID }) => NodeID !== own).length === 10,
      );
      t.equal(
        (await host4.processes()).filter(({ depth }) => depth > 2).length,
        containers,
        "its containers ran on",
      );
      await lab.heal();
      await view.waitNode(host4, "ready");
      await waitFor(
        "end of the tasks that were replaced",
        { timeoutMs: 20_000 },
        async () =>
          (await view.tasks("anywhere")).filter(
            ({ ID, Status }) => cutOff.includes(ID) && Status.State === "running",
          ).length === 0,
      );
      await view.waitRunning("anywhere", 10);
      await view.waitRunning("steady", 4);
    },
  );

  t.test(
    `leader killed: the next write within ${leaderLossLimitMs} ms, and no task is restarted by it`,
    async (t) => {
      const before = identities(await view.waitRunning("steady", 4));
      const leader = await view.leader();
      const [other] = othersThan(leader);
      if (other === undefined) throw new Error("three managers were asked for");
      await leader.kill();
      const tookMs = await untilWrite(other, "after-kill");
      t.ok(tookMs <= leaderLossLimitMs, `took ${Math.round(tookMs)} ms`);
      t.not((await view.leader()).name, leader.name);
      await waitFor("the lost tasks elsewhere", { timeoutMs: 30_000 }, async () => {
        const spread = await view.spread(await view.running("anywhere"));
        return (
          Object.entries(spread).reduce(
            (sum, [host, count]) => sum + (host === leader.name ? 0 : count),
            0,
          ) === 10
        );
      });
      t.strictSame(identities(await view.running("steady")), before);
      await lab.restart(leader);
      await allManagersReachable();
      t.ok(
        (await configs(leader)).some((name) => name.startsWith("after-kill")),
        "it learned what it missed",
      );
    },
  );

  t.test("leader cut off: writes go on, no task is restarted, its stale writes never show", async (t) => {
    const before = identities(await view.waitRunning("steady", 4));
    const leader = await view.leader();
    const [other] = othersThan(leader);
    if (other === undefined) throw new Error("three managers were asked for");
    await lab.cut(leader);
    const stale = write(leader, "stale", 3_000).then(
      () => "acknowledged",
      () => "refused",
    );
    const tookMs = await untilWrite(other, "after-cut");
    t.ok(tookMs <= leaderLossLimitMs, `took ${Math.round(tookMs)} ms`);
    t.equal(await stale, "refused", "a leader without its followers acknowledges nothing");
    await lab.heal();
    await allManagersReachable();
    for (const manager of lab.managers) {
      const names = await configs(manager);
      t.notOk(names.includes("stale"), `not on ${manager.name}`);
      t.ok(
        names.some((name) => name.startsWith("after-cut")),
        `new writes on ${manager.name}`,
      );
    }
    t.strictSame(identities(await view.running("steady")), before);
  });

  t.test("a leader that hangs and comes back costs no node and no task", async (t) => {
    const before = identities(await view.waitRunning("steady", 4));
    const leader = await view.leader();
    await leader.pause();
    await untilWrite(othersThan(leader)[0] ?? leader, "while-paused");
    await leader.resume();
    await allManagersReachable();
    t.strictSame(identities(await view.running("steady")), before);
  });

  t.test("no error was left unhandled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
