import t from "tap";
import {
  type ConfChange,
  type Configuration,
  changeConfiguration,
  encodeConfiguration,
  maxDepartedCount,
} from "../src/index.ts";
import { group as founding } from "./cluster.ts";
import { Group, append, voteRequest } from "./group.ts";

/** `a b | c d` is joint, `/` begins the learners, `~` those to come, `!` what departed: `a b | c / d ~ e ! f`. */
function parse(text: string): Configuration {
  const part = (mark: string): string[] => {
    const found = new RegExp(`(?:^|[|/~!])${mark}([^|/~!]*)`).exec(text);
    return (found?.[1] ?? "").split(" ").filter((id) => id !== "");
  };
  const [voters = ""] = text.split(/[|/~!]/);
  const after = (mark: "|" | "/" | "~" | "!"): string[] => part(`(?<=\\${mark})`);
  const ids = (words: string): string[] => words.split(" ").filter((id) => id !== "");
  const base = { voters: ids(voters), outgoing: after("|"), learners: after("/") };
  const members = [...base.voters, ...base.outgoing, ...base.learners];
  const contexts = Object.fromEntries(members.map((id) => [id, id.toUpperCase()]));
  const departed = after("!");
  return {
    ...base,
    contexts,
    ...(base.outgoing.length > 0 ? { learnersNext: after("~"), leave: "auto" as const } : {}),
    ...(departed.length > 0 ? { departed } : {}),
  };
}

function print({ voters, outgoing, learners, learnersNext = [], departed = [] }: Configuration): string {
  const part = (mark: string, ids: readonly string[]): string =>
    ids.length === 0 ? "" : ` ${mark} ${ids.join(" ")}`;
  const joint = part("|", outgoing) + part("/", learners) + part("~", learnersNext);
  return voters.join(" ") + joint + part("!", departed);
}

function reconfigure(voters: string, learners = "", leave: "auto" | "explicit" = "auto"): ConfChange {
  const ids = (text: string): string[] => text.split(" ").filter((id) => id !== "");
  const contexts = Object.fromEntries([...ids(voters), ...ids(learners)].map((id) => [id, id.toUpperCase()]));
  return { kind: "reconfigure", voters: ids(voters), learners: ids(learners), contexts, leave };
}

const changes: readonly { from: string; change: ConfChange; want: string }[] = [
  { from: "a b", change: { kind: "add-voter", id: "c", context: "C" }, want: "a b c" },
  { from: "a b", change: { kind: "add-learner", id: "c", context: "C" }, want: "a b / c" },
  { from: "a b / c", change: { kind: "promote", id: "c" }, want: "a b c" },
  { from: "a b c", change: { kind: "demote", id: "c" }, want: "a b / c" },
  { from: "a b c", change: { kind: "remove", id: "b" }, want: "a c ! b" },
  { from: "a / b c", change: { kind: "remove", id: "b" }, want: "a / c ! b" },
  { from: "a b", change: { kind: "update", id: "b", context: "Z" }, want: "a b" },
  { from: "a b c", change: reconfigure("d e f"), want: "d e f | a b c" },
  { from: "a b c", change: reconfigure("a d"), want: "a d | a b c" },
  { from: "a b c", change: reconfigure("a", "b d"), want: "a | a b c / d ~ b" },
  { from: "a b / c d", change: reconfigure("a c", "b"), want: "a c | a b ~ b ! d" },
  { from: "a b / c", change: reconfigure("b a", "d"), want: "a b / d ! c" },
  { from: "d e f | a b c", change: { kind: "leave" }, want: "d e f ! a b c" },
  { from: "a | a b c / d ~ b", change: { kind: "leave" }, want: "a / d b ! c" },
];

for (const { from, change, want } of changes) {
  t.test(`${from}, then ${describe(change)}: ${want}`, (t) => {
    const result = changeConfiguration(parse(from), change);
    t.equal(result.kind === "changed" ? print(result.configuration) : result.text, want);
    if (result.kind === "changed") {
      const { voters, outgoing, learners, contexts } = result.configuration;
      const members = new Set([...voters, ...outgoing, ...learners]);
      t.strictSame(Object.keys(contexts).toSorted(), [...members].toSorted(), "a context for each member");
    }
    t.end();
  });
}

const refusals: readonly { from: string; change: ConfChange; text: RegExp }[] = [
  { from: "a", change: { kind: "add-voter", id: "a", context: "" }, text: /there already/ },
  { from: "a", change: { kind: "add-learner", id: "a", context: "" }, text: /there already/ },
  { from: "a ! b", change: { kind: "add-learner", id: "b", context: "" }, text: /never used again/ },
  { from: "a ! b", change: reconfigure("a b"), text: /never used again/ },
  { from: "a", change: { kind: "promote", id: "a" }, text: /not a learner/ },
  { from: "a / b", change: { kind: "demote", id: "b" }, text: /not a voter/ },
  { from: "a / b", change: { kind: "demote", id: "a" }, text: /last voter/ },
  { from: "a / b", change: { kind: "remove", id: "a" }, text: /last voter/ },
  { from: "a", change: { kind: "remove", id: "b" }, text: /not in the group/ },
  { from: "a", change: { kind: "update", id: "b", context: "" }, text: /not in the group/ },
  { from: "a", change: reconfigure(""), text: /at least one voter/ },
  { from: "a", change: reconfigure("a b b"), text: /named twice/ },
  { from: "a", change: reconfigure("a b", "b"), text: /named twice/ },
  { from: "a", change: { kind: "leave" }, text: /no joint configuration/ },
  { from: "a | b", change: reconfigure("c"), text: /leave the joint one first/ },
  { from: "a | b", change: { kind: "remove", id: "a" }, text: /leave the joint one first/ },
];

for (const { from, change, text } of refusals) {
  t.test(`${from}, then ${describe(change)}: refused, ${text.source}`, (t) => {
    t.match(changeConfiguration(parse(from), change), { kind: "refused", text });
    t.end();
  });
}

t.test("a configuration remembers the latest who left, and no more than it may", (t) => {
  let configuration = founding(["a", "b"]);
  for (let at = 0; at < maxDepartedCount + 5; at += 1) {
    for (const change of [
      { kind: "add-learner", id: `l${at}`, context: "" },
      { kind: "remove", id: `l${at}` },
    ] as const) {
      const result = changeConfiguration(configuration, change);
      if (result.kind === "changed") configuration = result.configuration;
    }
  }
  t.equal(configuration.departed?.length, maxDepartedCount);
  t.equal(configuration.departed?.at(-1), `l${maxDepartedCount + 4}`);
  t.end();
});

t.test("§4.1: a configuration counts from its append, and a truncated one never was", (t) => {
  const group = new Group("a b c");
  const data = encodeConfiguration(founding(["a", "b", "c", "d"]));
  group.say(
    append({ from: "b", to: "a", term: 2 }, { index: 1, term: 1 }, [
      { term: 2, index: 2, kind: "config", data },
    ]),
  );
  t.match(group.get("a").node.status(), { configuration: { voters: ["a", "b", "c", "d"] }, settled: false });
  const other = { term: 3, index: 2, kind: "empty" as const, data: new Uint8Array() };
  group.say(append({ from: "c", to: "a", term: 3 }, { index: 1, term: 1 }, [other], 2));
  t.match(group.get("a").node.status(), { configuration: { voters: ["a", "b", "c"] }, settled: true });
  t.end();
});

t.test(
  "§4.1: no second change while one is not committed, and none before the leader's first commit",
  (t) => {
    const group = new Group("a b c").elect("a").cut("a", "b c");
    const { node } = group.get("a");
    t.equal(node.proposeConfChange({ kind: "remove", id: "c" }).kind, "accepted");
    t.match(node.proposeConfChange({ kind: "remove", id: "b" }), { reason: "change-pending" });
    const fresh = new Group("a b c");
    fresh.get("a").node.campaign();
    fresh.work().drop();
    for (const type of ["pre-vote-reply", "vote-reply"] as const) {
      fresh.say({ type, from: "b", to: "a", term: 2, granted: true });
      fresh.drop();
    }
    t.equal(fresh.role("a"), "leader");
    t.match(fresh.get("a").node.proposeConfChange({ kind: "remove", id: "b" }), { reason: "too-early" });
    t.end();
  },
);

/** A group of three that leads with a, with learners d, e and f that have caught up. */
function withLearners(): Group {
  const group = new Group("a b c").elect("a");
  for (const id of ["d", "e", "f"]) {
    group.add(id);
    group.get("a").node.proposeConfChange({ kind: "add-learner", id, context: "" });
    group.settle();
  }
  return group;
}

t.test("§4.3: from any set to any set: the joint configuration is left once it is committed", (t) => {
  const group = withLearners();
  t.equal(group.get("a").node.proposeConfChange(reconfigure("d e f")).kind, "accepted");
  t.equal(print(group.get("a").node.status().configuration), "d e f | a b c");
  group.settle().rounds(4);
  t.equal(group.role("a"), "follower", "it is not in the new one: it led until that was committed (§4.2.2)");
  const leader = ["d", "e", "f"].find((id) => group.role(id) === "leader");
  t.ok(leader, "and a successor began at once");
  t.equal(print(group.get(leader ?? "d").node.status().configuration), "d e f ! a b c");
  t.end();
});

t.test("§4.3: an explicit leave waits to be asked for", (t) => {
  const group = withLearners();
  group.get("a").node.proposeConfChange(reconfigure("a d e", "", "explicit"));
  group.settle().rounds(4);
  t.equal(print(group.get("a").node.status().configuration), "a d e | a b c ! f");
  t.match(group.get("a").node.status(), { settled: true });
  t.match(group.get("a").node.proposeConfChange({ kind: "remove", id: "b" }), { reason: "invalid-change" });
  t.equal(group.get("a").node.proposeConfChange({ kind: "leave" }).kind, "accepted");
  group.settle();
  t.equal(print(group.get("a").node.status().configuration), "a d e ! f b c");
  t.end();
});

t.test("§4.3: a new leader finishes what the old one began", (t) => {
  const group = withLearners();
  group.get("a").node.proposeConfChange(reconfigure("b c d"));
  group.work(); // The joint entry is on its way; the leader dies before it hears of it.
  group.get("a").crash();
  group.settle();
  for (const id of ["c", "d", "e", "f"]) group.tick(id, 8); // Nobody hears a leader any more.
  group.drop().elect("b");
  const leader = ["b", "c", "d"].find((id) => group.role(id) === "leader") ?? "none";
  t.equal(print(group.get(leader).node.status().configuration), "b c d ! e f a");
  t.end();
});

for (const { cut, want } of [
  { cut: "b c", want: "the outgoing majority is missing" },
  { cut: "d e", want: "the incoming majority is missing" },
] as const) {
  t.test(`§4.3: in a joint configuration nothing is committed while ${want}`, (t) => {
    const group = withLearners();
    const { node } = group.get("a");
    node.proposeConfChange(reconfigure("a d e", "", "explicit"));
    group.settle();
    const before = group.commit("a");
    group.cut("a", cut);
    group.propose("a", "x");
    group.settle();
    t.equal(group.commit("a"), before);
    group.heal().rounds(2);
    t.equal(group.commit("a"), before + 1);
    t.end();
  });
}

for (const { votes, want } of [
  { votes: "b", want: "candidate" },
  { votes: "d e", want: "candidate" },
  { votes: "b d", want: "leader" },
] as const) {
  t.test(`§4.3: the votes of a and ${votes} make a ${want} of a joint a d e and a b c`, (t) => {
    const group = withLearners();
    group.get("a").node.proposeConfChange(reconfigure("a d e", "", "explicit"));
    group.settle();
    group.get("a").crash();
    group.get("a").restart();
    const { node } = group.get("a");
    node.campaign();
    group.work().drop();
    for (const from of ["b", "c", "d", "e"]) {
      group.say({ type: "pre-vote-reply", from, to: "a", term: node.status().term + 1, granted: true });
      if (node.status().role === "candidate") break;
    }
    group.drop();
    for (const from of votes.split(" ")) {
      group.say({ type: "vote-reply", from, to: "a", term: node.status().term, granted: true });
    }
    t.equal(group.role("a"), want);
    t.end();
  });
}

t.test(
  "a voter of before that is to be a learner votes until the group leaves the joint configuration",
  (t) => {
    const group = withLearners();
    group.get("a").node.proposeConfChange(reconfigure("a d e", "b", "explicit"));
    group.settle();
    t.equal(print(group.get("a").node.status().configuration), "a d e | a b c ~ b ! f");
    group.get("a").node.proposeConfChange({ kind: "leave" });
    group.settle();
    t.equal(print(group.get("a").node.status().configuration), "a d e / b ! f c");
    t.end();
  },
);

t.test("a leader that becomes a learner hands over once that is committed", (t) => {
  const group = new Group("a b c").elect("a");
  group.get("a").node.proposeConfChange({ kind: "demote", id: "a" });
  group.settle().rounds(2);
  t.equal(group.role("a"), "follower");
  t.ok(["b", "c"].some((id) => group.role(id) === "leader"));
  t.equal(group.commit("a"), group.commit("b"), "and learns on");
  t.end();
});

const risks: readonly { group: string; silent: string; change: ConfChange; want: string }[] = [
  { group: "a b c", silent: "c", change: { kind: "remove", id: "c" }, want: "accepted" },
  { group: "a b c", silent: "c", change: { kind: "remove", id: "b" }, want: "quorum-at-risk" },
  { group: "a b c", silent: "c", change: { kind: "remove", id: "a" }, want: "quorum-at-risk" },
  { group: "a b c", silent: "c", change: { kind: "demote", id: "b" }, want: "quorum-at-risk" },
  { group: "a b c d e", silent: "e", change: { kind: "remove", id: "b" }, want: "accepted" },
  { group: "a b c d e", silent: "d e", change: { kind: "remove", id: "b" }, want: "quorum-at-risk" },
  { group: "a", silent: "", change: { kind: "add-voter", id: "z", context: "" }, want: "quorum-at-risk" },
  { group: "a b c", silent: "", change: { kind: "add-voter", id: "z", context: "" }, want: "accepted" },
  {
    group: "a b c",
    silent: "c",
    change: { kind: "add-voter", id: "z", context: "" },
    want: "quorum-at-risk",
  },
  { group: "a b c", silent: "c", change: { kind: "add-learner", id: "z", context: "" }, want: "accepted" },
  { group: "a b c", silent: "", change: reconfigure("x y z"), want: "quorum-at-risk" },
  { group: "a b c", silent: "c", change: reconfigure("a b"), want: "accepted" },
];

for (const { group: ids, silent, change, want } of risks) {
  const state = silent === "" ? "all answer" : `${silent} silent`;
  t.test(`a quorum is never given away: ${ids}, ${state}, ${describe(change)}: ${want}`, (t) => {
    const group = new Group(ids).elect("a");
    if (silent !== "") group.cut(ids.replace(silent, "").trim(), silent);
    for (let at = 0; at < 12; at += 1) group.tick("a").settle();
    t.equal(group.role("a"), "leader");
    const result = group.get("a").node.proposeConfChange(change);
    t.equal(result.kind === "refused" ? result.reason : result.kind, want);
    t.end();
  });
}

t.test("a new leader does not take a voter that was down all along for one that answers", (t) => {
  const group = new Group("a b c").elect("a").cut("b", "a c");
  group.get("a").node.transferLeadership("c");
  group.settle();
  t.equal(group.role("c"), "leader");
  const { node } = group.get("c");
  const add: ConfChange = { kind: "add-voter", id: "z", context: "" };
  t.match(node.proposeConfChange(add), {
    reason: "too-early",
    text: "of the 4 voters that would decide, b, z did not answer this leader yet, and a majority must",
  });
  for (let at = 0; at < 12; at += 1) group.tick("c").settle();
  t.match(node.proposeConfChange(add), { reason: "quorum-at-risk" });
  t.equal(node.proposeConfChange({ kind: "remove", id: "b" }).kind, "accepted", "without it there is one");
  t.end();
});

t.test("a learner that has never answered is not promoted, though it came in only now", (t) => {
  const group = new Group("a").elect("a");
  const { node } = group.get("a");
  const promote: ConfChange = { kind: "promote", id: "z" };
  node.proposeConfChange({ kind: "add-learner", id: "z", context: "" });
  group.settle();
  t.match(node.proposeConfChange(promote), { kind: "refused", reason: "too-early" });
  group.add("z");
  group.tick("a", 2).settle();
  t.equal(node.proposeConfChange(promote).kind, "accepted");
  group.settle();
  t.equal(node.status().settled, true);
  t.end();
});

t.test("§4.2.3: a removed member does not disturb: no term rises and no leader falls", (t) => {
  const group = new Group("a b c d").elect("a").cut("d", "a b c"); // d does not learn of its removal.
  for (let at = 0; at < 12; at += 1) group.tick("a").settle();
  group.get("a").node.proposeConfChange({ kind: "remove", id: "d" });
  group.settle().heal();
  const term = group.term("a");
  for (let at = 0; at < 60; at += 1) group.rounds(1);
  t.equal(group.term("a"), term);
  t.equal(group.role("a"), "leader");
  t.end();
});

t.test("who left is known after a restart, and from a snapshot alone, and is not voted for", (t) => {
  const group = new Group("a b c d").elect("a");
  group.get("a").node.proposeConfChange({ kind: "remove", id: "d" });
  group.settle();
  group.propose("a", "x");
  group.settle();
  const b = group.get("b");
  b.compact(0);
  b.crash();
  b.restart();
  t.equal(b.node.hasDeparted("d"), true);
  t.equal(b.node.hasDeparted("c"), false);
  const request = voteRequest({ from: "d", to: "b", term: 99 }, { index: 99, term: 98 });
  t.strictSame(group.say(request), []);
  t.equal(group.term("b"), 2);
  t.end();
});

function describe(change: ConfChange): string {
  if (change.kind === "reconfigure") {
    return `reconfigure to ${change.voters.join(" ")} / ${change.learners.join(" ")}`;
  }
  return "id" in change ? `${change.kind} ${change.id}` : change.kind;
}
