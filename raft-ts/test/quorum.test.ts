import * as fc from "fast-check";
import t from "tap";
import { type Configuration, reachedByQuorum, voteResult } from "../src/index.ts";

const members = ["a", "b", "c", "d", "e", "f", "g"];
const configurations = fc
  .record({ voters: fc.subarray(members, { minLength: 1 }), outgoing: fc.subarray(members) })
  .map((parts): Configuration => ({ ...parts, learners: [], contexts: {} }));
const values = fc.dictionary(fc.constantFrom(...members), fc.nat(20), { noNullPrototype: true });

/** Straight from the definition: more than half of each side. */
function isQuorum({ voters, outgoing }: Configuration, ids: ReadonlySet<string>): boolean {
  return [voters, outgoing].every(
    (side) => side.length === 0 || side.filter((id) => ids.has(id)).length * 2 > side.length,
  );
}

t.test("the value reached by a quorum is the highest that a quorum has", (t) => {
  fc.assert(
    fc.property(configurations, values, (configuration, known) => {
      const valueOf = (id: string): number => known[id] ?? 0;
      const atLeast = (value: number): boolean =>
        isQuorum(configuration, new Set(members.filter((id) => valueOf(id) >= value)));
      const reached = reachedByQuorum(configuration, valueOf);
      return atLeast(reached) && !atLeast(reached + 1);
    }),
  );
  t.end();
});

t.test("an election is won by a quorum, and lost once no quorum is left", (t) => {
  const votes = fc.dictionary(fc.constantFrom(...members), fc.boolean(), { noNullPrototype: true });
  fc.assert(
    fc.property(configurations, votes, (configuration, known) => {
      const granted = new Set(members.filter((id) => known[id] === true));
      const possible = new Set(members.filter((id) => known[id] !== false));
      const want = isQuorum(configuration, granted)
        ? "won"
        : isQuorum(configuration, possible)
          ? "pending"
          : "lost";
      return voteResult(configuration, (id) => known[id]) === want;
    }),
  );
  t.end();
});

t.test("two quorums of configurations one change apart share a member", (t) => {
  fc.assert(
    fc.property(
      fc.subarray(members, { minLength: 1 }),
      fc.constantFrom(...members),
      fc.subarray(members),
      fc.subarray(members),
      (voters, changed, one, other) => {
        const after = voters.includes(changed) ? voters.filter((id) => id !== changed) : [...voters, changed];
        fc.pre(after.length > 0);
        const base = { outgoing: [], learners: [], contexts: {} };
        const quorums =
          isQuorum({ voters, ...base }, new Set(one)) && isQuorum({ voters: after, ...base }, new Set(other));
        return !quorums || one.some((id) => other.includes(id));
      },
    ),
  );
  t.end();
});

t.test("a group without voters decides nothing", (t) => {
  const nobody: Configuration = { voters: [], outgoing: [], learners: ["a"], contexts: {} };
  t.equal(
    reachedByQuorum(nobody, () => 5),
    0,
  );
  t.equal(
    voteResult(nobody, () => true),
    "lost",
  );
  t.end();
});
