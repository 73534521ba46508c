import "reflect-metadata"; // Before x509, which needs it while it loads.
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { webcrypto } from "node:crypto";
import { ClusterError } from "../../model/errors.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import { type NodeRole, roleUnits } from "../../model/node.ts";
import {
  backdateMs,
  type CaDeps,
  keyAlgorithm,
  newSerial,
  pemLine,
  type Root,
  signingAlgorithm,
} from "./root.ts";

/** A request for a P-256 key is under 1 KiB; nothing larger is parsed. */
const csrLimitBytes = 8 * 1024;
const defaultValidityMs = 90 * 24 * 3_600_000;
/** Shorter validities than this are taken for a mistake and become the default. */
const leastValidityMs = 3_600_000;

export interface NodeSubject {
  readonly nodeId: NodeId;
  readonly clusterId: ClusterId;
  readonly role: NodeRole;
  /** From the cluster's spec. */
  readonly validityMs: number;
}

/**
 * Signs a node's certificate. Of the request only the public key counts; who the node is and what it may do are the
 * cluster's to say.
 *
 * @throws {ClusterError} `invalid-argument` when the request is no PKCS#10 with a P-256 key and its own valid signature.
 */
export async function issueFromRequest(
  deps: CaDeps,
  root: Root,
  csrPem: string,
  subject: NodeSubject,
): Promise<string> {
  return issueForKey(deps, root, await publicKeyOfRequest(csrPem), subject);
}

/** @returns The certificate as PEM. */
export async function issueForKey(
  deps: CaDeps,
  root: Root,
  publicKey: webcrypto.CryptoKey,
  subject: NodeSubject,
): Promise<string> {
  const { certificate: rootCertificate, signingKey, keyIdentifier } = await issuerOf(root);
  const unit = roleUnits[subject.role];
  const names = [unit, subject.nodeId, ...(subject.role === "manager" ? ["swarm-ca"] : [])];
  const nowMs = deps.clock.now();
  const validityMs = subject.validityMs < leastValidityMs ? defaultValidityMs : subject.validityMs;
  const notAfterMs = Math.min(nowMs + validityMs, rootCertificate.notAfter.getTime());
  const certificate = await X509CertificateGenerator.create({
    serialNumber: newSerial(deps.random),
    subject: [{ CN: [subject.nodeId] }, { OU: [unit] }, { O: [subject.clusterId] }],
    issuer: rootCertificate.subjectName.toJSON(),
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(notAfterMs),
    publicKey,
    signingKey,
    signingAlgorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth, ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: "dns", value }))),
      await SubjectKeyIdentifierExtension.create(publicKey),
      keyIdentifier,
    ],
  });
  return pemLine(certificate.toString("pem"));
}

interface Issuer {
  readonly certificate: X509Certificate;
  readonly signingKey: webcrypto.CryptoKey;
  readonly keyIdentifier: AuthorityKeyIdentifierExtension;
}

/** To read a root takes longer than to sign, and thousands may join at once. A root is never changed in place. */
const issuers = new WeakMap<Root, Promise<Issuer>>();

function issuerOf(root: Root): Promise<Issuer> {
  const known = issuers.get(root);
  if (known !== undefined) return known;
  const issuer = readIssuer(root);
  issuers.set(root, issuer);
  return issuer;
}

async function readIssuer(root: Root): Promise<Issuer> {
  const certificate = new X509Certificate(root.certificatePem);
  const pkcs8 = PemConverter.decodeFirst(root.keyPem);
  return {
    certificate,
    signingKey: await webcrypto.subtle.importKey("pkcs8", pkcs8, keyAlgorithm, false, ["sign"]),
    keyIdentifier: await AuthorityKeyIdentifierExtension.create(certificate.publicKey),
  };
}

async function publicKeyOfRequest(csrPem: string): Promise<webcrypto.CryptoKey> {
  if (csrPem.length > csrLimitBytes)
    throw badRequest(`${csrPem.length} bytes, at most ${csrLimitBytes} are accepted`);
  let request: Pkcs10CertificateRequest;
  let verified: boolean;
  try {
    request = new Pkcs10CertificateRequest(csrPem);
    verified = await request.verify();
  } catch (cause) {
    throw badRequest("no PKCS#10 in PEM form", cause);
  }
  if (!verified) throw badRequest("its signature does not fit its key");
  try {
    return await request.publicKey.export(keyAlgorithm, ["verify"]);
  } catch (cause) {
    throw badRequest("its key is not ECDSA P-256", cause);
  }
}

function badRequest(seen: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "invalid-argument",
    `invalid certificate request: ${seen}; expected a PKCS#10 request with an ECDSA P-256 key`,
    { cause },
  );
}
