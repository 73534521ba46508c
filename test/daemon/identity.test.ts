import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { createRoot } from "../../manager/ca/root.ts";
import { caDeps, clusterId, identityOf, nodeIdOf } from "../manager/ca/certificates.ts";
import { eraseIdentity, loadIdentity, saveIdentity, type StoredIdentity } from "../../daemon/identity.ts";

const nodeId = nodeIdOf("n");
const root = await createRoot(caDeps);
const pems = await identityOf(root, nodeId, "manager");
const other = await identityOf(root, nodeId, "manager");

const stored: StoredIdentity = {
  managerJoined: true,
  identity: {
    nodeId,
    clusterId,
    role: "manager",
    ...pems,
    managers: ["10.0.0.1:2377"],
    listenAddress: "0.0.0.0:2377",
    advertiseAddress: "10.0.0.1:2377",
    dataPathAddress: "10.0.0.1",
  },
};

async function stateDir(t: { teardown(end: () => Promise<void>): void }): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "shoal-identity-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

t.test("a node of no cluster has no identity", async (t) => {
  t.equal(await loadIdentity(await stateDir(t)), undefined);
});

t.test("what was saved is loaded, and the key is for root alone", async (t) => {
  const folder = await stateDir(t);
  await saveIdentity(folder, stored);
  t.strictSame(await loadIdentity(folder), stored);
  t.equal((await stat(join(folder, "certificates", "node.pem"))).mode & 0o777, 0o600);
});

t.test("an erased identity leaves nothing behind, manager's data included", async (t) => {
  const folder = await stateDir(t);
  await saveIdentity(folder, stored);
  await eraseIdentity(folder);
  t.equal(await loadIdentity(folder), undefined);
  t.strictSame(await readdir(folder), []);
});

const damages = [
  { name: "half a node file", path: "node.json", content: '{"nodeId": "n' },
  {
    name: "a key file without a certificate",
    path: "certificates/node.pem",
    content: "-----BEGIN PRIVATE KEY-----\n",
  },
  { name: "a garbled root certificate", path: "certificates/root.crt", content: garbled(pems.rootPem) },
  {
    name: "a garbled key",
    path: "certificates/node.pem",
    content: garbled(pems.keyPem) + pems.certificatePem,
  },
  {
    name: "a garbled certificate",
    path: "certificates/node.pem",
    content: pems.keyPem + garbled(pems.certificatePem),
  },
  {
    name: "a key of another certificate",
    path: "certificates/node.pem",
    content: other.keyPem + pems.certificatePem,
  },
];

function garbled(pem: string): string {
  return pem.slice(0, 40) + "\0".repeat(20) + pem.slice(60);
}

for (const { name, path, content } of damages) {
  t.test(`${name} is refused with the way out, not taken for "no cluster"`, async (t) => {
    const folder = await stateDir(t);
    await saveIdentity(folder, stored);
    await writeFile(join(folder, path), content);
    await t.rejects(loadIdentity(folder), {
      code: "data-loss",
      message: /restore .* from a backup, or remove both/,
    });
  });
}
