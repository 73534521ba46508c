import t from "tap";
import { DetachFilter, parseDetachKeys } from "../../../worker/api/detach-keys.ts";

t.test("keys are read as clients write them", (t) => {
  t.strictSame([...parseDetachKeys("")], [16, 17]);
  t.strictSame([...parseDetachKeys("ctrl-a,x,ctrl-@")], [1, 120, 0]);
  t.throws(() => parseDetachKeys("ctrl-1"), { code: "invalid-argument" });
  t.throws(() => parseDetachKeys("ab"), { code: "invalid-argument" });
  t.end();
});

const cases = [
  { name: "nothing is held back that cannot be the keys", pieces: ["hello"], want: "hello" },
  { name: "the keys end it, what came before passes", pieces: ["a", "PQ"], want: "a!" },
  { name: "keys in two pieces", pieces: ["aP", "Q"], want: "a!" },
  { name: "a beginning that goes on otherwise passes whole", pieces: ["P", "x"], want: "Px" },
  { name: "a beginning that begins again", pieces: ["PPQ"], want: "P!" },
] as const;

for (const { name, pieces, want } of cases) {
  t.test(name, (t) => {
    const filter = new DetachFilter(Buffer.from("PQ"));
    let passed = "";
    for (const piece of pieces) {
      const { bytes, isDetached } = filter.pass(Buffer.from(piece));
      passed += Buffer.from(bytes).toString() + (isDetached ? "!" : "");
    }
    t.equal(passed, want);
    t.end();
  });
}
