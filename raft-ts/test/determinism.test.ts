import { createHash } from "node:crypto";
import t from "tap";
import type { ConfChange } from "../src/index.ts";
import { seededRandom } from "./cluster.ts";
import { Group } from "./group.ts";

/** Everything that a group of five did in a stormy life, in order, as bytes. */
function life(seed: number): string {
  const random = seededRandom(seed);
  const group = new Group("a b c d e", { random });
  const ids = [...group.members.keys()];
  const pick = (): string => ids[random(ids.length)] ?? "a";
  for (let step = 0; step < 800; step += 1) {
    const id = pick();
    const member = group.get(id);
    const choice = random(100);
    if (choice < 50) group.rounds(1);
    else if (choice < 70) group.propose(id, `p${step}`);
    else if (choice < 75) member.node.readIndex(step);
    else if (choice < 78) member.node.transferLeadership(pick());
    else if (choice < 82) group.cut(id, pick());
    else if (choice < 88) group.heal();
    else if (choice < 92) member.compact(random(5));
    else if (choice < 95) member.node.proposeConfChange(change(ids, random, `${step}`));
    else if (choice < 97) member.crash();
    for (const other of group.members.values()) if (!other.alive && random(4) === 0) other.restart();
  }
  const states = ids.map((id) => {
    const { node, applied, storage } = group.get(id);
    const entries = storage.entries(storage.firstIndex(), storage.lastIndex() + 1, Number.MAX_SAFE_INTEGER);
    return [node.status(), applied, storage.initialState(), storage.snapshot(), entries];
  });
  return createHash("sha256")
    .update(JSON.stringify([group.sent, states]))
    .digest("hex");
}

/** Of every kind: one member's, and joint ones that end by themselves or not. */
function change(ids: readonly string[], random: (bound: number) => number, context: string): ConfChange {
  const id = ids[random(ids.length)] ?? "a";
  const shuffled = ids.toSorted(() => random(2) * 2 - 1);
  const kinds: readonly ConfChange[] = [
    { kind: "update", id, context },
    { kind: "demote", id },
    { kind: "promote", id },
    { kind: "remove", id },
    { kind: "add-learner", id, context },
    { kind: "add-voter", id, context },
    {
      kind: "reconfigure",
      voters: shuffled.slice(0, 3),
      learners: shuffled.slice(3),
      contexts: {},
      leave: random(2) === 0 ? "auto" : "explicit",
    },
    { kind: "leave" },
  ];
  return kinds[random(kinds.length)] ?? { kind: "leave" };
}

t.test("equal inputs give equal outputs, to the byte", (t) => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= 10; seed += 1) {
    const first = life(seed);
    t.equal(life(seed), first, `seed ${seed}`);
    seen.add(first);
  }
  t.equal(seen.size, 10, "and other inputs give others");
  t.end();
});
