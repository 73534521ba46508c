import type { ServiceError } from "@grpc/grpc-js";
import t from "tap";
import { createRoot } from "../../../manager/ca/root.ts";
import type { PeerIdentity } from "../../../manager/raft/group.ts";
import { RaftPeerClient, type RaftHello } from "../../../proto/gen/shoal/raft.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { channelOptions } from "../../../runtime/grpc.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { channelCredentials } from "../../../runtime/tls.ts";
import { TestCluster, clusterId, type TestNode } from "./cluster.ts";

/** Opens a stream as somebody else would; resolves with how it was ended. */
function knock(node: TestNode, identity: PeerIdentity, hello: Partial<RaftHello>): Promise<string> {
  const client = new RaftPeerClient(node.address, channelCredentials(identity), channelOptions());
  return new Promise((resolve) => {
    const stream = client.messages();
    stream.on("metadata", () => resolve("let in"));
    stream.on("data", () => {});
    stream.on("error", (error: ServiceError) => resolve(error.details));
    stream.write({
      hello: { clusterId, from: "n9.x", to: node.group.memberId, address: "", ...hello },
      messages: [],
    });
  }).finally(() => client.close()) as Promise<string>; // Only texts are resolved with.
}

t.test("only managers of the cluster are let in, and only under their own name", async (t) => {
  const cluster = await TestCluster.create();
  t.teardown(() => cluster.close());
  const node = await cluster.start("n1", "bootstrap");
  await cluster.until("it leads", () => node.leader.isSelf);
  const manager = await cluster.identity("n9");
  t.equal(await knock(node, manager, {}), "let in", "a manager's certificate, its own name");
  t.match(await knock(node, await cluster.identity("n9", "worker"), {}), /swarm-manager .*required/);
  t.match(await knock(node, manager, { from: "n8.x" }), /n9 spoke as member n8.x/);
  t.match(await knock(node, manager, { clusterId: "other" }), /does not name this cluster/);
  t.match(await knock(node, manager, { to: "n1.old" }), /n1.old is not here/);
  const deps = { clock: systemClock, random: systemRandom };
  const foreign = await cluster.identity("n9", "manager", await createRoot(deps));
  t.match(await knock(node, foreign, {}), /no valid certificate/);
});
