import type { MemberId } from "raft-ts";
import t from "tap";
import { Introductions } from "../../../manager/raft/introductions.ts";

const id = (index: number): MemberId => `n${index}.a`;

t.test("of too many members that never came, the oldest is forgotten", async (t) => {
  const introductions = new Introductions();
  for (let index = 0; index < 64; index += 1) t.equal(introductions.add(id(index)), undefined);
  introductions.add(id(0)); // Spoke again.
  t.equal(introductions.add(id(64)), id(1));
  t.strictSame([introductions.has(id(0)), introductions.has(id(1))], [true, false]);
  introductions.delete(id(0));
  t.equal(introductions.add(id(65)), undefined, "one was taken in");
});
