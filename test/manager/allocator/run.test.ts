import t from "tap";

import { runAllocator } from "../../../manager/allocator/run.ts";
import { replaceSpec, rollbackService } from "../../../manager/orchestrator/spec.ts";
import type { Store } from "../../../manager/store/store.ts";
import type { ServiceId } from "../../../model/ids.ts";
import type { ServiceEndpoint, ServiceSpec } from "../../../model/service.ts";
import { silentLog } from "../../../runtime/log.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { clusterObject, id, networkObject, serviceObject, serviceSpec } from "../../sim/objects.ts";

/** An allocator whose decisions wait for the gate before they are stored. */
class World implements AsyncDisposable {
  readonly clock = new VirtualClock();
  readonly store: Store = loneStore(this.clock).store;
  readonly #scope = new AbortController();
  readonly #loop: Promise<void>;
  #gate = Promise.resolve();

  constructor() {
    const { store } = this;
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
