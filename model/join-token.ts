import { ClusterError } from "./errors.ts";

const prefix = "SWMTKN";
const tokenVersion = "1";
const digestLength = 50;
const secretLength = 25;
const base36 = /^[0-9a-z]+$/;

/** A parsed join token: `SWMTKN-1-<digest of the root certificate>-<secret>`. */
export interface JoinToken {
  /** SHA-256 of the root certificate's PEM, base36, left-padded to 50 characters. */
  readonly rootDigest: string;
  /** 128 bits, base36, 25 characters; says worker or manager only by which one it equals. */
  readonly secret: string;
}

/** @throws {ClusterError} `invalid-argument` when the text is no join token. */
export function parseJoinToken(text: string): JoinToken {
  const [head, version, rootDigest, secret, ...rest] = text.trim().split("-");
  const wellFormed =
    head === prefix &&
    version === tokenVersion &&
    rest.length === 0 &&
    rootDigest?.length === digestLength &&
    secret?.length === secretLength &&
    base36.test(rootDigest) &&
    base36.test(secret);
  if (!wellFormed) {
    throw new ClusterError(
      "invalid-argument",
      "invalid join token: expected SWMTKN-1-<50 characters>-<25 characters>; print it with 'docker swarm join-token worker' on a manager",
    );
  }
  return { rootDigest, secret };
}

export function printJoinToken(token: JoinToken): string {
  return `${prefix}-${tokenVersion}-${token.rootDigest}-${token.secret}`;
}

/** Big-endian bytes as base36, left-padded with zeros to `length` characters. */
export function bytesToBase36(bytes: Uint8Array, length: number): string {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return value.toString(36).padStart(length, "0").slice(-length);
}

/** The digest part of a token for a root certificate whose SHA-256 is given. */
export function rootDigestOf(sha256: Uint8Array): string {
  return bytesToBase36(sha256, digestLength);
}
