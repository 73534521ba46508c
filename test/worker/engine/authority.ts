/** Certificates of a test's own authority, as a company has one for its registry. */
import "reflect-metadata"; // Before x509, which needs it while it loads.
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** Every certificate is good for it, as for loopback; for tests in a network namespace of their own. */
export const certifiedAddress = "10.99.0.1";
const validityMs = 3_600_000;

export interface Issued {
  readonly certificatePem: string;
  readonly keyPem: string;
}

export interface Authority {
  readonly certificatePem: string;
  issue(name: string, usage: "server" | "client"): Promise<Issued>;
}

export async function createAuthority(name: string): Promise<Authority> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const root: X509Certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: `CN=${name}`,
    ...validity(),
    keys,
    signingAlgorithm: algorithm,
    extensions: [new BasicConstraintsExtension(true, undefined, true)],
  });
  let serial = 1;
  return {
    certificatePem: root.toString("pem"),
    async issue(subject, usage) {
      const own = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
      serial += 1;
      const certificate = await X509CertificateGenerator.create({
        serialNumber: serial.toString(16).padStart(2, "0"),
        subject: `CN=${subject}`,
        issuer: root.subject,
        ...validity(),
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: algorithm,
        extensions: [
          new SubjectAlternativeNameExtension([
            { type: "dns", value: "localhost" },
            { type: "ip", value: "127.0.0.1" },
            { type: "ip", value: certifiedAddress },
          ]),
          new ExtendedKeyUsageExtension([
            usage === "server" ? ExtendedKeyUsage.serverAuth : ExtendedKeyUsage.clientAuth,
          ]),
        ],
      });
      const key = await crypto.subtle.exportKey("pkcs8", own.privateKey);
      return { certificatePem: certificate.toString("pem"), keyPem: PemConverter.encode(key, "PRIVATE KEY") };
    },
  };
}

function validity(): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(Date.now() - validityMs), notAfter: new Date(Date.now() + validityMs) };
}
