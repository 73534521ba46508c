import "reflect-metadata"; // Before x509, which needs it while it loads.
import { Pkcs10CertificateRequestGenerator } from "@peculiar/x509";
import type { ClusterId, NodeId } from "../../../model/ids.ts";
import type { NodeRole } from "../../../model/node.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { systemRandom } from "../../../runtime/random.ts";
import type { TlsIdentity } from "../../../runtime/tls.ts";
import { issueForKey } from "../../../manager/ca/issue.ts";
import { createKey, type Root, signingAlgorithm } from "../../../manager/ca/root.ts";

export const caDeps = { clock: systemClock, random: systemRandom };
export const clusterId = "c".repeat(25) as ClusterId;

export function nodeIdOf(letter: string): NodeId {
  return letter.repeat(25) as NodeId;
}

/** An identity as a node of the cluster has it. */
export async function identityOf(
  root: Root,
  nodeId: NodeId,
  role: NodeRole,
  options: { readonly clusterId?: ClusterId; readonly validityMs?: number } = {},
): Promise<TlsIdentity> {
  const { keys, keyPem } = await createKey();
  const certificatePem = await issueForKey(caDeps, root, keys.publicKey, {
    nodeId,
    role,
    clusterId: options.clusterId ?? clusterId,
    validityMs: options.validityMs ?? 7_200_000,
  });
  return { certificatePem, keyPem, rootPem: root.certificatePem };
}

/** A certificate request that claims the given subject. */
export async function requestFor(
  name: string,
): Promise<{ readonly csrPem: string; readonly keyPem: string }> {
  const { keys, keyPem } = await createKey();
  const request = await Pkcs10CertificateRequestGenerator.create({ name, keys, signingAlgorithm });
  return { csrPem: request.toString("pem"), keyPem };
}
