import { X509Certificate } from "node:crypto";
import t from "tap";
import { foundCluster } from "../../../manager/ca/found.ts";
import { getRoot, issue, renew, freeIndex } from "../../../manager/ca/service.ts";
import { rotateJoinToken } from "../../../manager/ca/token.ts";
import { defaultClusterSpec } from "../../../model/defaults.ts";
import type { NodeId } from "../../../model/ids.ts";
import { isPredefined } from "../../../model/network.ts";
import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { subjectOf } from "../../../runtime/tls.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { requestFor } from "./certificates.ts";

const signal = new AbortController().signal;
const hourMs = 3_600_000;

t.test("a founded cluster has its objects, and its first node can prove itself", async (t) => {
  const { store, identity } = await founded();
  store.view((view) => {
    t.equal(view.cluster?.id, identity.clusterId);
    t.match(view.cluster?.spec, defaultClusterSpec);
    t.match(view.nodes.get(identity.nodeId), {
      index: 1,
      role: "manager",
      spec: { role: "manager", availability: "drain" },
      member: { address: "10.0.0.1:2377", raftAddress: "10.0.0.1:2378" },
    });
    t.strictSame(
      view.networks
        .list()
        .map(({ spec }) => spec.name)
        .toSorted(),
      ["bridge", "host", "ingress"],
    );
    t.equal(view.networks.ingress()?.spec.name, "ingress");
    t.ok(view.networks.list().every((network) => network.spec.ingress !== isPredefined(network)));
  });
  const certificate = new X509Certificate(identity.certificatePem);
  t.ok(certificate.verify(new X509Certificate(identity.rootPem).publicKey));
});

t.test("a joiner becomes a node with the role of its token and the smallest free number", async (t) => {
  const { deps, store, tokens } = await founded();
  t.equal(
    getRoot(deps).certificatePem,
    store.view((view) => view.cluster?.ca.certificatePem),
  );
  const first = await issue(
    deps,
    await joiner({ token: tokens.worker, availability: "pause" }),
    "10.0.0.2",
    signal,
  );
  const second = await issue(deps, await joiner({ token: tokens.manager }), "10.0.0.3", signal);
  t.match(first, { role: "worker", managers: ["10.0.0.1:2377"] });
  t.equal(second.role, "manager");
  const subject = subjectOf(new X509Certificate(first.certificatePem));
  t.equal(subject.get("CN"), first.nodeId);
  t.equal(subject.get("OU"), "swarm-worker", "whatever the request claimed");
  t.match(
    store.view((view) => view.nodes.get(first.nodeId as NodeId)),
    {
      index: 2,
      role: "worker",
      spec: { role: "worker", availability: "pause" },
      status: { state: "unknown", address: "10.0.0.2" },
      certificate: first.certificatePem,
    },
  );
  await store.update((tx) => tx.nodes.remove(first.nodeId as NodeId));
  const third = await issue(deps, await joiner({ token: tokens.worker }), "10.0.0.4", signal);
  t.equal(store.view((view) => view.nodes.get(third.nodeId as NodeId))?.index, 2, "a number is used again");
});

t.test("who may not join gets nothing, and leaves no node behind", async (t) => {
  const { deps, clock, store, tokens } = await founded();
  const cases = [
    {
      name: "no token",
      change: { token: "" },
      want: { code: "invalid-argument", message: /invalid join token/ },
    },
    {
      name: "another secret",
      change: { token: rotateJoinToken(systemRandom, tokens, "worker", getRoot(deps).certificatePem).worker },
      want: { code: "invalid-argument", message: /invalid join token/ },
    },
    {
      name: "no request",
      change: { csrPem: "" },
      want: { code: "invalid-argument", message: /certificate request/ },
    },
    {
      name: "availability",
      change: { availability: "busy" },
      want: { code: "invalid-argument", message: /active, pause, drain/ },
    },
    { name: "endless name", change: { hostname: "x".repeat(300) }, want: { code: "invalid-argument" } },
    {
      name: "clock behind",
      change: { nowMs: clock.now() - 2 * hourMs },
      want: { code: "failed-precondition", message: /120 minutes behind the manager's/ },
    },
    {
      name: "clock ahead",
      change: { nowMs: clock.now() + 1.5 * hourMs },
      want: { code: "failed-precondition", message: /90 minutes ahead of the manager's/ },
    },
  ];
  for (const { name, change, want } of cases) {
    await t.rejects(
      issue(deps, await joiner({ token: tokens.worker, ...change }), "10.0.0.2", signal),
      want,
      name,
    );
  }
  t.equal(
    store.view((view) => view.nodes.count),
    1,
  );
  await issue(
    deps,
    await joiner({ token: tokens.worker, nowMs: clock.now() - 0.9 * hourMs }),
    "10.0.0.2",
    signal,
  );
  t.equal(
    store.view((view) => view.nodes.count),
    2,
    "a small difference is forgiven",
  );
});

t.test("a renewal gives the role that the cluster has decided on", async (t) => {
  const { deps, store, tokens } = await founded();
  const joined = await issue(deps, await joiner({ token: tokens.worker }), "10.0.0.2", signal);
  const nodeId = joined.nodeId as NodeId;
  const { csrPem } = await requestFor("OU=swarm-manager");
  t.equal((await renew(deps, { csrPem, nowMs: 0 }, nodeId, signal)).role, "worker");
  await store.update((tx) => {
    const node = tx.nodes.get(nodeId);
    if (node !== undefined) tx.nodes.update({ ...node, role: "manager" });
  });
  const promoted = await renew(deps, { csrPem, nowMs: 0 }, nodeId, signal);
  t.equal(promoted.role, "manager");
  t.equal(subjectOf(new X509Certificate(promoted.certificatePem)).get("OU"), "swarm-manager");
  t.equal(
    store.view((view) => view.nodes.get(nodeId)?.certificate),
    promoted.certificatePem,
  );
  await store.update((tx) => tx.nodes.remove(nodeId));
  await t.rejects(renew(deps, { csrPem, nowMs: 0 }, nodeId, signal), { code: "not-found" });
});

t.test("a renewal by clocks that differ is refused, since the node could not use what it gets", async (t) => {
  const { deps, clock, tokens } = await founded();
  const joined = await issue(deps, await joiner({ token: tokens.worker }), "10.0.0.2", signal);
  const nodeId = joined.nodeId as NodeId;
  const { csrPem } = await requestFor("OU=swarm-worker");
  await t.rejects(renew(deps, { csrPem, nowMs: clock.now() - 3 * hourMs }, nodeId, signal), {
    code: "failed-precondition",
    message: /the clock of this node is 180 minutes behind the manager's.*it is tried again by itself/,
  });
  t.equal((await renew(deps, { csrPem, nowMs: clock.now() - hourMs / 2 }, nodeId, signal)).role, "worker");
});

t.test("a number that no node has, of as many as there are nodes and one more", (t) => {
  t.equal(freeIndex([]), 1);
  t.equal(freeIndex([{ index: 1 }, { index: 2 }]), 3);
  t.equal(freeIndex([{ index: 1 }, { index: 2 }, { index: 4 }]), 3);
  t.equal(freeIndex([{ index: 1 }, { index: 5 }]), 3);
  t.equal(freeIndex([{ index: 2 }]), 1);
  t.end();
});

async function founded() {
  const clock = new VirtualClock();
  const { store } = loneStore(clock);
  const deps = { store, clock, random: systemRandom, log: silentLog };
  const founding = await foundCluster(deps, {
    request: { addressPools: [], subnetBits: 0, dataPathPort: 0, availability: "drain" },
    spec: defaultClusterSpec,
    listenAddress: "0.0.0.0:2377",
    advertiseAddress: "10.0.0.1:2377",
    dataPathAddress: "10.0.0.1",
    raftAddress: "10.0.0.1:2378",
  });
  await store.update((tx) => founding.write(tx));
  const tokens = store.view((view) => view.cluster?.joinTokens);
  if (tokens === undefined) throw new Error("no cluster");
  return { deps, clock, store, identity: founding.identity, tokens };
}

async function joiner(change: Record<string, unknown>) {
  const { csrPem } = await requestFor("OU=swarm-manager");
  return { csrPem, token: "", availability: "active", hostname: "h", nowMs: 0, ...change };
}
