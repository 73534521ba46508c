import { createHash, timingSafeEqual } from "node:crypto";
import { ClusterError } from "../../model/errors.ts";
import { bytesToBase36, parseJoinToken, printJoinToken } from "../../model/join-token.ts";
import type { NodeRole } from "../../model/node.ts";
import type { Random } from "../../runtime/random.ts";
import { digestOfRoot } from "./root.ts";

const secretBytes = 16;
const secretLength = 25;

export type JoinTokens = Readonly<Record<NodeRole, string>>;

/** A fresh token for the cluster with this root. */
export function newJoinToken(random: Pick<Random, "bytes">, rootPem: string): string {
  const secret = bytesToBase36(random.bytes(secretBytes), secretLength);
  return printJoinToken({ rootDigest: digestOfRoot(rootPem), secret });
}

export function newJoinTokens(random: Pick<Random, "bytes">, rootPem: string): JoinTokens {
  return { manager: newJoinToken(random, rootPem), worker: newJoinToken(random, rootPem) };
}

/** Replaces one token; nodes that joined with the old one stay. */
export function rotateJoinToken(
  random: Pick<Random, "bytes">,
  tokens: JoinTokens,
  role: NodeRole,
  rootPem: string,
): JoinTokens {
  return { ...tokens, [role]: newJoinToken(random, rootPem) };
}

/**
 * The role that a token gives.
 *
 * @throws {ClusterError} `invalid-argument` with "invalid join token" when it is none of this cluster's tokens.
 */
export function roleOfToken(tokens: JoinTokens, token: string): NodeRole {
  parseJoinToken(token);
  const given = token.trim();
  // Both are always compared, and always in the same time: an answer tells nothing about how close a guess was.
  const isManager = sameText(given, tokens.manager);
  const isWorker = sameText(given, tokens.worker);
  if (isManager) return "manager";
  if (isWorker) return "worker";
  throw new ClusterError(
    "invalid-argument",
    "invalid join token: it belongs to another cluster or was rotated; a valid join token is necessary to join " +
      "this cluster, print one with 'docker swarm join-token worker' on a manager",
  );
}

function sameText(a: string, b: string): boolean {
  return timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());
}
