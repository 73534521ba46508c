import type { Random } from "../../runtime/random.ts";
import { call } from "../lab/api.ts";
import type { Host } from "../lab/lab.ts";
import { waitFor } from "../lab/shell.ts";
import { type NodeSummary, nodeOfHost } from "../lab/swarm.ts";

interface Node extends NodeSummary {
  readonly Version: { readonly Index: number };
}
type Role = "manager" | "worker";

const timeouts = { timeoutMs: 30_000, everyMs: 20 };
/** No answer in this time: another manager is asked. */
const askMs = 1_000;
const rounds = 4;

/**
 * Takes the role of one manager after another and gives it back as soon as it is out of the group, or before that: both have
 * to end as one that the others reach.
 *
 * @param victims - Whose roles change.
 * @param managers - Whom to ask; those that are no managers just then refuse.
 */
export async function changeRoles(
  victims: readonly Host[],
  managers: readonly Host[],
  random: Random,
): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    const victim = victims[random.integer(victims.length)] as Host; // There is one.
    await setRole(victim, "worker", managers);
    if (random.next() < 0.5) {
      await waitFor(`${victim.name} out of the group`, timeouts, async () => {
        return (await nodeOf(victim, managers)).ManagerStatus === undefined;
      });
    }
    await setRole(victim, "manager", managers);
    await waitFor(`${victim.name} in the group`, timeouts, async () => {
      return (await nodeOf(victim, managers)).ManagerStatus?.Reachability === "reachable";
    });
  }
}

async function setRole(host: Host, role: Role, managers: readonly Host[]): Promise<void> {
  await waitFor(`${host.name} to become a ${role}`, timeouts, async () => {
    const node = await nodeOf(host, managers);
    if (node.Spec.Role === role) return true;
    const path = `/nodes/${node.ID}/update?version=${node.Version.Index}`;
    await ofAny(managers, ({ socket }) =>
      call(socket, "POST", path, { body: { ...node.Spec, Role: role }, timeoutMs: askMs }),
    );
    return true;
  });
}

async function nodeOf(host: Host, managers: readonly Host[]): Promise<Node> {
  const nodes = await ofAny(managers, ({ socket }) =>
    call<readonly Node[]>(socket, "GET", "/nodes", { timeoutMs: askMs }),
  );
  const node = nodeOfHost(nodes, host.name);
  if (node === undefined) throw new Error(`no node is called ${host.name}`);
  return node;
}

/** The first answer, of one after another. @throws what the last one said. */
async function ofAny<T>(hosts: readonly Host[], ask: (host: Host) => Promise<T>): Promise<T> {
  let failure: unknown;
  for (const host of hosts) {
    try {
      return await ask(host);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}
