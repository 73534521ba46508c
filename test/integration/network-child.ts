/** A host's network in a process of its own, inside the host's namespace; driven over its IPC channel. */
import { ClusterError } from "../../model/errors.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemRandom } from "../../runtime/random.ts";
import type { HostNetwork } from "../../worker/network/network.ts";
import { openHostNetwork } from "../../worker/network/open.ts";

export type ChildCall =
  | { readonly method: "apply"; readonly argument: Parameters<HostNetwork["apply"]>[0] }
  | { readonly method: "applyBridges"; readonly argument: Parameters<HostNetwork["applyBridges"]>[0] }
  | { readonly method: "attach"; readonly argument: Parameters<HostNetwork["attach"]>[0] }
  | { readonly method: "detach"; readonly argument: Parameters<HostNetwork["detach"]>[0] }
  | { readonly method: "examine"; readonly argument: Parameters<HostNetwork["examine"]>[0] }
  | { readonly method: "list" | "close" | "offer" | "replaceTunnelKey" };

export type ChildRequest = ChildCall & { readonly id: number };
export interface ChildReply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
  readonly warning?: string;
}

const [runDir = "", resolvConf = ""] = process.argv.slice(2);
const never = new AbortController().signal;
process.on("disconnect", () => process.exit(0));

const network = await openHostNetwork(
  {
    clock: systemClock,
    random: systemRandom,
    warn: (warning) => send({ id: -1, warning }),
  },
  // What a key is told and kept for, each look may pass over.
  { runDir, bridgeSubnet: "172.29.0.0/16", resolvConf, tunnel: { overlapMs: 0 } },
  never,
);
await network.restored;
process.on("message", (request: ChildRequest) => {
  answer(request)
    .then((result) => send({ id: request.id, result }))
    .catch((reason: unknown) => {
      const code = reason instanceof ClusterError ? reason.code : "unforeseen";
      send({ id: request.id, error: { code, message: String(reason) } });
    });
});
send({ id: 0 });

async function answer(request: ChildRequest): Promise<unknown> {
  switch (request.method) {
    case "apply":
      return await network.apply(request.argument, never);
    case "applyBridges":
      return [...(await network.applyBridges(request.argument, never))];
    case "attach":
      return await network.attach(request.argument, never);
    case "detach":
      return await network.detach(request.argument, never);
    case "examine":
      return await network.examine(request.argument, never);
    case "list":
      return await network.list();
    case "close":
      return await network.close();
    case "offer":
      return network.offer;
    case "replaceTunnelKey":
      return network.replaceTunnelKey();
  }
}

function send(reply: ChildReply): void {
  process.send?.(reply);
}
