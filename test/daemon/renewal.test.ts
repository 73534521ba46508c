import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import t from "tap";
import { superviseRenewal } from "../../daemon/renewal.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import type { ClusterFacts, NodeIdentity } from "../../proto/host.ts";
import { silentLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { VirtualClock } from "../sim/clock.ts";

/** No manager is known, so every attempt to renew fails at once and is warned of. */
async function identityOf(node: string, nowMs: number): Promise<NodeIdentity> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    keys,
    signingAlgorithm: algorithm,
    notBefore: new Date(nowMs),
    notAfter: new Date(nowMs + 90 * 86_400_000),
  });
  return {
    nodeId: node as NodeId,
    clusterId: "c" as ClusterId,
    role: "worker",
    certificatePem: certificate.toString("pem"),
    keyPem: "",
    rootPem: "",
    managers: [],
    listenAddress: "",
    advertiseAddress: "",
    dataPathAddress: "",
  };
}

t.test("a rotation of this cluster is followed, however far an earlier cluster had counted", async (t) => {
  const clock = new VirtualClock();
  let attempted = (): void => undefined;
  const attempt = new Promise<void>((resolve) => (attempted = resolve));
  const log = { ...silentLog, warn: () => attempted() };
  let identity = await identityOf("first", clock.now());
  const renewal = superviseRenewal(
    { clock, random: systemRandom, log },
    { identity: () => identity, renewed: async () => undefined },
  );
  t.teardown(() => renewal.stop());
  const facts: ClusterFacts = { managers: [], desiredRole: "worker", rootPem: "", certificateGeneration: 5 };
  renewal.facts(facts);
  identity = await identityOf("second", clock.now());
  renewal.facts({ ...facts, certificateGeneration: 0 });
  renewal.facts({ ...facts, certificateGeneration: 1 });
  await attempt;
});
