import "reflect-metadata";
import { createHash, webcrypto, X509Certificate } from "node:crypto";
import { connect } from "node:net";
import { type ChannelCredentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import * as x509 from "@peculiar/x509";
import { splitHostPort } from "../model/address.ts";
import { ClusterError, type ErrorCode, errorText } from "../model/errors.ts";
import type { ClusterId, NodeId } from "../model/ids.ts";
import { parseJoinToken, rootDigestOf } from "../model/join-token.ts";
import type { Availability, NodeRole } from "../model/node.ts";
import type { NodeIdentity } from "../proto/host.ts";
import { fromServiceError } from "../proto/status.ts";
import { channelOptions } from "../runtime/grpc.ts";
import {
  anonymousChannelCredentials,
  channelCredentials,
  unverifiedChannelCredentials,
} from "../runtime/tls.ts";
import { CertificateAuthorityClient, type IssueResponse } from "../proto/gen/shoal/ca.ts";

const callTimeoutMs = 5_000;
const keyAlgorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export interface JoinRequest {
  readonly remotes: readonly string[];
  readonly token: string;
  readonly availability: Availability;
  readonly hostname: string;
  readonly nowMs: number;
}

/** What a cluster's certificate authority gave this node. */
export type IssuedCertificate = Pick<
  NodeIdentity,
  "nodeId" | "clusterId" | "role" | "certificatePem" | "keyPem" | "rootPem" | "managers"
>;

/*
 * gRPC and X.509 are most of what shoald would load, and it needs them when it joins and every few weeks. Importing this
 * file only then brings a killed shoald, and the worker it starts, back half a second sooner on a busy machine.
 */

/**
 * Gets a first certificate with a join token. The root certificate is taken from whoever answers, and
 * believed only when its digest is the one in the token.
 * @returns Also which of `remotes` answered.
 * @throws {ClusterError} with the last manager's answer when none of `remotes` gives a certificate.
 */
export async function requestCertificate(
  request: JoinRequest,
  signal: AbortSignal,
): Promise<{ readonly issued: IssuedCertificate; readonly issuer: string }> {
  const { rootDigest } = parseJoinToken(request.token);
  return firstOf(request.remotes, signal, async (remote) => {
    const rootPem = await fetchRoot(remote);
    const digest = rootDigestOf(createHash("sha256").update(rootPem).digest());
    if (digest !== rootDigest) {
      throw new ClusterError(
        "unauthenticated",
        `invalid join token: ${remote} belongs to another cluster than the token (its root certificate differs)`,
      );
    }
    const { csrPem, keyPem } = await newKey();
    const { token, availability, hostname, nowMs } = request;
    using client = openClient(remote, anonymousChannelCredentials(rootPem));
    const response = await unary<IssueResponse>((done) =>
      client.ca.issue({ csrPem, token, availability, hostname, nowMs }, new Metadata(), deadline(), done),
    );
    return { issued: issued(response, keyPem, [remote]), issuer: remote };
  });
}

/**
 * Exchanges a valid certificate for a fresh one; the role is the one that the cluster has decided on.
 *
 * @param nowMs - By this node's clock, unix milliseconds: a certificate that is not valid by it would lock the node out.
 */
export async function renewCertificate(
  identity: NodeIdentity,
  nowMs: number,
  signal: AbortSignal,
): Promise<NodeIdentity> {
  const { csrPem, keyPem } = await newKey();
  const response = await firstOf(identity.managers, signal, async (remote) => {
    using client = openClient(remote, channelCredentials(identity));
    return await unary<IssueResponse>((done) =>
      client.ca.renew({ csrPem, nowMs }, new Metadata(), deadline(), done),
    );
  });
  const { validFrom, validTo } = new X509Certificate(response.certificatePem);
  if (nowMs < Date.parse(validFrom) || nowMs > Date.parse(validTo)) {
    throw new ClusterError(
      "failed-precondition",
      `the new certificate is valid from ${validFrom} to ${validTo} and now is ${new Date(nowMs).toISOString()}: set the clocks of this ` +
        "host and of the managers right, for instance with NTP; the present certificate stays in use",
    );
  }
  return { ...identity, ...issued(response, keyPem, identity.managers) };
}

/** The address that this host reaches `remote` ("host:port") from. */
export function ownAddressTowards(remote: string): Promise<string> {
  const { host, port } = splitHostPort(remote);
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, timeout: callTimeoutMs });
    socket.once("connect", () => {
      resolve(socket.localAddress ?? "");
      socket.destroy();
    });
    socket.once("timeout", () => socket.destroy(new Error(`${remote} does not answer`)));
    socket.once("error", reject);
  });
}

async function fetchRoot(remote: string): Promise<string> {
  using client = openClient(remote, unverifiedChannelCredentials());
  const { certificatePem } = await unary<{ certificatePem: string }>((done) =>
    client.ca.getRoot({}, new Metadata(), deadline(), done),
  );
  return certificatePem;
}

async function newKey(): Promise<{ csrPem: string; keyPem: string }> {
  const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ["sign", "verify"]);
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: keyAlgorithm });
  const pkcs8 = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
  return { csrPem: csr.toString("pem"), keyPem: x509.PemConverter.encode(pkcs8, "PRIVATE KEY") + "\n" };
}

function issued(response: IssueResponse, keyPem: string, managers: readonly string[]): IssuedCertificate {
  return {
    nodeId: response.nodeId as NodeId,
    clusterId: response.clusterId as ClusterId,
    role: response.role as NodeRole,
    certificatePem: response.certificatePem,
    keyPem,
    rootPem: response.rootPem,
    managers: response.managers.length > 0 ? response.managers : managers,
  };
}

function openClient(
  remote: string,
  trust: ChannelCredentials,
): Disposable & { ca: CertificateAuthorityClient } {
  const ca = new CertificateAuthorityClient(remote, trust, channelOptions());
  return { ca, [Symbol.dispose]: () => ca.close() };
}

function deadline(): { deadline: number } {
  return { deadline: Date.now() + callTimeoutMs };
}

function unary<Response>(
  call: (done: (error: ServiceError | null, response: Response) => void) => unknown,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    call((error, response) => (error === null ? resolve(response) : reject(fromServiceError(error))));
  });
}

/** Failures that say nothing of the next manager: it may be there, be quicker, or know the leader. */
const ofOneManager: ReadonlySet<ErrorCode> = new Set([
  "unavailable",
  "deadline-exceeded",
  "no-leader",
  "permission-denied", // By its own clock, the certificate may not be valid yet, or any more.
]);

/** Tries one manager after another; the last failure is the one worth telling. */
async function firstOf<Result>(
  remotes: readonly string[],
  signal: AbortSignal,
  attempt: (remote: string) => Promise<Result>,
): Promise<Result> {
  let last = new ClusterError("unavailable", "no manager is known to ask for a certificate");
  for (const remote of remotes) {
    signal.throwIfAborted();
    try {
      return await attempt(remote);
    } catch (cause) {
      const code = cause instanceof ClusterError ? cause.code : "unavailable";
      last = new ClusterError(code, failureText(remote, code, cause), { cause });
      if (!ofOneManager.has(code)) break; // Another manager would say the same.
    }
  }
  throw last;
}

/** How OpenSSL words that the other side speaks something else, or wants a certificate that only managers have. */
const tlsFailure = /SSL routines|\bEPROTO\b|socket disconnected before secure TLS connection/;

function failureText(remote: string, code: ErrorCode, cause: unknown): string {
  const text = errorText(cause);
  if (tlsFailure.test(text)) {
    return `cannot join by ${remote}: what listens there is no manager's cluster port (its answer is not the TLS of one); the usual port is 2377`;
  }
  if (code === "deadline-exceeded") {
    return `no manager answered at ${remote} within ${callTimeoutMs / 1_000} s: is shoald running there, does the firewall let 2377/tcp pass, or is that host overloaded?`;
  }
  if (code !== "unavailable") return `manager ${remote}: ${text}`;
  // gRPC wraps the system's own words in many of its own.
  const seen = /\b(E[A-Z]{4,}|[Dd]eadline exceeded)\b/.exec(text)?.[1] ?? text;
  return `cannot reach a manager at ${remote} (${seen}): is shoald running there, and does the firewall let 2377/tcp pass?`;
}
