/** A host's front door in a process of its own, over an engine that does nothing; ends with its parent. */
import { once } from "node:events";
import { Agent } from "node:http";
import { join } from "node:path";
import type { HostSettings, NodeIdentity } from "../../proto/host.ts";
import { systemClock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import { openFrontDoor } from "../../worker/api/server.ts";
import { FakeEngine } from "../sim/engine.ts";
import { FakeNetwork, fakeNetworks } from "../sim/network.ts";
import type { DoorOrder } from "./api-places.ts";

const [{ directory, managerSocket }] = (await once(process, "message")) as [DoorOrder];
const settings: HostSettings = {
  stateDir: directory,
  runDir: directory,
  socket: join(directory, "shoal.sock"),
  managerSocket,
  hostname: "bench",
  containerd: "",
  runtime: "runc",
  runtimeRoot: directory,
  cgroupParent: "/shoal-bench",
  insecureRegistries: [],
  engineLabels: {},
  bridgeSubnet: "172.29.0.0/16",
  natsServer: "",
  logLevel: "error",
};
const network = new FakeNetwork();
const identity = { nodeId: "bench", role: "manager" } as NodeIdentity; // Nothing else of it is looked at.
const door = await openFrontDoor({
  clock: systemClock,
  log: silentLog,
  settings,
  engine: new FakeEngine(systemClock, { registry: {} }),
  network,
  networks: await fakeNetworks(network, settings),
  toManager: new Agent({ keepAlive: true, maxFreeSockets: 128 }),
  node: () => ({ state: "active", error: "", managers: [], identity }),
  healthOf: () => undefined,
  swarm: () => Promise.resolve({ kind: "failed", code: "unavailable", message: "there is no shoald here" }),
  interfaces: () => [],
});
process.once("disconnect", () => void door.close().finally(() => process.exit(0)));
process.send?.("serves");
