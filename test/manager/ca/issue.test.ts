import "reflect-metadata"; // Before x509, which needs it while it loads.
import { X509Certificate } from "node:crypto";
import { webcrypto } from "node:crypto";
import { Pkcs10CertificateRequestGenerator } from "@peculiar/x509";
import t from "tap";
import { issueFromRequest } from "../../../manager/ca/issue.ts";
import { createRoot } from "../../../manager/ca/root.ts";
import { subjectOf } from "../../../runtime/tls.ts";
import { caDeps, clusterId, identityOf, nodeIdOf, requestFor } from "./certificates.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

t.test("the root is self-signed, an authority, and valid for 20 years", async (t) => {
  const root = new X509Certificate((await createRoot(caDeps)).certificatePem);
  t.equal(root.subject, "CN=swarm-ca");
  t.ok(root.ca);
  t.ok(root.verify(root.publicKey));
  const validMs = Date.parse(root.validTo) - Date.parse(root.validFrom);
  t.ok(validMs > 20 * 365 * dayMs && validMs < 20 * 366 * dayMs);
});

t.test("a node certificate carries id, role and cluster, and is back-dated by an hour", async (t) => {
  const root = await createRoot(caDeps);
  const cases = [
    { role: "manager", names: `DNS:swarm-manager, DNS:${nodeIdOf("n")}, DNS:swarm-ca` },
    { role: "worker", names: `DNS:swarm-worker, DNS:${nodeIdOf("n")}` },
  ] as const;
  for (const { role, names } of cases) {
    const identity = await identityOf(root, nodeIdOf("n"), role, { validityMs: 90 * dayMs });
    const certificate = new X509Certificate(identity.certificatePem);
    t.strictSame(
      subjectOf(certificate),
      new Map([
        ["CN", nodeIdOf("n")],
        ["OU", `swarm-${role}`],
        ["O", clusterId],
      ]),
    );
    t.equal(certificate.subjectAltName, names);
    t.ok(certificate.verify(new X509Certificate(root.certificatePem).publicKey));
    t.notOk(certificate.ca);
    t.ok(Math.abs(Date.parse(certificate.validFrom) - (Date.now() - hourMs)) < 5_000);
    t.ok(Math.abs(Date.parse(certificate.validTo) - (Date.now() + 90 * dayMs)) < 5_000);
  }
});

t.test("a validity under an hour becomes 90 days, and none outlives the root", async (t) => {
  const root = await createRoot(caDeps);
  const short = new X509Certificate(
    (await identityOf(root, nodeIdOf("n"), "worker", { validityMs: 1 })).certificatePem,
  );
  t.ok(Math.abs(Date.parse(short.validTo) - (Date.now() + 90 * dayMs)) < 5_000);
  const long = await identityOf(root, nodeIdOf("n"), "worker", { validityMs: 9_000 * dayMs });
  t.equal(new X509Certificate(long.certificatePem).validTo, new X509Certificate(root.certificatePem).validTo);
});

t.test("what a request claims to be is ignored; only its key counts", async (t) => {
  const root = await createRoot(caDeps);
  const { csrPem } = await requestFor("CN=someone, OU=swarm-manager, O=elsewhere");
  const subject = { nodeId: nodeIdOf("n"), clusterId, role: "worker", validityMs: dayMs } as const;
  const certificate = new X509Certificate(await issueFromRequest(caDeps, root, csrPem, subject));
  t.equal(subjectOf(certificate).get("CN"), nodeIdOf("n"));
  t.equal(subjectOf(certificate).get("OU"), "swarm-worker");
});

t.test("a request that is none is refused", async (t) => {
  const root = await createRoot(caDeps);
  const subject = { nodeId: nodeIdOf("n"), clusterId, role: "worker", validityMs: dayMs } as const;
  const { csrPem } = await requestFor("CN=x");
  const other = await webcrypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-384" }, true, [
    "sign",
    "verify",
  ]);
  const otherCurve = await Pkcs10CertificateRequestGenerator.create({
    name: "CN=x",
    keys: other,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-384" },
  });
  const cases = [
    { name: "empty", csrPem: "" },
    { name: "no PEM", csrPem: "hello" },
    { name: "a certificate", csrPem: root.certificatePem },
    { name: "cut short", csrPem: csrPem.slice(0, csrPem.length / 2) },
    { name: "too long", csrPem: csrPem + " ".repeat(10_000) },
    { name: "another curve", csrPem: otherCurve.toString("pem") },
    { name: "a changed signature", csrPem: withChangedEnd(csrPem) },
  ];
  for (const { name, csrPem } of cases) {
    await t.rejects(
      issueFromRequest(caDeps, root, csrPem, subject),
      { code: "invalid-argument", message: /^invalid certificate request: / },
      name,
    );
  }
});

/** The same request with its last byte, which is part of the signature, turned over. */
function withChangedEnd(pem: string): string {
  const bytes = Buffer.from(pem.replace(/-----[^-]+-----/g, ""), "base64");
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return `-----BEGIN CERTIFICATE REQUEST-----\n${bytes.toString("base64")}\n-----END CERTIFICATE REQUEST-----\n`;
}
