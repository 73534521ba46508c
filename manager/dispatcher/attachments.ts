/**
 * What a node asks for its containers that are no tasks × what is stored → what there is to change
 * (docs/decisions/0076).
 */
import { withoutPrefix } from "../../model/address.ts";
import { isDeepStrictEqual } from "node:util";

import { type Attachment, attachmentId } from "../../model/attachment.ts";
import type { ErrorCode } from "../../model/errors.ts";
import type { AttachmentId, NetworkId, NodeId } from "../../model/ids.ts";
import type { Network } from "../../model/network.ts";
import type { AttachmentRefusal, WantedAttachment } from "../../proto/gen/shoal/dispatcher.ts";
import type { Store } from "../store/store.ts";
import type { StoreView, Transaction } from "../store/transaction.ts";
import type { Session } from "./session.ts";

/** More containers of one node are refused: every list names all of them, and every host of the network hears of each. */
export const attachmentLimit = 1_000;
/** A container has few names; every manager keeps them. */
const nameLimit = 64;
const nameBytesLimit = 255;
/** Far more than an id or an address has. */
const textLimit = 64;
/** What an engine calls a container. */
const containerIdPattern = /^[0-9a-f]{64}$/;

export interface AttachmentPlan {
  readonly create: readonly Omit<Attachment, "meta">[];
  readonly update: readonly Attachment[];
  readonly remove: readonly AttachmentId[];
  readonly refusals: readonly AttachmentRefusal[];
}

/**
 * The node's list is all there is: what is stored beyond it has been given back.
 * One that the allocator refused is tried again when it is still asked for.
 */
export function planAttachments(
  view: Pick<StoreView, "networks" | "attachments">,
  nodeId: NodeId,
  wanted: readonly WantedAttachment[],
): AttachmentPlan {
  const stored = new Map(view.attachments.byNode(nodeId).map((each) => [each.id, each]));
  const create: Omit<Attachment, "meta">[] = [];
  const update: Attachment[] = [];
  const refusals: AttachmentRefusal[] = [];
  const kept = new Set<AttachmentId>();
  for (const want of wanted) {
    const { containerId, attempt, address: asked } = want;
    const askedIpv6 = want.ipv6 === "" ? {} : { askedIpv6: want.ipv6 };
    const network = networkOf(view, want.network);
    if (network === undefined) {
      refusals.push({ attempt, ...code("not-found"), message: `network ${want.network} not found` });
      continue;
    }
    const names = want.names.slice(0, nameLimit).map((name) => name.slice(0, nameBytesLimit));
    const networkId = network.id;
    const id = attachmentId({ nodeId, networkId, containerId });
    const known = stored.get(id);
    if (kept.has(id)) continue; // Asked for by name and by id.
    const refusal = known === undefined ? refusalOf(want, network, kept.size) : undefined;
    if (refusal !== undefined) {
      refusals.push(refusal);
      continue;
    }
    kept.add(id);
    if (known === undefined) {
      create.push({ id, networkId, nodeId, containerId, attempt, names, asked, ...askedIpv6 });
      continue;
    }
    const next = follow(known, { names, attempt, asked, ...askedIpv6 });
    if (next !== known) update.push(next);
  }
  return { create, update, remove: [...stored.keys()].filter((id) => !kept.has(id)), refusals };
}

/** Brings the store to a node's list, and tells the node what cannot be. */
export async function takeAttachments(
  {
    store,
    isCurrent,
  }: {
    readonly store: Pick<Store, "view" | "update">;
    /** Whether the node has no newer session, whose list is the true one. */
    readonly isCurrent: (session: Session) => boolean;
  },
  session: Session,
  wanted: readonly WantedAttachment[],
): Promise<void> {
  const { nodeId } = session;
  let plan = store.view((view) => planAttachments(view, nodeId, wanted));
  if (plan.create.length + plan.update.length + plan.remove.length > 0) {
    plan = await store.update((tx) => {
      if (!isCurrent(session) || !tx.nodes.has(nodeId)) return nothing;
      const next = planAttachments(tx, nodeId, wanted);
      carryOut(tx, next);
      return next;
    });
  }
  for (const each of plan.refusals) session.refuse(each);
}

const nothing: AttachmentPlan = { create: [], update: [], remove: [], refusals: [] };

function carryOut(tx: Transaction, { create, update, remove }: AttachmentPlan): void {
  for (const id of remove) tx.attachments.remove(id);
  for (const attachment of update) tx.attachments.update(attachment);
  for (const attachment of create) tx.attachments.create(attachment);
}

/** What the node is told when the allocator has no address for one of its containers. */
export function allocatorRefusal({ attempt, refusal: message = "" }: Attachment): AttachmentRefusal {
  return { attempt, ...code("conflict"), message };
}

/**
 * The same object when nothing is new. A new attempt keeps the address: nobody else can have it, and who asks for another
 * gets that one.
 */
function follow(
  known: Attachment,
  { names, attempt, ...wanted }: Pick<Attachment, "names" | "attempt" | "asked" | "askedIpv6">,
): Attachment {
  const fits = known.refusal === undefined && isAt(known, wanted);
  const same = known.attempt === attempt && isDeepStrictEqual(known.names, names);
  if (same && fits) return known;
  if (fits) return { ...known, names, attempt };
  const { address: _address, ipv6: _ipv6, refusal: _refusal, askedIpv6: _askedIpv6, ...rest } = known;
  return { ...rest, names, attempt, ...wanted };
}

function isAt(
  { address, ipv6 = "", ...known }: Attachment,
  { asked, askedIpv6 = "" }: Pick<Attachment, "asked" | "askedIpv6">,
): boolean {
  const fits = (wanted: string, before: string, has: string): boolean =>
    wanted === "" || (address === undefined ? before : withoutPrefix(has)) === wanted;
  return fits(asked, known.asked, address ?? "") && fits(askedIpv6, known.askedIpv6 ?? "", ipv6);
}

function networkOf({ networks }: Pick<StoreView, "networks">, term: string): Network | undefined {
  return networks.get(term as NetworkId) ?? networks.byName(term);
}

function refusalOf(
  { containerId, attempt, address, ipv6 }: WantedAttachment,
  { spec }: Network,
  count: number,
): AttachmentRefusal | undefined {
  if (!spec.attachable)
    return {
      attempt,
      ...code("permission-denied"),
      message: `network ${spec.name} not manually attachable`,
    };
  if (
    !containerIdPattern.test(containerId) ||
    attempt.length > textLimit ||
    address.length > textLimit ||
    ipv6.length > textLimit
  )
    return {
      attempt,
      ...code("invalid-argument"),
      message: `the request cannot be read: container "${containerId.slice(0, textLimit)}"`,
    };
  if (count >= attachmentLimit)
    return {
      attempt,
      ...code("resource-exhausted"),
      message: `the containers of a node have at most ${attachmentLimit} places on networks of the cluster`,
    };
  return undefined;
}

function code(of: ErrorCode): { readonly code: ErrorCode } {
  return { code: of };
}
