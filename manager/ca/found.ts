import { hostOf } from "../../model/address.ts";
import type { ClusterSpec } from "../../model/cluster.ts";
import { defaultAddressPools, defaultDataPathPort, defaultSubnetBits } from "../../model/defaults.ts";
import type { ClusterId, NetworkId, NodeId } from "../../model/ids.ts";
import { type NetworkSpec, predefinedLabel } from "../../model/network.ts";
import type { NodeIdentity, SwarmInit } from "../../proto/host.ts";
import { newId } from "../../runtime/random.ts";
import type { Transaction } from "../store/transaction.ts";
import { issueForKey } from "./issue.ts";
import { type CaDeps, createKey, createRoot } from "./root.ts";
import { newJoinTokens } from "./token.ts";
import type { Random } from "../../runtime/random.ts";

/** Networks of a host that services may name; each host has its own, so there is nothing to allocate. */
const predefinedNetworks = ["host", "bridge"] as const;

const plainNetwork: Omit<NetworkSpec, "name" | "driver"> = {
  labels: {},
  driverOptions: {},
  ipv6: false,
  internal: false,
  attachable: false,
  ingress: false,
  ipam: [],
};

export interface FoundingInput {
  readonly request: Pick<SwarmInit, "addressPools" | "subnetBits" | "dataPathPort" | "availability">;
  readonly spec: ClusterSpec;
  readonly listenAddress: string;
  readonly advertiseAddress: string;
  readonly dataPathAddress: string;
  readonly raftAddress: string;
}

/** A new cluster: who its first node is, and the objects it begins with. */
export interface Founding {
  readonly identity: NodeIdentity;
  /** For the first transaction of the new cluster. */
  write(tx: Transaction): void;
}

/** Makes authority, tokens and the first manager's certificate. Nothing is stored until `write`. */
export async function foundCluster(
  deps: CaDeps & { readonly random: Random },
  input: FoundingInput,
): Promise<Founding> {
  const { random } = deps;
  const { request, spec, listenAddress, advertiseAddress, dataPathAddress, raftAddress } = input;
  const root = await createRoot(deps);
  const clusterId = newId<ClusterId>(random);
  const nodeId = newId<NodeId>(random);
  const { keys, keyPem } = await createKey();
  const certificatePem = await issueForKey(deps, root, keys.publicKey, {
    nodeId,
    clusterId,
    role: "manager",
    validityMs: spec.certificateValidityMs,
  });
  const joinTokens = newJoinTokens(random, root.certificatePem);
  const identity: NodeIdentity = {
    nodeId,
    clusterId,
    role: "manager",
    certificatePem,
    keyPem,
    rootPem: root.certificatePem,
    managers: [advertiseAddress],
    listenAddress,
    advertiseAddress,
    dataPathAddress,
  };
  return {
    identity,
    write(tx) {
      tx.clusters.create({
        id: clusterId,
        spec,
        ca: root,
        joinTokens,
        removedNodes: {},
        addressPools: request.addressPools.length > 0 ? request.addressPools : defaultAddressPools,
        subnetBits: request.subnetBits || defaultSubnetBits,
        dataPathPort: request.dataPathPort || defaultDataPathPort,
      });
      tx.nodes.create({
        id: nodeId,
        spec: { labels: {}, role: "manager", availability: request.availability },
        status: { state: "unknown", message: "", address: hostOf(advertiseAddress) },
        role: "manager",
        member: { address: advertiseAddress, raftAddress },
        index: 1,
        certificate: certificatePem,
        dataPathAddress,
      });
      for (const name of predefinedNetworks) {
        const labels = { [predefinedLabel]: "true" };
        tx.networks.create({
          id: newId<NetworkId>(random),
          spec: { ...plainNetwork, name, driver: name, labels },
        });
      }
      const ingress = { ...plainNetwork, name: "ingress", driver: "overlay", ipv6: true, ingress: true };
      tx.networks.create({ id: newId<NetworkId>(random), spec: ingress });
    },
  };
}
