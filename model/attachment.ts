import type { AttachmentId, NetworkId, NodeId } from "./ids.ts";
import type { Meta } from "./meta.ts";

/** The place of a container that is no task, such as of `docker run`, on an attachable network of the cluster. */
export interface Attachment {
  /** See `attachmentId`: a container is on a network once. */
  readonly id: AttachmentId;
  readonly meta: Meta;
  readonly networkId: NetworkId;
  /** Where the container is, whose agent asks for the attachment and gives it back. */
  readonly nodeId: NodeId;
  readonly containerId: string;
  /** Which of the container's attempts this is; the node's choice. */
  readonly attempt: string;
  /** What others on the network know it by, its own name first. */
  readonly names: readonly string[];
  /** The address asked for, no prefix length; empty for any. */
  readonly asked: string;
  /** As `asked`, of IPv6; absent for any. */
  readonly askedIpv6?: string;
  /** CIDR form. Owner: the allocator; absent until given. */
  readonly address?: string;
  /** As `address`, of IPv6; absent on networks without it. */
  readonly ipv6?: string;
  /** Why it is given none. Owner: the allocator; the node is told, and asks no longer. */
  readonly refusal?: string;
}

export function attachmentId(place: Pick<Attachment, "nodeId" | "networkId" | "containerId">): AttachmentId {
  return `${place.nodeId}.${place.networkId}.${place.containerId}` as AttachmentId;
}
