import t from "tap";
import { renewCertificate } from "../../daemon/certificate.ts";
import { DispatcherClient, type ManagerMessage } from "../../proto/gen/shoal/dispatcher.ts";
import type { NodeIdentity } from "../../proto/host.ts";
import { channelOptions } from "../../runtime/grpc.ts";
import { channelCredentials } from "../../runtime/tls.ts";
import { clusterVersion, labelOf, nodesOf, setLabel, setRole, stateOf, tokensOf } from "./calls.ts";
import { eventually, ManagerProcesses } from "./processes.ts";

t.setTimeout(150_000);

t.test("a first manager founds a cluster, and a worker joins it", async (t) => {
  const processes = await ManagerProcesses.create(t);
  const manager = processes.bootstrap();
  await manager.message("ready");
  const { identity } = manager;
  t.equal(identity.role, "manager");
  t.match(await nodesOf(manager), [
    { ID: identity.nodeId, ManagerStatus: { Leader: true, Reachability: "reachable" } },
  ]);
  const tokens = await tokensOf(manager);

  await t.rejects(processes.issue(manager.address, tokens.Worker.slice(0, -3) + "abc"), /invalid join token/);
  await t.rejects(processes.issue(manager.address, tokens.Worker, undefined, Date.now() - 2 * 3_600_000), {
    message: /the clock of this node is 120 minutes behind the manager's/,
  });
  const worker = await processes.issue(manager.address, tokens.Worker);
  t.match(worker, { role: "worker", clusterId: identity.clusterId, managers: [manager.address] });
  const session = openSession(worker, manager.address);
  t.match(await session.next("info"), {
    desiredRole: "worker",
    heartbeatPeriodMs: 1_000,
    clusterId: identity.clusterId,
  });
  t.match(await session.next("assignments"), { complete: true, resultsIn: 1 });
  await eventually(
    "the worker is ready",
    async () => (await stateOf(manager, worker.nodeId)) === "ready" || undefined,
  );
  session.close();
  await eventually(
    "the worker is down",
    async () => (await stateOf(manager, worker.nodeId)) === "down" || undefined,
  );

  const rotated = await manager.call(
    "POST",
    `/swarm/update?version=${await clusterVersion(manager)}&rotateWorkerToken=true`,
    {},
  );
  t.equal(rotated.status, 200);
  await t.rejects(processes.issue(manager.address, tokens.Worker), /invalid join token/);
  t.equal(
    (await processes.issue(manager.address, tokens.Manager)).role,
    "manager",
    "the other token still holds",
  );

  t.equal(await manager.kill("SIGTERM"), "0", "it ends in order");
  const again = processes.start(manager.address, { kind: "restart", identity });
  await again.message("ready");
  await eventually("the old state is back", async () =>
    (await nodesOf(again)).length === 3 ? true : undefined,
  );
  again.disconnect();
  t.equal(await again.exited, "0", "a manager without its shoald ends");
  t.notMatch(manager.log + again.log, /unhandled|uncaught/);
});

t.test("of three managers each one serves, one may be lost, and roles change", async (t) => {
  const processes = await ManagerProcesses.create(t);
  const first = processes.bootstrap();
  await first.message("ready");
  const tokens = await tokensOf(first);
  const interrupted = await processes.join(first.address, tokens.Manager);
  await interrupted.message("ready");
  await interrupted.kill("SIGKILL");
  // shoald did not hear of its success, so it says join again.
  const second = processes.start(interrupted.address, { kind: "join", identity: interrupted.identity });
  await second.message("ready");
  // A follower takes joiners too.
  const third = await processes.join(second.address, tokens.Manager);
  await third.message("ready");
  const managers = [first, second, third];
  await eventually("all are members", async () =>
    (await nodesOf(third)).filter(({ ManagerStatus }) => ManagerStatus?.Reachability === "reachable")
      .length === 3
      ? true
      : undefined,
  );

  // What one manager wrote, every other reads at once.
  for (const [index, manager] of managers.entries()) {
    const value = `written-${index}`;
    await setLabel(manager, first.identity.nodeId, value);
    for (const reader of managers) t.equal(await labelOf(reader, first.identity.nodeId), value, `${index}`);
  }

  await first.kill("SIGKILL");
  const startedMs = Date.now();
  await eventually("a write after the leader was lost", async () => {
    await setLabel(second, first.identity.nodeId, "after");
    return true;
  });
  const tookMs = Date.now() - startedMs;
  t.ok(tookMs < 4_000, `the next write took ${tookMs} ms`);
  t.comment(`leader lost → next write: ${tookMs} ms`);
  t.equal(await labelOf(third, first.identity.nodeId), "after");

  const back = processes.start(first.address, { kind: "restart", identity: first.identity });
  await back.message("ready");
  await eventually("it catches up", async () =>
    (await labelOf(back, first.identity.nodeId)) === "after" ? true : undefined,
  );

  // Demotion, of whoever leads: out of the group first, then the certificate.
  const nodes = await nodesOf(back);
  const leaderId = nodes.find(({ ManagerStatus }) => ManagerStatus?.Leader)?.ID;
  const running = [back, second, third];
  const leader = running.find(({ identity }) => identity.nodeId === leaderId);
  t.ok(leader);
  if (leader === undefined) return;
  const others = running.filter((manager) => manager !== leader);
  const [other] = others;
  if (other === undefined) return;
  await setRole(other, leader.identity.nodeId, "worker");
  await eventually("the leader is out of the group", async () => {
    const node = (await nodesOf(other)).find(({ ID }) => ID === leader.identity.nodeId);
    return node?.Spec.Role === "worker" && node.ManagerStatus === undefined ? true : undefined;
  });
  const renewed = await eventually("its certificate becomes a worker's", async () => {
    const identity = await renewCertificate(
      { ...leader.identity, managers: others.map(({ address }) => address) },
      Date.now(),
      AbortSignal.timeout(10_000),
    );
    return identity.role === "worker" ? identity : undefined;
  });
  await leader.kill("SIGTERM");

  // Promotion again: a new member of the same node.
  await setRole(other, leader.identity.nodeId, "manager");
  const promoted = await eventually("its certificate becomes a manager's", async () => {
    const identity = await renewCertificate(renewed, Date.now(), AbortSignal.timeout(10_000));
    return identity.role === "manager" ? identity : undefined;
  });
  const fresh = processes.nextAddress();
  const returned = processes.start(fresh, {
    kind: "join",
    identity: { ...promoted, listenAddress: fresh, advertiseAddress: fresh },
  });
  await returned.message("ready");
  t.equal(await labelOf(returned, first.identity.nodeId), "after");
  await eventually("it is a member again", async () => {
    const node = (await nodesOf(other)).find(({ ID }) => ID === promoted.nodeId);
    return node?.ManagerStatus?.Addr === fresh ? true : undefined;
  });

  // Leaving on purpose.
  returned.send({ kind: "leave" });
  await returned.message("left");
  t.equal(await returned.exited, "0");
  await eventually("it is no member any more", async () => {
    const node = (await nodesOf(other)).find(({ ID }) => ID === promoted.nodeId);
    return node?.ManagerStatus === undefined ? true : undefined;
  });
  const logs = [first, second, third, back, returned].map(({ log }) => log).join("");
  t.notMatch(logs, /unhandled|uncaught/);
});

t.test(
  "one of two managers is lost for good: the other goes on alone, the lost one returns as a worker",
  async (t) => {
    const processes = await ManagerProcesses.create(t);
    const first = processes.bootstrap();
    await first.message("ready");
    const gone = await processes.join(first.address, (await tokensOf(first)).Manager);
    await gone.message("ready");
    await eventually("both vote", async () =>
      (await nodesOf(first)).filter(({ ManagerStatus }) => ManagerStatus !== undefined).length === 2
        ? true
        : undefined,
    );
    await setLabel(first, first.identity.nodeId, "before");
    await gone.kill("SIGKILL");
    await first.kill("SIGKILL");

    const alone = processes.start(first.address, { kind: "force-new-cluster", identity: first.identity });
    await alone.message("ready");
    t.equal(await labelOf(alone, first.identity.nodeId), "before", "what was acknowledged is there");
    await setLabel(alone, first.identity.nodeId, "alone");
    const roles = (await nodesOf(alone)).filter(({ Spec }) => Spec.Role === "manager").map(({ ID }) => ID);
    t.strictSame(roles, [first.identity.nodeId], "the only manager that there is to be");

    const late = processes.start(gone.address, { kind: "restart", identity: gone.identity });
    t.match(await late.message("failed"), {
      message: /was removed from the group of managers/,
      retry: false,
      removed: true,
    });
    const demoted = await eventually("its certificate becomes a worker's", async () => {
      const identity = await renewCertificate(
        { ...gone.identity, managers: [alone.address] },
        Date.now(),
        AbortSignal.timeout(10_000),
      );
      return identity.role === "worker" ? identity : undefined;
    });
    t.equal(demoted.nodeId, gone.identity.nodeId, "and it may be promoted again");
  },
);

type Bodies = NonNullable<ManagerMessage["body"]>;

/** A worker's session, without the worker. */
function openSession(identity: NodeIdentity, manager: string) {
  const client = new DispatcherClient(manager, channelCredentials(identity), channelOptions());
  const stream = client.session();
  const messages: Bodies[] = [];
  stream.on("data", ({ body }: ManagerMessage) => {
    if (body !== undefined) messages.push(body);
  });
  stream.on("error", () => {});
  const description = {
    hostname: "worker-1",
    platform: { architecture: "x86_64", os: "linux" },
    resources: { nanoCpus: 1e9, memoryBytes: 1e9, generic: {} },
    engineVersion: "1",
    engineLabels: {},
    plugins: [],
  };
  const json = Buffer.from(JSON.stringify(description));
  stream.write({ body: { $case: "hello", value: { description: { json }, dataPathAddress: "" } } });
  return {
    next<Case extends Bodies["$case"]>(kind: Case) {
      return eventually(`a message ${kind}`, async () => {
        const found = messages.find(({ $case }) => $case === kind);
        return found && (found as Extract<Bodies, { $case: Case }>).value;
      });
    },
    close() {
      stream.cancel();
      client.close();
    },
  };
}
