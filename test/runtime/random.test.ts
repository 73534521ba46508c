import t from "tap";
import type { NodeId, TaskId } from "../../model/ids.ts";
import { taskName } from "../../model/task.ts";
import { newId, seededRandom, systemRandom } from "../../runtime/random.ts";

for (const [name, random] of [
  ["the system's chance", systemRandom],
  ["a seed", seededRandom(3)],
] as const) {
  t.test(`ids from ${name} are 25 digits and letters, and none comes twice`, (t) => {
    const ids = Array.from({ length: 20_000 }, () => newId(random));
    t.strictSame(
      ids.filter((id) => !/^[0-9a-z]{25}$/.test(id)),
      [],
    );
    t.equal(new Set(ids).size, ids.length);
    t.end();
  });
}

t.test("a task is named after its service, its slot or its node, and itself", (t) => {
  const task = { id: "t1" as TaskId, slot: 3, nodeId: "n1" as NodeId };
  t.equal(taskName("web", task), "web.3.t1");
  t.equal(taskName("agent", { ...task, slot: 0 }), "agent.n1.t1");
  t.end();
});
