import t from "tap";

import { demandOf, networkReach } from "../../../manager/scheduler/demand.ts";
import { printCidr } from "../../../model/address.ts";
import type { NetworkId, ServiceId } from "../../../model/ids.ts";
import { type PortSpec, type Revision, revisionKey } from "../../../model/service.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { id, networkObject, taskSpec } from "../../sim/objects.ts";

const port: PortSpec = { protocol: "tcp", targetPort: 80, publishedPort: 8080, publishMode: "ingress" };
const cases = [
  { name: "no network", on: [], ports: [], ingress: "", want: "any" },
  { name: "networks in clear", on: ["plain"], ports: [port], ingress: "plain", want: "any" },
  { name: "one of its networks is encrypted", on: ["plain", "safe"], ports: [], ingress: "", want: "tunnel" },
  { name: "encrypted=false is in clear", on: ["off"], ports: [], ingress: "", want: "any" },
  { name: "what it publishes goes encrypted", on: [], ports: [port], ingress: "safe", want: "tunnel" },
  {
    name: "a port of the host alone does not",
    on: [],
    ports: [{ ...port, publishMode: "host" as const }],
    ingress: "safe",
    want: "any",
  },
] as const;
const options: Readonly<Record<string, Record<string, string>>> = {
  plain: {},
  safe: { encrypted: "" },
  off: { encrypted: "false" },
};

const subnets: Readonly<Record<string, string>> = {
  plain: "10.0.1.0/24",
  safe: "10.0.2.0/24",
  off: "10.0.3.0/24",
};

for (const { name, on, ports, ingress, want } of cases) {
  t.test(`what a service's networks ask of a node: ${name}`, async (t) => {
    const { store } = loneStore(new VirtualClock());
    await store.update((tx) => {
      for (const [word, driverOptions] of Object.entries(options)) {
        const state = { subnet: subnets[word] ?? "", gateway: "", vni: 4096 };
        tx.networks.create({ ...networkObject(word, { driverOptions, ingress: word === ingress }), state });
      }
    });
    const revision: Revision = {
      id: revisionKey(id<ServiceId>("web"), 0),
      meta: { version: 1, createdVersion: 1, createdAtMs: 0, updatedAtMs: 0 },
      serviceId: id<ServiceId>("web"),
      specVersion: 0,
      serviceName: "web",
      serviceLabels: {},
      task: taskSpec({ networks: on.map((word) => ({ networkId: id<NetworkId>(word), aliases: [] })) }),
      endpoint: { mode: "vip", ports },
    };
    const reach = store.view((view) => networkReach(view, revision));
    t.equal(reach.needsTunnel, want === "tunnel");
    const isInMesh = ports.some(({ publishMode }) => publishMode === "ingress");
    const words = [...on, ...(isInMesh ? [ingress] : [])];
    t.strictSame(
      reach.blocks.map(printCidr),
      words.map((word) => subnets[word]),
    );
    t.strictSame(demandOf(revision, reach).reach, reach);
    const inClear = { ...reach, needsTunnel: false };
    const isSame = demandOf(revision, reach).kind === demandOf(revision, inClear).kind;
    t.equal(isSame, want === "any", "nodes are asked anew");
  });
}
