/** Addresses and ports under random histories: whatever happens, nothing is given twice. */
import * as fc from "fast-check";
import t from "tap";

import type { NetworkId } from "../../model/ids.ts";
import type { PortSpec, ServiceSpec } from "../../model/service.ts";
import { isTerminal } from "../../model/task.ts";
import { id, networkObject, serviceSpec, taskSpec } from "../sim/objects.ts";
import { ScenarioCluster } from "./cluster.ts";

type Action =
  | { readonly kind: "put"; readonly name: string; readonly spec: ServiceSpec }
  | { readonly kind: "rollback" | "remove"; readonly name: string }
  | { readonly kind: "lead" }
  /** Lets the loops get on, by microtasks: a decision may be made and not stored yet. */
  | { readonly kind: "pause"; readonly turns: number }
  | { readonly kind: "settle" };

const names = fc.constantFrom("a", "b", "c");
const ports = fc.uniqueArray(
  fc.record({
    protocol: fc.constant("tcp" as const),
    targetPort: fc.constantFrom(80, 81),
    publishedPort: fc.constantFrom(0, 0, 80, 30_000, 30_001),
    publishMode: fc.constant("ingress" as const),
  }),
  { maxLength: 3, selector: ({ publishedPort }) => publishedPort || Symbol("any number of those") },
);
const specs = fc
  .record({ ports, networks: fc.subarray(["red", "blue"]), replicas: fc.integer({ min: 0, max: 2 }) })
  .map(({ ports, networks, replicas }) =>
    serviceSpec({
      replicas,
      endpoint: { mode: "vip", ports },
      task: { ...taskSpec(), networks: networks.map((each) => ({ networkId: id(each), aliases: [] })) },
    }),
  );
const actions: fc.Arbitrary<Action> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("put" as const), name: names, spec: specs }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom("rollback" as const, "remove" as const), name: names }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: "lead" as const }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("pause" as const), turns: fc.integer({ min: 1, max: 12 }) }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: "settle" as const }) },
);

async function carryOut(c: ScenarioCluster, action: Action): Promise<void> {
  switch (action.kind) {
    case "put": {
      const { name, spec } = action;
      const isThere = c.store.view((view) => view.services.has(id(name)));
      if (isThere) return c.update(name, () => ({ ...spec, name }));
      await c.create(name, spec);
      return;
    }
    case "rollback":
      if (c.store.view((view) => view.services.get(id(action.name))?.previous) !== undefined) {
        await c.rollback(action.name);
      }
      return;
    case "remove":
      return c.store.update((tx) => {
        if (tx.services.has(id(action.name))) tx.services.remove(id(action.name));
      });
    case "lead":
      return c.changeLeader(2);
    case "pause":
      for (let turn = 0; turn < action.turns; turn += 1) await Promise.resolve();
      return;
    case "settle":
      return c.clock.advance(100);
  }
}

/** What is given out, one text each. */
function given(c: ScenarioCluster): string[] {
  return c.store.view((view) => [
    ...view.services
      .list()
      .flatMap(({ endpoint }) => [
        ...(endpoint?.virtualIps ?? []).map(({ networkId, address }) => `${networkId} ${address}`),
        ...(endpoint?.ports ?? []).map((port: PortSpec) => `${port.publishedPort}/${port.protocol}`),
      ]),
    ...view.tasks
      .list()
      .filter((task) => !isTerminal(task))
      .flatMap(({ networks }) => networks.map(({ networkId, address }) => `${networkId} ${address}`)),
  ]);
}

t.test("no two services or tasks have one address or port, whatever changes meanwhile", async (t) => {
  await t.resolves(
    fc.assert(
      fc.asyncProperty(fc.array(actions, { minLength: 4, maxLength: 14 }), async (history) => {
        await using c = new ScenarioCluster();
        await c.start(["n1", "n2"]);
        await c.store.update((tx) => {
          for (const name of ["red", "blue"]) tx.networks.create(networkObject(name));
          tx.networks.create(networkObject("ingress", { ingress: true }));
        });
        for (const action of [
          ...history,
          { kind: "settle" },
          { kind: "lead" },
          { kind: "settle" },
        ] as const) {
          await carryOut(c, action);
          const all = given(c);
          const twice = all.filter((text, index) => all.indexOf(text) !== index);
          if (twice.length > 0) throw new Error(`given twice: ${twice.join(", ")}`);
        }
        if (c.errors.length > 0) throw new Error(`the loops complain: ${JSON.stringify(c.errors)}`);
      }),
      { numRuns: 60, seed: 20 },
    ),
  );
});

t.test("a removed service gives back all that it and its tasks had", async (t) => {
  await using c = new ScenarioCluster();
  await c.start(["n1"]);
  // Room for two virtual IPs and two tasks, so that anything lost would be missed.
  await c.store.update((tx) => {
    tx.networks.create(networkObject("small", { ipam: [{ subnet: "10.9.0.0/29" }] }));
  });
  const networks = [{ networkId: id<NetworkId>("small"), aliases: [] }];
  for (let round = 0; round < 6; round += 1) {
    const name = `s${round}`;
    await c.create(name, serviceSpec({ replicas: 2, task: { ...taskSpec(), networks } }));
    await c.until(() => c.running(name).length === 2);
    await c.store.update((tx) => tx.services.remove(id(name)));
  }
  t.strictSame(c.errors, []);
});
