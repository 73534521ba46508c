import t from "tap";

import { firstDynamicPort } from "../../../manager/allocator/port.ts";
import { runAllocator } from "../../../manager/allocator/run.ts";
import { replaceSpec, rollbackService } from "../../../manager/orchestrator/spec.ts";
import type { Store } from "../../../manager/store/store.ts";
import { attachmentId } from "../../../model/attachment.ts";
import type { NetworkId, NodeId, ServiceId } from "../../../model/ids.ts";
import type { ServiceEndpoint, ServiceSpec } from "../../../model/service.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import {
  clusterObject,
  id,
  networkObject,
  nodeObject,
  serviceObject,
  serviceSpec,
} from "../../sim/objects.ts";

/** An allocator whose decisions wait for the gate before they are stored. */
class World implements AsyncDisposable {
  readonly clock = new VirtualClock();
  readonly store: Store;
  readonly #scope = new AbortController();
  readonly #loop: Promise<void>;
  #gate = Promise.resolve();

  /** @param store - Of an earlier leader. */
  constructor(store: Store = loneStore(new VirtualClock()).store) {
    this.store = store;
    const batch: Store["batch"] = async (...given) => {
      await this.#gate;
      return store.batch(...given);
    };
    const slow = { view: store.view.bind(store), watch: store.watch.bind(store), batch };
    const deps = { store: slow, clock: this.clock, random: seededRandom(1), log: silentLog };
    this.#loop = runAllocator(deps, this.#scope.signal);
  }

  /** @returns opens it again, and waits for what comes of it. */
  shut(): () => Promise<void> {
    let open = (): void => {};
    this.#gate = new Promise((resolve) => {
      open = resolve;
    });
    return () => {
      open();
      return settle();
    };
  }

  /** Services, or changes of them, that come at once. */
  async put(ports: Readonly<Record<string, number | undefined>>): Promise<void> {
    await this.store.update((tx) => {
      for (const [name, publishedPort] of Object.entries(ports)) {
        const spec = publishing(name, publishedPort);
        const service = tx.services.get(id(name));
        if (service === undefined) tx.services.create(serviceObject(name, spec));
        else replaceSpec(tx, service, spec, service.meta.version);
      }
    });
    await settle();
  }

  async rollback(name: string): Promise<void> {
    await this.store.update((tx) => {
      const service = tx.services.get(id(name));
      if (service !== undefined) rollbackService(tx, service);
    });
    await settle();
  }

  endpoint(name: string): ServiceEndpoint | undefined {
    return this.store.view((view) => view.services.get(id<ServiceId>(name))?.endpoint);
  }

  ports(name: string): readonly number[] {
    return this.endpoint(name)?.ports.map(({ publishedPort }) => publishedPort) ?? [];
  }

  /** The address of a container, or why it has none. */
  place(containerId: string): string | undefined {
    const found = this.store.view((view) =>
      view.attachments.list().find((each) => each.containerId === containerId),
    );
    return found?.address ?? found?.refusal;
  }

  ipv6(containerId: string): string | undefined {
    return this.store.view((view) => view.attachments.list().find((each) => each.containerId === containerId))
      ?.ipv6;
  }

  async attach(containerId: string, asked = "", askedIpv6?: string): Promise<string | undefined> {
    await this.store.update((tx) => {
      const place = { nodeId: id<NodeId>("node"), networkId: id<NetworkId>("front"), containerId };
      const sixth = askedIpv6 === undefined ? {} : { askedIpv6 };
      tx.attachments.create({ ...place, id: attachmentId(place), attempt: "1", names: [], asked, ...sixth });
    });
    await settle();
    return this.place(containerId);
  }

  async detach(containerId: string): Promise<void> {
    await this.store.update((tx) => {
      const found = tx.attachments.list().find((each) => each.containerId === containerId);
      if (found !== undefined) tx.attachments.remove(found.id);
    });
    await settle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#scope.abort();
    await this.#loop;
  }
}

function publishing(name: string, publishedPort: number | undefined): ServiceSpec {
  const port = { protocol: "tcp", targetPort: 80, publishMode: "ingress" } as const;
  const ports = publishedPort === undefined ? [] : [{ ...port, publishedPort }];
  return { ...serviceSpec({ endpoint: { mode: "vip", ports } }), name };
}

async function started(): Promise<World> {
  const world = new World();
  await world.store.update((tx) => {
    tx.clusters.create(clusterObject());
    tx.networks.create(networkObject("ingress", { ingress: true }));
  });
  await world.put({ a: 80 });
  return world;
}

t.test(
  "what a change would have given up is kept when the change is rolled back before it is stored",
  async (t) => {
    await using world = await started();
    const before = world.endpoint("a");
    t.strictSame(world.ports("a"), [80]);
    const open = world.shut();
    await world.put({ a: undefined });
    await world.rollback("a");
    await open();
    t.strictSame(world.endpoint("a"), before);
    await world.put({ b: 80 });
    t.strictSame(world.ports("b"), [], "the port is still that of the first");
    await world.put({ a: undefined });
    t.strictSame([world.ports("a"), world.ports("b")], [[], [80]]);
  },
);

t.test("nobody is given what another's change gives up before that is stored", async (t) => {
  await using world = await started();
  const open = world.shut();
  await world.put({ a: undefined, b: 80 });
  await world.rollback("a");
  await open();
  t.strictSame([world.ports("a"), world.ports("b")], [[80], []]);
});

t.test("what was chosen for a service that is removed meanwhile is free again", async (t) => {
  await using world = await started();
  const open = world.shut();
  await world.put({ b: 81 });
  await world.store.update((tx) => tx.services.remove(id("b")));
  await open();
  await world.put({ c: 81 });
  t.strictSame(world.ports("c"), [81]);
});

t.test(
  "a port that the system chose is chosen anew where a service opens it on its hosts meanwhile",
  async (t) => {
    await using world = await started();
    const open = world.shut();
    await world.put({ b: 0 });
    await world.store.update((tx) => {
      const port = {
        protocol: "tcp",
        targetPort: 80,
        publishedPort: firstDynamicPort,
        publishMode: "host",
      } as const;
      const spec = { ...serviceSpec({ endpoint: { mode: "vip", ports: [port] } }), name: "c" };
      tx.services.create(serviceObject("c", spec));
    });
    await open();
    await settle();
    t.strictSame(world.ports("b"), [firstDynamicPort + 1]);
  },
);

const front = { ipam: [{ subnet: "10.5.0.0/29" }], attachable: true };

t.test("containers are given addresses of their own, and what they give back is free again", async (t) => {
  await using world = await started();
  await world.store.update((tx) => void tx.networks.create(networkObject("front", front)));
  t.equal(await world.attach("a"), "10.5.0.2/29", "in the same round as the network");
  t.equal(await world.attach("b", "10.5.0.4"), "10.5.0.4/29");
  t.equal(await world.attach("c", "10.5.0.4"), "Address already in use");
  t.equal(await world.attach("d", "10.5.0.1"), "Address already in use", "the gateway");
  t.equal(await world.attach("e", "10.5.0.7"), "Address already in use", "the broadcast address");
  t.match(await world.attach("f", "10.6.0.4"), /no configured subnet .* contain the IP address 10.6.0.4/);
  t.strictSame(
    [await world.attach("g"), await world.attach("h"), await world.attach("i")],
    ["10.5.0.3/29", "10.5.0.5/29", "10.5.0.6/29"],
  );
  t.match(await world.attach("j"), /no address is left on network front/);
  await world.detach("b");
  await world.detach("c");
  t.equal(await world.attach("c", "10.5.0.4"), "10.5.0.4/29");
});

t.test("one that asks for another address gets it, and the first is free", async (t) => {
  await using world = await started();
  await world.store.update((tx) => void tx.networks.create(networkObject("front", front)));
  t.equal(await world.attach("a"), "10.5.0.2/29");
  await world.store.update((tx) => {
    const [{ address: _given, ...found } = undefined as never] = tx.attachments.list();
    tx.attachments.update({ ...found, asked: "10.5.0.6" });
  });
  await settle();
  t.equal(world.place("a"), "10.5.0.6/29");
  t.equal(await world.attach("b", "10.5.0.2"), "10.5.0.2/29");
});

t.test("a new leader gives nobody what a container has", async (t) => {
  const { store } = await (async () => {
    await using world = await started();
    await world.store.update((tx) => void tx.networks.create(networkObject("front", front)));
    await world.attach("a");
    return world;
  })();
  const place = { nodeId: id<NodeId>("node"), networkId: id<NetworkId>("front"), containerId: "b" };
  await store.update((tx) => {
    tx.attachments.create({ ...place, id: attachmentId(place), attempt: "1", names: [], asked: "" });
  });
  await using world = new World(store);
  await settle();
  t.strictSame([world.place("a"), world.place("b")], ["10.5.0.2/29", "10.5.0.3/29"]);
});

t.test("on a network with IPv6 everybody has an address of both families, or of neither", async (t) => {
  const cell = { subnet: "10.5.0.0/29" };
  const dual = { ipv6: true, ipam: [cell, { subnet: "fd00:5::/126" }] };
  const { store } = await (async () => {
    await using world = await started();
    await world.store.update((tx) => void tx.networks.create(networkObject("front", dual)));
    t.equal(await world.attach("a"), "10.5.0.2/29");
    t.strictSame(world.ipv6("a"), "fd00:5::2/126");
    t.equal(await world.attach("b", "10.5.0.4", "fd00:5::3"), "10.5.0.4/29");
    t.equal(world.ipv6("b"), "fd00:5::3/126");
    t.match(await world.attach("c"), /no address is left on network front: all of fd00:5::\/126 are taken/);
    t.match(
      await world.attach("d", "", "fd00:6::1"),
      /no configured subnet .* contain the IP address fd00:6::1/,
    );
    t.equal(await world.attach("e", "", "fd00:5::2"), "Address already in use");
    await world.detach("a");
    return world;
  })();
  await using world = new World(store);
  await settle();
  t.equal(await world.attach("f"), "10.5.0.5/29", "who was refused holds nothing, and a new leader goes on");
  t.equal(world.ipv6("f"), "fd00:5::2/126", "it took note of the other");
});

t.test("an address of IPv6 on a network without it is refused", async (t) => {
  await using world = await started();
  await world.store.update((tx) => void tx.networks.create(networkObject("front", front)));
  t.match(await world.attach("a", "", "fd00::5"), /no configured subnet .* contain the IP address fd00::5/);
  t.equal(await world.attach("b"), "10.5.0.3/29");
  t.equal(world.ipv6("b"), undefined);
});

t.test("a service has a virtual IP of both families on a network with IPv6", async (t) => {
  await using world = await started();
  const frontId = id<NetworkId>("front");
  await world.store.update((tx) => {
    tx.networks.create(networkObject("front", { ipv6: true, ipam: [{ subnet: "fd00:5::/64" }] }));
    const spec = serviceSpec({
      task: { ...serviceSpec().task, networks: [{ networkId: frontId, aliases: [] }] },
    });
    tx.services.create(serviceObject("web", { ...spec, name: "web" }));
  });
  await settle();
  t.strictSame(world.endpoint("web")?.virtualIps, [
    { networkId: frontId, address: "10.0.1.2/24", ipv6: "fd00:5::2/64" },
  ]);
});

t.test(
  "a new cluster's first node is heard before its networks get subnets, and so are hosts later",
  async (t) => {
    await using world = new World();
    const subnet = (name: string): string | undefined =>
      world.store.view((view) => view.networks.get(id<NetworkId>(name))?.state?.subnet);
    const describe = async (name: string, subnets: readonly string[]): Promise<void> => {
      await world.store.update((tx) => {
        const { description } = nodeObject(name);
        const node = tx.nodes.get(id<NodeId>(name));
        if (node !== undefined && description !== undefined)
          tx.nodes.update({ ...node, description: { ...description, subnets } });
      });
      await settle();
    };
    await foundUnheard(world);
    t.equal(subnet("ingress"), undefined);
    await describe("first", ["10.0.0.0/24"]);
    t.equal(subnet("ingress"), "10.0.1.0/24");
    await describe("first", ["10.0.0.0/8"]);
    await world.store.update((tx) => tx.networks.create(networkObject("front")));
    await settle();
    t.equal(subnet("front"), undefined, "the host leaves none");
    t.equal(subnet("ingress"), "10.0.1.0/24", "one that has its subnet keeps it");
    await describe("first", ["10.0.0.0/12"]);
    t.equal(subnet("front"), "10.16.0.0/24");
  },
);

t.test("a first node that is never heard holds networks up for a while only", async (t) => {
  await using world = new World();
  await foundUnheard(world);
  await world.clock.advance(10_000);
  await settle();
  t.equal(
    world.store.view((view) => view.networks.ingress()?.state?.subnet),
    "10.0.0.0/24",
  );
});

/** A new cluster whose only node has not said anything yet. */
async function foundUnheard(world: World): Promise<void> {
  await world.store.update((tx) => {
    tx.clusters.create(clusterObject());
    const { description: _unheard, ...first } = nodeObject("first");
    tx.nodes.create(first);
    tx.networks.create(networkObject("ingress", { ingress: true }));
  });
  await settle();
}
