import t from "tap";

import type { NetworkId } from "../../../model/ids.ts";
import { AssignedNetwork, type WantedAttachment } from "../../../proto/gen/shoal/dispatcher.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { Attachments, attachTimeoutMs, type LostPlace } from "../../../worker/agent/attachments.ts";
import { VirtualClock } from "../../sim/clock.ts";

const never = new AbortController().signal;
const networks = new Map([["n1", AssignedNetwork.fromPartial({ id: "n1", name: "front" })]]);
const wish = { containerId: "c1", network: "front", names: ["web"], address: "" };
const place = { networkId: "n1" as NetworkId, networkName: "front", address: "10.0.1.5/24" };

class World {
  readonly clock = new VirtualClock();
  readonly attachments = new Attachments({ clock: this.clock, random: seededRandom(1) });
  readonly sent: WantedAttachment[][] = [];
  readonly lost: LostPlace[] = [];

  constructor() {
    this.attachments.onLost((lost) => void this.lost.push(lost));
    this.attachments.join((list) => void this.sent.push(list));
  }

  get last(): WantedAttachment[] {
    return this.sent.at(-1) ?? [];
  }

  /** What the managers would say of the newest list. */
  give(address = place.address, attempt = this.last[0]?.attempt ?? ""): void {
    this.attachments.assigned([{ id: "x", networkId: "n1", attempt, address, ipv6: "" }], networks);
  }
}

t.test("asked for, given, and given back", async (t) => {
  const world = new World();
  const given = world.attachments.attach(wish, never);
  t.match(world.last, [{ ...wish, attempt: /./ }]);
  world.give();
  t.strictSame(await given, place);
  t.strictSame(world.attachments.find("c1", "front"), place);
  t.strictSame(world.attachments.find("c1", "n1"), place);
  t.strictSame(await world.attachments.attach(wish, never), place, "what it has it is not given again");
  t.equal(world.sent.length, 1);
  t.match(
    world.attachments.list(),
    [{ network: "n1", address: "10.0.1.5" }],
    "from now on it asks for what it has",
  );
  world.attachments.keep("c1", new Set(["n1"]));
  world.attachments.keep("c2", new Set());
  t.equal(world.sent.length, 1);
  world.attachments.keep("c1", new Set());
  t.strictSame(world.last, []);
  t.equal(world.clock.waiting, 0);
});

t.test("an answer to an earlier attempt is none to this one", async (t) => {
  const world = new World();
  const first = world.attachments.attach(wish, never);
  const earlier = world.last[0]?.attempt ?? "";
  world.give();
  await first;
  world.attachments.keep("c1", new Set());
  const second = world.attachments.attach(wish, never);
  world.give("10.0.1.5/24", earlier);
  world.attachments.refused({ attempt: earlier, code: "conflict", message: "Address already in use" });
  t.equal(world.attachments.find("c1", "front"), undefined);
  world.give("10.0.1.6/24");
  t.match(await second, { address: "10.0.1.6/24" });
});

const refusals = [
  {
    code: "permission-denied",
    message: "network front not manually attachable",
    want: {
      code: "permission-denied",
      message:
        "Could not attach to network front: rpc error: code = PermissionDenied desc = network front not manually attachable",
    },
  },
  {
    code: "not-found",
    message: "network front not found",
    want: {
      code: "not-found",
      message: "Could not attach to network front: rpc error: code = NotFound desc = network front not found",
    },
  },
  {
    code: "conflict",
    message: "Address already in use",
    want: { code: "permission-denied", message: "Could not attach to network front: Address already in use" },
  },
  { code: "of a later version", message: "no", want: { code: "internal" } },
];

for (const { code, message, want } of refusals) {
  t.test(`refused with ${code}, in Docker's words, and asked for no more`, async (t) => {
    const world = new World();
    const given = world.attachments.attach(wish, never);
    world.attachments.refused({ attempt: world.last[0]?.attempt ?? "", code, message });
    await t.rejects(given, want);
    t.strictSame(world.last, []);
    t.equal(world.clock.waiting, 0);
  });
}

t.test("without an answer it waits for a bounded time, and not once its caller has gone", async (t) => {
  const world = new World();
  const late = world.attachments.attach(wish, never);
  const leaving = new AbortController();
  const gone = world.attachments.attach({ ...wish, containerId: "c2" }, leaving.signal);
  leaving.abort(new Error("gone"));
  await t.rejects(gone, { message: "gone" });
  t.match(world.last, [{ containerId: "c1" }]);
  const refused = t.rejects(late, { code: "deadline-exceeded", message: /check manager logs/ });
  await world.clock.advance(attachTimeoutMs);
  await refused;
  t.strictSame(world.last, []);
  t.equal(world.clock.waiting, 0);
});

t.test("a container that ran on keeps what it has, or loses it", async (t) => {
  const world = new World();
  world.attachments.adopt("c1", ["web"], place);
  t.match(world.last, [{ network: "n1", address: "10.0.1.5", names: ["web"] }]);
  world.give();
  t.strictSame(world.lost, []);
  const { attempt = "" } = world.last[0] ?? {};
  world.attachments.refused({ attempt, code: "conflict", message: "Address already in use" });
  t.match(world.lost, [{ containerId: "c1", networkId: "n1", reason: /already in use/ }]);
  t.strictSame(world.last, []);
});

t.test("a host that is in no cluster has none of its networks", async (t) => {
  const world = new World();
  const waiting = world.attachments.attach(wish, never);
  world.attachments.leave();
  await t.rejects(waiting, { code: "not-found", message: "network front not found" });
  await t.rejects(world.attachments.attach(wish, never), { code: "not-found" });
  t.equal(world.clock.waiting, 0);
});

t.test("before it is known whether the host is in a cluster, it waits", async (t) => {
  const clock = new VirtualClock();
  const attachments = new Attachments({ clock, random: seededRandom(1) });
  const given = attachments.attach(wish, never);
  const [want] = attachments.list();
  t.match(want, wish);
  attachments.assigned(
    [{ id: "x", networkId: "n1", attempt: want?.attempt ?? "", address: place.address, ipv6: "" }],
    networks,
  );
  t.strictSame(await given, place);
});
