import t from "tap";

import { seededRandom } from "../../../runtime/random.ts";
import { containersAShim, ShimGroups } from "../../../worker/engine/shims.ts";
import { settle } from "../../sim/clock.ts";

/** Work that lasts until it is told to end, and notes when it begins. */
function works(groups: ShimGroups) {
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const begin = (id: string, kind: "create" | "delete"): Promise<void> =>
    groups.alone(id, kind, async () => {
      begun.push(`${kind} ${id}`);
      await new Promise<void>((resolve) => ends.set(id, resolve));
    });
  return { begun, begin, end: (id: string) => ends.get(id)?.() };
}

t.test("a shim is shared by so many, and the next container begins another", (t) => {
  const groups = new ShimGroups(seededRandom(1));
  const names = Array.from({ length: 2 * containersAShim + 1 }, (_, index) => groups.assign(`c${index}`));
  const sizes = [...new Set(names)].map((name) => names.filter((each) => each === name).length);
  t.strictSame(sizes, [containersAShim, containersAShim, 1]);
  t.not(new ShimGroups(seededRandom(2)).assign("c0"), names[0], "another process names other groups");
  t.end();
});

t.test("tasks of a group are not made while one of them is deleted, nor the other way round", async (t) => {
  const groups = new ShimGroups(seededRandom(1));
  for (const id of ["a", "b", "c", "d"]) groups.assign(id);
  const { begun, begin, end } = works(groups);
  const all = [begin("a", "create"), begin("b", "create"), begin("c", "delete"), begin("d", "create")];
  await settle();
  t.strictSame(begun, ["create a", "create b"], "who waits for the other kind is not overtaken");
  end("a");
  await settle();
  t.equal(begun.length, 2);
  end("b");
  await settle();
  t.strictSame(begun.slice(2), ["delete c"]);
  end("c");
  await settle();
  t.strictSame(begun.slice(3), ["create d"]);
  end("d");
  await Promise.all(all);
});

t.test("a failure lets the next one go, and other groups do not wait", async (t) => {
  const groups = new ShimGroups(seededRandom(1));
  groups.adopt([
    { id: "a", shimGroup: "one" },
    { id: "b", shimGroup: "one" },
    { id: "c", shimGroup: "two" },
    { id: "old" },
  ]);
  const { begun, begin, end } = works(groups);
  let fail = (_error: Error): void => undefined;
  const failing = groups.alone("a", "create", () => new Promise<void>((_resolve, reject) => (fail = reject)));
  const all = [begin("b", "delete"), begin("c", "delete"), begin("old", "delete")];
  await settle();
  t.strictSame(begun.toSorted(), ["delete c", "delete old"]);
  fail(new Error("no such file"));
  await t.rejects(failing, { message: "no such file" });
  await settle();
  t.strictSame(begun.slice(2), ["delete b"]);
  for (const id of ["b", "c", "old"]) end(id);
  await Promise.all(all);
});
