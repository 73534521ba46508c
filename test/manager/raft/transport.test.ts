import { once } from "node:events";
import { connect } from "node:tls";
import t from "tap";
import { createRoot } from "../../../manager/ca/root.ts";
import { FrameReader, encodeFrame, peerProtocol } from "../../../manager/raft/frame.ts";
import type { PeerIdentity } from "../../../manager/raft/group.ts";
import { RaftHello, RaftNotice } from "../../../proto/gen/shoal/raft.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { managerServerName } from "../../../runtime/grpc.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { clientContextOptions } from "../../../runtime/tls.ts";
import { TestCluster, clusterId, type TestNode } from "./cluster.ts";

/** Opens a stream as somebody else would; resolves with how it was answered. */
function knock(node: TestNode, identity: PeerIdentity, hello: Partial<RaftHello>): Promise<string> {
  const [host = "", port] = node.address.split(":");
  const socket = connect({
    host,
    port: Number(port),
    servername: managerServerName,
    ALPNProtocols: [peerProtocol],
    ...clientContextOptions(identity),
    rejectUnauthorized: false,
  });
  const names = { clusterId, from: "n9.x", to: node.group.memberId, address: "", ...hello };
  const reader = new FrameReader(64 * 1024);
  return new Promise<string>((resolve, reject) => {
    socket.once("secureConnect", () => socket.write(encodeFrame("hello", RaftHello.encode(names).finish())));
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("closed without an answer")));
    socket.on("data", (chunk: Buffer) => {
      for (const { payload } of reader.push(chunk)) resolve(RaftNotice.decode(payload).refusal || "let in");
    });
  }).finally(() => socket.destroy());
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

t.test("calls are taken of managers only: what others say is not kept until it is whole", async (t) => {
  const cluster = await TestCluster.create();
  t.teardown(() => cluster.close());
  const node = await cluster.start("n1", "bootstrap");
  const [host = "", port] = node.address.split(":");
  const answer = async (identity: PeerIdentity | undefined): Promise<string> => {
    const shown = identity && { cert: identity.certificatePem, key: identity.keyPem };
    const trust = { rejectUnauthorized: false, ALPNProtocols: ["h2"] };
    const socket = connect({ host, port: Number(port), ...trust, ...shown });
    t.teardown(() => socket.destroy());
    socket.on("error", () => {});
    const greeted = once(socket, "data").then(() => "greeted");
    const closed = once(socket, "close").then(() => "turned away");
    return await Promise.race([greeted, closed]);
  };
  t.equal(await answer(await cluster.identity("n9")), "greeted");
  t.equal(await answer(undefined), "turned away");
  t.equal(await answer(await cluster.identity("n9", "worker")), "turned away");
});
