import { Agent } from "node:http";
import t from "tap";

import { silentLog } from "../../../runtime/log.ts";
import type { FrontDoorDeps } from "../../../worker/api/deps.ts";
import { listNetworks, pruneNetworks } from "../../../worker/api/network.ts";
import type { LocalNetwork } from "../../../worker/bridges/record.ts";
import { VirtualClock } from "../../sim/clock.ts";

/** A manager's host with one network of its own, where nothing answers on the manager's socket. */
function fixture() {
  const warnings: string[] = [];
  const kept = new Set(["own"]);
  const record = {
    id: "1",
    name: "own",
    labels: {},
    createdAtMs: 0,
    auxiliary: {},
  } as unknown as LocalNetwork;
  const networks = {
    predefined: [],
    list: () => (kept.has("own") ? [record] : []),
    find: () => record,
    resolve: () => ({ id: "1", name: "own", driver: "bridge" }),
    remove: async () => void kept.delete("own"),
  };
  const deps = {
    clock: new VirtualClock(),
    log: { ...silentLog, warn: (_fields: unknown, text: string) => void warnings.push(text) },
    settings: { managerSocket: "/nonexistent/manager.sock" },
    toManager: new Agent(),
    node: () => ({ identity: { role: "manager" }, state: "active" }),
    networks,
    network: { list: async () => [] },
    engine: { list: async () => [] },
  } as unknown as FrontDoorDeps;
  return { deps, kept, warnings };
}

t.test("without a manager that answers, a host lists its own networks", async (t) => {
  const { deps, warnings } = fixture();
  t.match(await listNetworks(deps, new URLSearchParams(), "/networks"), [{ Name: "own" }]);
  t.strictSame(warnings, ["an answer goes without the networks of the cluster"]);
});

t.test("and says which of them it has pruned", async (t) => {
  const { deps, kept, warnings } = fixture();
  const { signal } = new AbortController();
  const url = "/networks/prune";
  t.strictSame(await pruneNetworks(deps, () => undefined, new URLSearchParams(), url, signal), ["own"]);
  t.equal(kept.size, 0);
  t.equal(warnings.length, 1);
});
