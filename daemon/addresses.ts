/** What becomes of a node's addresses while it is in a cluster. Pure. */
import { splitHostPort, joinHostPort } from "../model/address.ts";
import type { NodeIdentity, SwarmInit } from "../proto/host.ts";

/** A renewal takes a while, and begins with what the node was then: what it renews is the certificate. */
export function renewed(now: NodeIdentity, issued: NodeIdentity): NodeIdentity {
  const { role, certificatePem, keyPem, rootPem } = issued;
  return { ...now, role, certificatePem, keyPem, rootPem };
}

/**
 * With another address of the data path. A worker would be a manager at its address, should it become one; a manager is one
 * already, and the others know it by the address that it came with.
 */
export function followed(identity: NodeIdentity, address: string): NodeIdentity {
  const { role, dataPathAddress, advertiseAddress, listenAddress } = identity;
  const moved = { ...identity, dataPathAddress: address };
  if (role === "manager") return moved;
  const follow = (text: string): string => {
    const { host, port } = splitHostPort(text);
    return host === dataPathAddress ? joinHostPort(address, port) : text;
  };
  return { ...moved, advertiseAddress: follow(advertiseAddress), listenAddress: follow(listenAddress) };
}

/** Messages and files have no fields without a value. */
export function sourceOf({
  dataPathSource,
}: Pick<SwarmInit, "dataPathSource">): Pick<NodeIdentity, "dataPathSource"> {
  return dataPathSource === undefined ? {} : { dataPathSource };
}
