import t from "tap";
import { followed, renewed } from "../../daemon/addresses.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import type { NodeIdentity } from "../../proto/host.ts";

const identity: NodeIdentity = {
  nodeId: "n1" as NodeId,
  clusterId: "c1" as ClusterId,
  role: "worker",
  certificatePem: "old",
  keyPem: "old",
  rootPem: "old",
  managers: ["10.0.0.1:2377"],
  listenAddress: "0.0.0.0:2377",
  advertiseAddress: "10.0.0.5:4000",
  dataPathAddress: "10.0.0.5",
  dataPathSource: { kind: "chosen" },
};

t.test("a worker is told to others at its new address, a manager at the one they know", (t) => {
  const address = "10.0.0.9";
  t.strictSame(followed(identity, address), {
    ...identity,
    dataPathAddress: address,
    advertiseAddress: "10.0.0.9:4000",
  });
  const apart = { ...identity, advertiseAddress: "192.0.2.5:2377" };
  t.equal(followed(apart, address).advertiseAddress, "192.0.2.5:2377");
  const manager = { ...identity, role: "manager" } as const;
  t.strictSame(followed(manager, address), { ...manager, dataPathAddress: address });
  t.end();
});

t.test("a renewal that began before the address changed does not undo that", (t) => {
  const issued = { ...identity, certificatePem: "new", keyPem: "new", role: "manager" } as const;
  const now = { ...followed(identity, "10.0.0.9"), managers: ["10.0.0.2:2377"] };
  t.strictSame(renewed(now, issued), { ...now, role: "manager", certificatePem: "new", keyPem: "new" });
  t.end();
});
