import "reflect-metadata";
import {
  BasicConstraintsExtension,
  cryptoProvider,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { createHash, webcrypto } from "node:crypto";
import { rootDigestOf } from "../../model/join-token.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";

cryptoProvider.set(webcrypto);

/** Keys of the root and of every node. */
export const keyAlgorithm = { name: "ECDSA", namedCurve: "P-256" } as const;
export const signingAlgorithm = { name: "ECDSA", hash: "SHA-256" } as const;

const rootValidityMs = 20 * 365 * 24 * 3_600_000;
/** Certificates start in the past, so that a node whose clock runs late takes them. */
export const backdateMs = 3_600_000;

export interface CaDeps {
  readonly clock: Pick<Clock, "now">;
  readonly random: Pick<Random, "bytes">;
}

/** The cluster's own authority, as kept in the `Cluster` object. */
export interface Root {
  readonly certificatePem: string;
  /** PKCS#8; never leaves the managers. */
  readonly keyPem: string;
}

/** A key pair with the private key as PKCS#8 PEM. */
export interface FreshKey {
  readonly keys: webcrypto.CryptoKeyPair;
  readonly keyPem: string;
}

/** Makes the authority of a new cluster: ECDSA P-256, valid for 20 years. */
export async function createRoot(deps: CaDeps): Promise<Root> {
  const { keys, keyPem } = await createKey();
  const nowMs = deps.clock.now();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(deps.random),
    name: [{ CN: ["swarm-ca"] }],
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + rootValidityMs),
    keys,
    signingAlgorithm,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificatePem: pemLine(certificate.toString("pem")), keyPem };
}

export async function createKey(): Promise<FreshKey> {
  const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ["sign", "verify"]);
  const pkcs8 = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
  return { keys, keyPem: pemLine(PemConverter.encode(pkcs8, "PRIVATE KEY")) };
}

/** Digest part of the join tokens: SHA-256 over the PEM exactly as `GetRoot` gives it. */
export function digestOfRoot(certificatePem: string): string {
  return rootDigestOf(createHash("sha256").update(certificatePem).digest());
}

/** A positive serial number of 127 bits, as hexadecimal text. */
export function newSerial(random: Pick<Random, "bytes">): string {
  const bytes = Buffer.from(random.bytes(16));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40; // Never negative, never a leading zero.
  return bytes.toString("hex");
}

export function pemLine(pem: string): string {
  return pem.trimEnd() + "\n";
}
