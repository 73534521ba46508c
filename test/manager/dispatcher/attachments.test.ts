import t from "tap";

import { attachmentLimit, planAttachments } from "../../../manager/dispatcher/attachments.ts";
import { type Attachment, attachmentId } from "../../../model/attachment.ts";
import type { NetworkId, NodeId } from "../../../model/ids.ts";
import type { WantedAttachment, WorkerMessage } from "../../../proto/gen/shoal/dispatcher.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { id, networkObject } from "../../sim/objects.ts";
import { cluster, other, worker } from "./harness.ts";

const nodeId = id<NodeId>("here");
const networkId = id<NetworkId>("net");
const containerId = "c".repeat(64);
const wish: WantedAttachment = {
  containerId,
  network: "front",
  names: ["c1"],
  address: "",
  ipv6: "",
  attempt: "a1",
};
const stored: Omit<Attachment, "meta"> = {
  id: attachmentId({ nodeId, networkId, containerId }),
  networkId,
  nodeId,
  containerId,
  attempt: "a1",
  names: ["c1"],
  asked: "",
  address: "10.0.1.5/24",
};

interface Case {
  readonly rule: string;
  readonly stored?: { readonly [Field in keyof Attachment]?: Attachment[Field] | undefined };
  readonly wanted: readonly Partial<WantedAttachment>[];
  readonly create?: readonly object[];
  readonly update?: readonly object[];
  readonly remove?: readonly string[];
  readonly refusals?: readonly object[];
}

const cases: readonly Case[] = [
  { rule: "one that is new", wanted: [{}], create: [{ ...stored, address: undefined }] },
  { rule: "asked for by the network's id", wanted: [{ network: networkId }], create: [{ networkId }] },
  { rule: "asked for twice is one", wanted: [{}, { network: networkId }], create: [{}] },
  {
    rule: "with an address of its choice",
    wanted: [{ address: "10.0.1.9" }],
    create: [{ asked: "10.0.1.9" }],
  },
  {
    rule: "no such network",
    wanted: [{ network: "nope" }],
    refusals: [{ attempt: "a1", code: "not-found", message: "network nope not found" }],
  },
  {
    rule: "a network for services alone",
    wanted: [{ network: "closed" }],
    refusals: [
      { attempt: "a1", code: "permission-denied", message: "network closed not manually attachable" },
    ],
  },
  { rule: "what is no container", wanted: [{ containerId: "x" }], refusals: [{ code: "invalid-argument" }] },
  { rule: "what is as it was", stored: {}, wanted: [{}] },
  { rule: "what is as it was, by the address that it has", stored: {}, wanted: [{ address: "10.0.1.5" }] },
  { rule: "given back", stored: {}, wanted: [], remove: [stored.id] },
  {
    rule: "a new name keeps the address",
    stored: {},
    wanted: [{ names: ["c2"] }],
    update: [{ names: ["c2"], address: "10.0.1.5/24" }],
  },
  {
    rule: "a new attempt keeps the address",
    stored: {},
    wanted: [{ attempt: "a2" }],
    update: [{ attempt: "a2", address: "10.0.1.5/24" }],
  },
  {
    rule: "another address is given anew",
    stored: {},
    wanted: [{ attempt: "a2", address: "10.0.1.9" }],
    update: [{ asked: "10.0.1.9", address: undefined }],
  },
  {
    rule: "an address of IPv6 of its choice",
    wanted: [{ ipv6: "fd00::9" }],
    create: [{ asked: "", askedIpv6: "fd00::9" }],
  },
  {
    rule: "what is as it was, by the addresses that it has",
    stored: { ipv6: "fd00::5/64" },
    wanted: [{ address: "10.0.1.5", ipv6: "fd00::5" }],
  },
  {
    rule: "another address of IPv6 is given anew",
    stored: { ipv6: "fd00::5/64" },
    wanted: [{ ipv6: "fd00::9" }],
    update: [{ askedIpv6: "fd00::9", address: undefined, ipv6: undefined }],
  },
  {
    rule: "one that was refused is tried again",
    stored: { address: undefined, refusal: "Address already in use" },
    wanted: [{}],
    update: [{ refusal: undefined }],
  },
  {
    rule: "what was taken from a network that is closed since stays",
    stored: {
      networkId: id<NetworkId>("shut"),
      id: attachmentId({ nodeId, networkId: id("shut"), containerId }),
    },
    wanted: [{ network: "closed" }],
  },
];

for (const { rule, stored: known, wanted, ...expected } of cases) {
  t.test(rule, async (t) => {
    const { store } = loneStore(new VirtualClock());
    await store.update((tx) => {
      tx.networks.create(networkObject("net", { name: "front", attachable: true }));
      tx.networks.create(networkObject("shut", { name: "closed" }));
      // Absent fields are absent in the store.
      if (known !== undefined)
        tx.attachments.create(JSON.parse(JSON.stringify({ ...stored, ...known })) as Attachment);
    });
    const list = wanted.map((each) => ({ ...wish, ...each }));
    const plan = store.view((view) => planAttachments(view, nodeId, list));
    const nothing = { create: [], update: [], remove: [], refusals: [] };
    t.match(plan, { ...nothing, ...expected });
    for (const key of ["create", "update", "remove", "refusals"] as const)
      t.equal(plan[key].length, (expected[key] ?? []).length, key);
  });
}

t.test("a node has so many at most, and what it has counts", async (t) => {
  const { store } = loneStore(new VirtualClock());
  await store.update(
    (tx) => void tx.networks.create(networkObject("net", { name: "front", attachable: true })),
  );
  const list = Array.from({ length: attachmentLimit + 2 }, (_, index) => ({
    ...wish,
    attempt: `a${index}`,
    containerId: String(index).padStart(64, "0"),
  }));
  const plan = store.view((view) => planAttachments(view, nodeId, list));
  t.equal(plan.create.length, attachmentLimit);
  t.match(plan.refusals, [{ code: "resource-exhausted" }, { code: "resource-exhausted" }]);
});

t.test(
  "a node's list of containers on networks becomes the store's, and each hears what it is given",
  async (t) => {
    const { store, connect } = await cluster(t);
    const networkId = id<NetworkId>("front");
    await store.update((tx) => {
      const state = { subnet: "10.0.1.0/24", gateway: "10.0.1.1", vni: 4096 };
      tx.networks.create({ ...networkObject("front", { attachable: true }), state });
    });
    const [one, two] = [await connect(worker), await connect(other)];
    const list = (...names: readonly string[]): WorkerMessage => ({
      body: { $case: "attachments", value: { attachments: names.map((name) => wanted(name)) } },
    });
    const give = (): Promise<void> =>
      store.update((tx) => {
        const free = tx.attachments.list().filter((each) => each.address === undefined);
        for (const each of free) {
          const taken = tx.attachments.list().flatMap(({ address }) => address ?? []).length;
          tx.attachments.update({ ...each, address: `10.0.1.${taken + 2}/24` });
        }
      });
    one.send(list("c1"));
    two.send(list("c2"));
    await settle();
    await give();
    await settle();
    t.match(one.assignments().at(-1), {
      networks: [{ id: networkId, attachable: true }],
      attachments: [{ networkId, attempt: "c1", address: "10.0.1.2/24" }],
      endpoints: [
        { taskId: idOf("c1"), address: "10.0.1.2", taskName: "c1", aliases: ["db"], serving: true },
        { taskId: idOf("c2"), address: "10.0.1.3" },
      ],
    });
    const told = two.assignments().length;
    one.send(list());
    await settle();
    t.match(two.assignments()[told], { removedEndpoints: [/.*c1/], networks: [] });
    t.strictSame(
      store.view((view) => view.attachments.list().map(({ containerId }) => containerId)),
      [idOf("c2")],
    );
    one.send(list("c3", "nowhere"));
    await settle();
    t.match(one.last(), { $case: "attachmentRefusal", value: { attempt: "nowhere", code: "not-found" } });
    await store.update((tx) => {
      const [found] = tx.attachments.byNode(worker);
      if (found !== undefined) tx.attachments.update({ ...found, refusal: "no address is left" });
    });
    await settle();
    t.match(one.last(), {
      $case: "attachmentRefusal",
      value: { attempt: "c3", message: "no address is left" },
    });
  },
);

t.test("a list that comes late from a session that was replaced changes nothing", async (t) => {
  let release = (): void => undefined;
  const options: { stall?: Promise<void> } = {};
  const { store, connect } = await cluster(t, options);
  await store.update((tx) => void tx.networks.create(networkObject("front", { attachable: true })));
  const first = await connect(worker);
  options.stall = new Promise((resolve) => (release = resolve));
  first.send({ body: { $case: "attachments", value: { attachments: [wanted("c1")] } } });
  await settle();
  const second = connect(worker);
  await settle();
  release();
  await second;
  t.equal(
    store.view((view) => view.attachments.count),
    0,
  );
});

function idOf(name: string): string {
  return name.padStart(64, "0").replaceAll(/[^0-9a-f]/g, "e");
}

function wanted(name: string): WantedAttachment {
  const network = name === "nowhere" ? "nope" : "front";
  return { containerId: idOf(name), network, names: [name, "db"], address: "", ipv6: "", attempt: name };
}
