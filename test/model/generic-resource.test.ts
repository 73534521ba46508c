import { array, assert, constantFrom, integer, property, record } from "fast-check";
import t from "tap";
import {
  claimGeneric,
  genericEnvironment,
  parseGenericResources,
  stillOffered,
  type GenericClaim,
} from "../../model/generic-resource.ts";
import { noResources, type NodeResources } from "../../model/resources.ts";

const read = [
  { texts: [], generic: {}, named: {} },
  { texts: ["ssd=3"], generic: { ssd: 3 }, named: {} },
  { texts: ["ssd=0"], generic: { ssd: 0 }, named: {} },
  { texts: ["gpu=UUID1,gpu=UUID2"], generic: { gpu: 2 }, named: { gpu: ["UUID1", "UUID2"] } },
  { texts: ["gpu=a", "ssd=1", "gpu=b"], generic: { gpu: 2, ssd: 1 }, named: { gpu: ["a", "b"] } },
] as const;
for (const { texts, generic, named } of read) {
  t.test(`"${texts.join(" ")}" reads as what it says`, (t) => {
    t.strictSame(parseGenericResources(texts), { generic, named });
    t.end();
  });
}

const refused = [
  { text: "", why: /a kind and a value/ },
  { text: "gpu", why: /a kind and a value/ },
  { text: "gpu=", why: /a kind and a value/ },
  { text: "=2", why: /a kind and a value/ },
  { text: "a=b=c", why: /a kind and a value/ },
  { text: "gpu=-1", why: /0 or more/ },
  { text: "gpu=99999999999999999999", why: /0 or more/ },
  { text: "gpu=1,gpu=a", why: /either a count or names/ },
  { text: "gpu=a,gpu=1", why: /either a count or names/ },
  { text: "gpu=1,gpu=1", why: /one count/ },
  { text: "gpu=a,gpu=a", why: /each name/ },
];
for (const { text, why } of refused) {
  t.test(`"${text}" is refused with what is accepted`, (t) => {
    t.throws(() => parseGenericResources([text]), { message: why });
    t.end();
  });
}

const offer: NodeResources = {
  ...noResources,
  generic: { gpu: 3, ssd: 2 },
  named: { gpu: ["a", "b", "c"] },
};

t.test("names are given in the node's order, and only those that are free", (t) => {
  t.strictSame(claimGeneric({ gpu: 1 }, offer, []), [{ kind: "gpu", count: 1, names: ["a"] }]);
  const held = [{ kind: "gpu", count: 1, names: ["b"] }];
  t.strictSame(claimGeneric({ gpu: 2, ssd: 1 }, offer, held), [
    { kind: "gpu", count: 2, names: ["a", "c"] },
    { kind: "ssd", count: 1 },
  ]);
  t.equal(claimGeneric({ gpu: 3 }, offer, held), undefined);
  t.equal(claimGeneric({ tpu: 1 }, offer, []), undefined);
  t.equal(claimGeneric({ gpu: 1 }, undefined, []), undefined);
  t.strictSame(claimGeneric({ gpu: 0 }, undefined, []), []);
  t.end();
});

t.test("a name that the node no longer has ends a claim; a mere count does not", (t) => {
  t.equal(stillOffered([{ kind: "gpu", count: 1, names: ["c"] }], offer), true);
  t.equal(stillOffered([{ kind: "gpu", count: 1, names: ["d"] }], offer), false);
  t.equal(stillOffered([{ kind: "ssd", count: 1, names: ["c"] }], offer), false, "now they are counted");
  t.equal(stillOffered([{ kind: "gpu", count: 1 }], offer), true, "once they were counted");
  t.end();
});

t.test("containers are told what they hold as Docker tells them", (t) => {
  t.strictSame(
    genericEnvironment([
      { kind: "gpu", count: 2, names: ["a", "b"] },
      { kind: "ssd", count: 2 },
    ]),
    ["DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SSD=2"],
  );
  t.end();
});

t.test("property: whatever comes and goes, nothing is given twice or beyond what there is", (t) => {
  const step = record({
    kind: constantFrom("gpu", "ssd"),
    count: integer({ min: 1, max: 3 }),
    ends: integer({ min: 0, max: 5 }),
  });
  assert(
    property(array(step, { maxLength: 40 }), (steps) => {
      let held: (readonly GenericClaim[])[] = [];
      for (const { kind, count, ends } of steps) {
        const free = (offer.generic[kind] ?? 0) - sumOf(held, kind);
        const claims = claimGeneric({ [kind]: count }, offer, held.flat());
        if ((claims !== undefined) !== count <= free) return false;
        if (claims !== undefined) held.push(claims);
        const names = held.flat().flatMap(({ names = [] }) => names);
        if (new Set(names).size !== names.length) return false;
        if (held.flat().some((claim) => claim.names !== undefined && claim.names.length !== claim.count))
          return false;
        if (ends < held.length) held = held.filter((_, i) => i !== ends);
      }
      return true;
    }),
  );
  t.end();
});

function sumOf(held: readonly (readonly GenericClaim[])[], kind: string): number {
  return held
    .flat()
    .filter((claim) => claim.kind === kind)
    .reduce((sum, { count }) => sum + count, 0);
}
