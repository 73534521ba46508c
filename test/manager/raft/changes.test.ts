import { type Configuration, changeConfiguration } from "raft-ts";
import t from "tap";
import { ChangeQueue } from "../../../manager/raft/changes.ts";
import { planMembership } from "../../../manager/raft/membership.ts";
import type { NodeId } from "../../../model/ids.ts";

/** A queue over a configuration whose every accepted step is committed when `commit` says so. */
function queue(voters: readonly string[], reachable: readonly string[]) {
  const answers: string[] = [];
  let configuration: Configuration = { voters: [...voters], outgoing: [], learners: [], contexts: {} };
  const log: number[] = [0];
  let term = 5;
  const changes = new ChangeQueue({
    plan: (change) => planMembership(change, configuration, (id) => reachable.includes(id)),
    propose: (step) => {
      const result = changeConfiguration(configuration, step);
      if (result.kind === "refused") return { kind: "refused", reason: "invalid-change", text: result.text };
      ({ configuration } = result);
      log.push(term);
      return { kind: "accepted", index: log.length - 1, term };
    },
    termAt: (index) => log[index],
    done: (id) => answers.push(`${id} done`),
    refuse: (id, error) => answers.push(`${id} ${error.code}`),
  });
  return {
    changes,
    answers,
    remove: (id: number, name: string) => changes.add(id, term, { kind: "remove", nodeId: name as NodeId }),
    commit: () => changes.continue(log.length - 1),
    replaceLast: () => {
      log[log.length - 1] = 6;
      term = 7;
    },
  };
}

t.test("two removals at once: the second is judged by what the first has left", (t) => {
  const q = queue(["a.1", "b.1", "c.1", "d.1"], ["a.1", "b.1", "c.1"]); // d is down.
  q.remove(1, "b");
  q.remove(2, "c");
  for (let round = 0; round < 4; round += 1) q.commit();
  t.strictSame(q.answers, ["1 done", "2 failed-precondition"], "a alone of a and d would be no quorum");
  t.end();
});

t.test("a change whose entry another leader replaced did not happen", (t) => {
  const q = queue(["a.1", "b.1", "c.1"], ["a.1", "b.1", "c.1"]);
  q.remove(1, "b");
  q.changes.continue(0);
  q.replaceLast();
  q.commit();
  t.strictSame(q.answers, ["1 no-leader"]);
  t.end();
});

for (const { name, isReplaced, want } of [
  { name: "is done once that is applied", isReplaced: false, want: ["2 no-leader", "1 done"] },
  {
    name: "is lost if it was another leader's entry",
    isReplaced: true,
    want: ["2 no-leader", "1 no-leader"],
  },
]) {
  t.test(`a change that is committed when its leadership ends ${name}`, (t) => {
    const q = queue(["a.1", "b.1", "c.1"], ["a.1", "b.1", "c.1"]);
    q.remove(1, "b");
    q.changes.continue(0);
    q.remove(2, "c");
    q.changes.abandonBefore(Infinity, 0, 1);
    t.strictSame(q.answers, ["2 no-leader"]);
    if (isReplaced) q.replaceLast();
    q.commit();
    t.strictSame(q.answers, want);
    t.end();
  });
}

t.test("changes end with their leadership, done if they were applied, and at the bound", (t) => {
  const q = queue(["a.1", "b.1", "c.1"], ["a.1", "b.1", "c.1"]);
  q.remove(1, "b");
  q.changes.continue(0);
  q.remove(2, "c");
  q.changes.abandonBefore(Infinity, 1, 1);
  t.strictSame(q.answers, ["1 done", "2 no-leader"]);
  q.remove(3, "a");
  for (let tick = 0; tick < 4; tick += 1) q.changes.tick(3);
  t.equal(q.answers.at(-1), "3 no-leader");
  t.ok(q.changes.isEmpty);
  t.end();
});
