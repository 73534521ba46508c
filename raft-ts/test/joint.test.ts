import * as fc from "fast-check";
import t from "tap";
import {
  type ConfChange,
  type Configuration,
  changeConfiguration,
  decodeConfiguration,
  encodeConfiguration,
  membersOf,
} from "../src/index.ts";

const ids = ["a", "b", "c", "d", "e"];
const pool = fc.constantFrom(...ids);

const changes: fc.Arbitrary<ConfChange> = fc.oneof(
  fc.record({ kind: fc.constantFrom("add-voter", "add-learner", "update"), id: pool, context: fc.string() }),
  fc.record({ kind: fc.constantFrom("promote", "demote", "remove"), id: pool }),
  fc
    .record({
      voters: fc.subarray(ids),
      learners: fc.subarray(ids),
      leave: fc.constantFrom("auto", "explicit"),
    })
    .map(({ voters, learners, leave }) => ({
      kind: "reconfigure" as const,
      voters,
      learners: learners.filter((id) => !voters.includes(id)),
      contexts: {},
      leave,
    })),
  fc.constant({ kind: "leave" as const }),
);

/** Every set of members that decides, straight from the definition. */
function quorums({ voters, outgoing }: Configuration): readonly ReadonlySet<string>[] {
  const all: ReadonlySet<string>[] = [];
  for (let bits = 0; bits < 1 << ids.length; bits += 1) {
    const set = new Set(ids.filter((_, at) => (bits & (1 << at)) !== 0));
    const decides = [voters, outgoing].every(
      (side) => side.length === 0 || side.filter((id) => set.has(id)).length * 2 > side.length,
    );
    if (decides && voters.length > 0) all.push(set);
  }
  return all;
}

function overlap(one: Configuration, other: Configuration): boolean {
  const others = quorums(other);
  return quorums(one).every((a) => others.every((b) => [...a].some((id) => b.has(id))));
}

/** The configurations that a sequence of changes leads through, without those refused. */
function walk(list: readonly ConfChange[]): Configuration[] {
  const path: Configuration[] = [{ voters: ["a"], outgoing: [], learners: [], contexts: { a: "" } }];
  for (const change of list) {
    const last = path.at(-1);
    if (last === undefined) break;
    const result = changeConfiguration(last, change);
    if (result.kind === "changed") path.push(result.configuration);
  }
  return path;
}

t.test("any two configurations that follow each other cannot decide apart (§4.2, §4.3)", (t) => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 12 }), (list) => {
      const path = walk(list);
      return path.every((configuration, at) => {
        const next = path[at + 1];
        return next === undefined || overlap(configuration, next);
      });
    }),
    { numRuns: 300 },
  );
  t.end();
});

t.test("no change leaves a group without voters, a member in two places, or one without a context", (t) => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 20 }), (list) =>
      walk(list).every((configuration) => {
        const { voters, outgoing, learners, contexts, departed = [], learnersNext = [] } = configuration;
        const members = membersOf(configuration);
        const distinct =
          new Set(voters).size === voters.length &&
          learners.every((id) => !voters.includes(id) && !outgoing.includes(id)) &&
          learnersNext.every((id) => outgoing.includes(id) && !voters.includes(id));
        const known = Object.keys(contexts);
        return (
          voters.length > 0 &&
          distinct &&
          known.length === members.size &&
          known.every((id) => members.has(id)) &&
          departed.every((id) => !members.has(id))
        );
      }),
    ),
  );
  t.end();
});

t.test("a configuration survives its way through the log, whatever it holds", (t) => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 12 }), (list) => {
      const last = walk(list).at(-1);
      if (last === undefined) return false;
      return JSON.stringify(decodeConfiguration(encodeConfiguration(last))) === JSON.stringify(last);
    }),
  );
  t.end();
});

for (const text of [
  "",
  "{}",
  "null",
  '{"voters":"a"}',
  '{"voters":[1],"outgoing":[],"learners":[],"contexts":{}}',
]) {
  t.test(`a payload that is no configuration is refused: ${text}`, (t) => {
    t.throws(() => decodeConfiguration(new TextEncoder().encode(text)));
    t.end();
  });
}
