import { createHash } from "node:crypto";
import t from "tap";
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
    else if (choice < 95) member.node.proposeConfChange({ kind: "update", id: pick(), context: `${step}` });
    else if (choice < 97) member.crash();
    for (const other of group.members.values()) if (!other.alive && random(4) === 0) other.restart();
  }
  const states = ids.map((id) => [group.get(id).node.status(), group.get(id).applied]);
  return createHash("sha256")
    .update(JSON.stringify([group.sent, states]))
    .digest("hex");
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
