import t from "tap";

import { seededRandom } from "../../../runtime/random.ts";
import { containersAShim, type ShimAddresses, ShimGroups } from "../../../worker/engine/shims.ts";
import { settle } from "../../sim/clock.ts";

class FakeShims implements ShimAddresses {
  /** Groups whose shim answers; undefined: that of each. */
  answering: Set<string> | undefined;
  readonly told: string[] = [];

  constructor(answering?: readonly string[]) {
    this.answering = answering && new Set(answering);
  }

  offer(id: string, group: string): Promise<boolean> {
    const isAnswered = this.answering?.has(group) ?? true;
    if (isAnswered) this.told.push(id);
    return Promise.resolve(isAnswered);
  }

  withdraw(id: string): Promise<void> {
    this.told.push(`not ${id}`);
    return Promise.resolve();
  }
}

/** Work that lasts until it is told to end, and notes when it begins. */
function works(groups: ShimGroups) {
  const begun: string[] = [];
  const ends = new Map<string, () => void>();
  const begin = (id: string, kind: "create" | "delete"): Promise<void> =>
    groups[kind](id, async () => {
      begun.push(`${kind} ${id}`);
      await new Promise<void>((resolve) => ends.set(id, resolve));
    });
  return { begun, begin, end: (id: string) => ends.get(id)?.() };
}

t.test("a shim is shared by so many, and the next container begins another", (t) => {
  const groups = new ShimGroups(seededRandom(1), new FakeShims());
  const names = Array.from({ length: 2 * containersAShim + 1 }, (_, index) => groups.assign(`c${index}`));
  const sizes = [...new Set(names)].map((name) => names.filter((each) => each === name).length);
  t.strictSame(sizes, [containersAShim, containersAShim, 1]);
  t.not(
    new ShimGroups(seededRandom(2), new FakeShims()).assign("c0"),
    names[0],
    "another process names other groups",
  );
  t.end();
});

t.test("tasks of a group are not made while one of them is deleted, nor the other way round", async (t) => {
  const groups = new ShimGroups(seededRandom(1), new FakeShims());
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
  const groups = new ShimGroups(seededRandom(1), new FakeShims());
  groups.adopt([
    { id: "a", shimGroup: "one" },
    { id: "b", shimGroup: "one" },
    { id: "c", shimGroup: "two" },
    { id: "old" },
  ]);
  const { begun, begin, end } = works(groups);
  let fail = (_error: Error): void => undefined;
  const failing = groups.create("a", () => new Promise<void>((_resolve, reject) => (fail = reject)));
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

t.test("the first of a group makes the shim, and the others are told of it", async (t) => {
  const shims = new FakeShims([]);
  const groups = new ShimGroups(seededRandom(1), shims);
  const [group = ""] = ["a", "b", "c"].map((id) => groups.assign(id));
  const { begun, begin, end } = works(groups);
  const all = [begin("a", "create"), begin("b", "create"), begin("c", "create")];
  await settle();
  t.strictSame(begun, ["create a"]);
  shims.answering?.add(group);
  end("a");
  await settle();
  t.strictSame(begun, ["create a", "create b", "create c"]);
  t.strictSame(shims.told, ["b", "c"]);
  for (const id of ["b", "c"]) end(id);
  await Promise.all(all);
  t.strictSame(shims.told, ["b", "c", "not b", "not c"]);
});

t.test("a first one that fails leaves it to the next", async (t) => {
  const groups = new ShimGroups(seededRandom(1), new FakeShims([]));
  for (const id of ["a", "b"]) groups.assign(id);
  const failing = groups.create("a", () => Promise.reject(new Error("no such file")));
  const next = groups.create("b", () => Promise.resolve("made"));
  await t.rejects(failing, { message: "no such file" });
  t.equal(await next, "made");
});

t.test("a shim that ends between being seen and being called is made again, once", async (t) => {
  const shims = new FakeShims();
  const groups = new ShimGroups(seededRandom(1), shims);
  groups.assign("a");
  const refusals = ["dial unix /run/containerd/s/0f: connect: connection refused"];
  const make = (): Promise<string> => {
    const [refusal] = refusals.splice(0, 1);
    return refusal === undefined ? Promise.resolve("made") : Promise.reject(new Error(refusal));
  };
  t.equal(await groups.create("a", make), "made");
  t.strictSame(shims.told, ["a", "not a"], "the second time it is told of none");
  refusals.push("OCI runtime create failed", "not reached");
  await t.rejects(groups.create("a", make), { message: "OCI runtime create failed" });
  t.equal(refusals.length, 1);
});
