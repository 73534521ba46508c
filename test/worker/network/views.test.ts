import t from "tap";

import type { NetworkId, NodeId } from "../../../model/ids.ts";
import type { OverlayHost, OverlayNetwork, WantedNetworks } from "../../../worker/network/network.ts";
import { otherHosts } from "../../../worker/network/objects.ts";
import { rulesOf } from "../../../worker/network/views.ts";

const [ingress, net] = [network("ingress", 0), network("net", 1)];

function network(name: string, index: number): OverlayNetwork {
  return {
    id: name as NetworkId,
    name,
    subnet: `10.0.${index}.0/24`,
    gateway: `10.0.${index}.1`,
    vni: 4096 + index,
    internal: false,
    mtu: 0,
    ingress: name === "ingress",
  };
}

function host(index: number, address: string): OverlayHost {
  return { nodeId: `n${index}` as NodeId, address, index };
}

function wanted(more: Partial<WantedNetworks>): WantedNetworks {
  const self = { nodeId: "n1" as NodeId, address: "192.0.2.1" };
  return { self, networks: [ingress, net], endpoints: [], services: [], hosts: [], ...more };
}

t.test(
  "hosts are told apart by their address: of two nodes with one, and of those without one of IPv4",
  (t) => {
    const hosts = [
      host(7, "192.0.2.2"),
      host(2, "192.0.2.2"),
      host(3, "2001:db8::3"),
      host(4, ""),
      host(5, "192.0.2.1"),
      host(6, "192.0.2.6"),
    ];
    t.strictSame(otherHosts(wanted({ hosts })), [host(2, "192.0.2.2"), host(6, "192.0.2.6")]);
    t.end();
  },
);

t.test(
  "a virtual IP on the ingress network leads nowhere, as tasks there have nothing to say to each other",
  (t) => {
    const services = [ingress, net].map(({ id }, index) => ({
      networkId: id,
      serviceId: "s",
      serviceName: "s",
      address: `10.0.${index}.2`,
      aliases: [],
      localFirst: false,
      within: [],
      ports: index === 0 ? [{ protocol: "tcp" as const, publishedPort: 80, targetPort: 8080 }] : [],
    }));
    const state = { wanted: wanted({ services }), ports: [], bridge: undefined, underlayMtu: 1500 };
    const rules = rulesOf(state, new Map(), [{ protocol: "tcp", publishedPort: 80, targetPort: 8080 }]);
    t.strictSame(
      rules.services.map(({ address }) => address),
      ["10.0.1.2"],
    );
    t.equal(rules.mesh.length, 1);
    t.end();
  },
);
