/** `TLSInfo` of the cluster's own certificate authority. */
import "reflect-metadata";
import { X509Certificate } from "@peculiar/x509";
import type { Json } from "./json-writer.ts";

/** Certificates change once in years; every node in a list shows the same one. */
const known = new Map<string, Json>();
const knownLimit = 8;

export function tlsInfo(rootPem: string): Json | undefined {
  const before = known.get(rootPem);
  if (before !== undefined) return before;
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(rootPem);
  } catch {
    return undefined; // Shown without rather than not at all; who verifies it reports what is wrong.
  }
  const info = {
    TrustRoot: rootPem,
    CertIssuerSubject: Buffer.from(certificate.subjectName.toArrayBuffer()).toString("base64"),
    CertIssuerPublicKey: Buffer.from(certificate.publicKey.rawData).toString("base64"),
  };
  if (known.size >= knownLimit) known.clear();
  known.set(rootPem, info);
  return info;
}
