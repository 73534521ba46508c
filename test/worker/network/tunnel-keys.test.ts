import * as fc from "fast-check";
import t from "tap";

import { firstRing, nextRing, publicKeys } from "../../../worker/network/tunnel-keys.ts";
import type { KeyRing } from "../../../worker/network/tunnel-keys.ts";

const overlapMs = 600;
const periodMs = 10_000;

function pairs(): () => { publicKey: string; privateKey: string } {
  let count = 0;
  return () => {
    count += 1;
    return { publicKey: `public${count}`, privateKey: `private${count}` };
  };
}

function print({ stage, keys }: KeyRing): string {
  return `${stage} ${keys.map(({ publicKey, slot }) => `${publicKey}@${slot}`).join(" ")}`;
}

t.test("a key is told before it is used, and its forerunner stays for as long after", (t) => {
  const make = pairs();
  let ring = firstRing(make(), 0);
  let told: readonly string[] = [];
  const seen: string[] = [];
  for (let nowMs = 0; nowMs <= 13_000; nowMs += 100) {
    ring = nextRing(ring, { nowMs, told, isAsked: false, isUsed: true, overlapMs, periodMs }, make);
    told = ring.keys.map(({ publicKey }) => publicKey);
    if (seen.at(-1)?.endsWith(print(ring)) !== true) seen.push(`${nowMs} ${print(ring)}`);
  }
  t.strictSame(seen, [
    "0 settled public1@0",
    "10000 announced public1@0 public2@1",
    "10700 replaced public2@1 public1@0",
    "11400 settled public2@1",
  ]);
  t.strictSame(publicKeys(ring), [{ publicKey: "public2", slot: 1 }], "the private half is not told");
  t.end();
});

const held = [
  { name: "nobody uses the tunnels", isUsed: false, isAsked: false, want: "settled public1@0" },
  { name: "unless it is asked for", isUsed: false, isAsked: true, want: "announced public1@0 public2@1" },
  { name: "it is asked for early", isUsed: true, isAsked: true, want: "announced public1@0 public2@1" },
] as const;

for (const { name, want, ...how } of held) {
  t.test(`when a key is replaced: ${name}`, (t) => {
    const make = pairs();
    const state = { nowMs: how.isUsed ? 1 : periodMs * 2, told: [], overlapMs, periodMs, ...how };
    t.equal(print(nextRing(firstRing(make(), 0), state, make)), want);
    t.end();
  });
}

t.test("without word from the managers nothing goes on, and a clock put back delays it once", (t) => {
  const make = pairs();
  const at = (nowMs: number, told: readonly string[]) => {
    return { nowMs, told, isAsked: true, isUsed: true, overlapMs, periodMs };
  };
  let ring = nextRing(firstRing(make(), 0), at(50_000, []), make);
  ring = nextRing(ring, at(90_000, ["public1"]), make);
  t.equal(print(ring), "announced public1@0 public2@1", "others know the old one alone");
  const both = ["public1", "public2"];
  ring = nextRing(ring, at(90_000, both), make);
  ring = nextRing(ring, at(1_000, both), make);
  ring = nextRing(ring, at(1_599, both), make);
  t.equal(ring.stage, "announced");
  t.equal(nextRing(ring, at(1_600, both), make).stage, "replaced");
  t.end();
});

t.test(
  "two hosts that replace their keys when they like are never without a key that both know",
  async () => {
    const turn = fc.record({
      host: fc.nat(1),
      afterMs: fc.nat(400),
      tells: fc.boolean(),
      isAsked: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(turn, { maxLength: 60 }), (turns) => {
        const make = pairs();
        const hosts = [firstRing(make(), 0), firstRing(make(), 0)];
        // What managers have of each host, and what the other host was told of it: later, never more than the overlap.
        const known = hosts.map(publicKeys);
        const told = hosts.map(publicKeys);
        const changedAtMs = [0, 0];
        let nowMs = 0;
        const deliver = (isSoon: boolean): void => {
          for (const each of [0, 1]) {
            if (isSoon || nowMs - (changedAtMs[each] ?? 0) >= overlapMs) told[each] = known[each] ?? [];
          }
        };
        for (const { host, afterMs, tells, isAsked } of turns) {
          nowMs += afterMs;
          deliver(false);
          const ring = hosts[host];
          if (ring === undefined) continue;
          const state = { nowMs, isAsked, isUsed: true, overlapMs, periodMs };
          const next = nextRing(
            ring,
            { ...state, told: (known[host] ?? []).map((key) => key.publicKey) },
            make,
          );
          if (next.stage !== ring.stage) changedAtMs[host] = nowMs;
          hosts[host] = next;
          known[host] = publicKeys(next);
          deliver(tells);
          for (const each of [0, 1]) {
            const first = hosts[each]?.keys[0].publicKey;
            const believed = told[each] ?? [];
            if (!believed.some(({ publicKey }) => publicKey === first)) {
              throw new Error(`it sends by ${first}, the other knows ${JSON.stringify(believed)}`);
            }
            const target = believed[0]?.publicKey;
            if (hosts[each]?.keys.some(({ publicKey }) => publicKey === target) !== true) {
              throw new Error(`the other sends to ${target}, it has ${JSON.stringify(publicKeys(next))}`);
            }
          }
        }
      }),
    );
  },
);
