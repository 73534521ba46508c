import { createPrivateKey, X509Certificate } from "node:crypto";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { ClusterError, errorText } from "../model/errors.ts";
import type { NodeIdentity } from "../proto/host.ts";
import { systemDisk } from "../runtime/disk.ts";

/** The identity on disk, and whether the manager has data of its own yet. */
export interface StoredIdentity {
  readonly identity: NodeIdentity;
  /** False between receiving a manager's certificate and having joined the group of managers. */
  readonly managerJoined: boolean;
}

type NodeFile = Omit<NodeIdentity, "certificatePem" | "keyPem" | "rootPem"> & {
  readonly managerJoined: boolean;
};

/**
 * Reads who this node is.
 * @returns undefined when the node belongs to no cluster.
 * @throws {ClusterError} `data-loss` when files are there but make no whole identity.
 */
export async function loadIdentity(stateDir: string): Promise<StoredIdentity | undefined> {
  const path = paths(stateDir);
  const text = await readIfThere(path.node);
  if (text === undefined) return undefined;
  try {
    const { managerJoined, ...facts } = JSON.parse(text) as NodeFile;
    // The key file holds key and certificate together, so that a crash never leaves a pair that does not match.
    const pair = await readFile(path.pair, "utf8");
    const split = pair.indexOf("-----BEGIN CERTIFICATE-----");
    if (split < 0) throw new Error(`${path.pair} holds no certificate`);
    const rootPem = await readFile(path.root, "utf8");
    const identity = { ...facts, keyPem: pair.slice(0, split), certificatePem: pair.slice(split), rootPem };
    checkPair(identity, path);
    return { identity, managerJoined };
  } catch (cause) {
    throw new ClusterError(
      "data-loss",
      `cannot read this node's identity: ${errorText(cause)}; restore ${path.node} and ${path.folder} from a backup, ` +
        `or remove both and join the cluster again`,
      { cause },
    );
  }
}

/** A damaged file would come out much later otherwise, as connections that nobody accepts. */
function checkPair(
  { certificatePem, keyPem, rootPem }: NodeIdentity,
  path: { readonly root: string; readonly pair: string },
): void {
  const read = <T>(file: string, what: string, parse: () => T): T => {
    try {
      return parse();
    } catch (cause) {
      throw new Error(`${file} holds no ${what} that can be read`, { cause });
    }
  };
  read(path.root, "certificate", () => new X509Certificate(rootPem));
  const certificate = read(path.pair, "certificate", () => new X509Certificate(certificatePem));
  const key = read(path.pair, "key", () => createPrivateKey(keyPem));
  if (!certificate.checkPrivateKey(key)) throw new Error(`key and certificate of ${path.pair} do not match`);
}

export async function saveIdentity(stateDir: string, stored: StoredIdentity): Promise<void> {
  const path = paths(stateDir);
  const { certificatePem, keyPem, rootPem, ...facts } = stored.identity;
  await mkdir(path.folder, { recursive: true, mode: 0o700 });
  await systemDisk.replace(path.root, Buffer.from(rootPem), 0o644);
  await systemDisk.replace(path.pair, Buffer.from(keyPem.trimEnd() + "\n" + certificatePem));
  const file: NodeFile = { ...facts, managerJoined: stored.managerJoined };
  await systemDisk.replace(path.node, Buffer.from(JSON.stringify(file, null, 2) + "\n"));
}

/** Forgets the cluster: identity first, so that a crash half-way leaves a node of no cluster. */
export async function eraseIdentity(stateDir: string): Promise<void> {
  const path = paths(stateDir);
  await rm(path.node, { force: true });
  await rm(path.folder, { recursive: true, force: true });
  await eraseManagerData(stateDir);
}

/** Removes log, snapshots and everything else of the manager; the cluster has them elsewhere. */
export async function eraseManagerData(stateDir: string): Promise<void> {
  await rm(join(stateDir, "manager"), { recursive: true, force: true });
}

function paths(stateDir: string) {
  const folder = join(stateDir, "certificates");
  return {
    node: join(stateDir, "node.json"),
    folder,
    root: join(folder, "root.crt"),
    pair: join(folder, "node.pem"),
  };
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
