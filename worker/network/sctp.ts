/** Whether containers of this host can speak SCTP, which not every kernel has. */
import { ClusterError } from "../../model/errors.ts";
import type { AttachRequest } from "./network.ts";

/** Where it is a module, the kernel loads that as soon as a program asks for it. */
const moduleLists = ["modules.builtin", "modules.dep"] as const;

/**
 * @param readText - Empty for a file that is not there.
 * @throws {ClusterError} `unimplemented` when a port of SCTP is to be published, and nobody could listen on it.
 */
export async function requireSctp(
  readText: (path: string) => Promise<string>,
  { host, none, ports }: Pick<AttachRequest, "host" | "none" | "ports">,
): Promise<void> {
  const port = ports.find(({ protocol }) => protocol === "sctp");
  if (port === undefined || host || none) return;
  if (/^SCTP\b/m.test(await readText("/proc/net/protocols"))) return;
  const release = (await readText("/proc/sys/kernel/osrelease")).trim();
  for (const list of moduleLists) {
    if (/^\S*\/sctp\.ko/m.test(await readText(`/lib/modules/${release}/${list}`))) return;
  }
  throw new ClusterError(
    "unimplemented",
    `cannot publish port ${port.targetPort}/sctp: the kernel of this host (${release}) has no SCTP; load it (modprobe sctp) where it ` +
      "has a package of its own, or keep what needs it to hosts that have it (docker service update --constraint-add)",
  );
}
