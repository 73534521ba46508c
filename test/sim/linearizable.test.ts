import * as fc from "fast-check";
import t from "tap";
import {
  type ListOperation,
  type RegisterOperation,
  type Timed,
  checkLists,
  checkRegisters,
  nothing,
} from "./linearizable.ts";

/** `a write x 0 5`: process, kind, input or `->output`, invoked, returned (`?` when unknown). */
const registers = [
  { name: "one after another", ops: ["a write x 0 1", "a read ->x 2 3"], want: "linearizable" },
  {
    name: "a read before any write sees nothing",
    ops: ["a read -> 0 1", "a write x 2 3"],
    want: "linearizable",
  },
  { name: "a stale read", ops: ["a write x 0 1", "a write y 2 3", "b read ->x 4 5"], want: "violation" },
  { name: "a lost write", ops: ["a write x 0 1", "b read -> 2 3"], want: "violation" },
  { name: "a value from nowhere", ops: ["b read ->x 2 3"], want: "violation" },
  {
    name: "a read that overlaps the write may see either: old",
    ops: ["a write x 0 9", "b read -> 1 2"],
    want: "linearizable",
  },
  {
    name: "a read that overlaps the write may see either: new",
    ops: ["a write x 0 9", "b read ->x 1 2"],
    want: "linearizable",
  },
  {
    name: "new and then old again",
    ops: ["a write x 0 9", "b read ->x 1 2", "b read -> 3 4"],
    want: "violation",
  },
  {
    name: "new and old again by another process",
    ops: ["a write x 0 9", "b read ->x 1 2", "c read -> 3 4"],
    want: "violation",
  },
  { name: "equal moments overlap", ops: ["a write x 0 1", "b read -> 1 2"], want: "linearizable" },
  {
    name: "an unknown write may take effect late",
    ops: ["a write x 0 ?", "b read -> 1 2", "b read ->x 7 8"],
    want: "linearizable",
  },
  {
    name: "an unknown write may never take effect",
    ops: ["a write x 0 ?", "b read -> 7 8"],
    want: "linearizable",
  },
  {
    name: "an unknown write takes effect once",
    ops: ["a write x 0 ?", "b read ->x 1 2", "b write y 3 4", "b read ->x 5 6"],
    want: "violation",
  },
  {
    name: "an unknown write is not there before it was asked for",
    ops: ["b read ->x 0 1", "a write x 2 ?"],
    want: "violation",
  },
  {
    name: "overlapping writes settle in one order for all",
    ops: ["a write x 0 9", "b write y 0 9", "c read ->x 10 11", "d read ->y 12 13"],
    want: "violation",
  },
  {
    name: "overlapping writes seen one after the other",
    ops: ["a write x 0 9", "b write y 0 9", "c read ->x 5 6", "d read ->y 12 13"],
    want: "linearizable",
  },
  {
    name: "compare and set on what is there",
    ops: ["a write x 0 1", "b cas x>y true 2 3", "a read ->y 4 5"],
    want: "linearizable",
  },
  {
    name: "two of one compare and set",
    ops: ["a write x 0 1", "b cas x>y true 2 5", "c cas x>z true 2 5"],
    want: "violation",
  },
  { name: "a refusal without a reason", ops: ["a write x 0 1", "b cas x>y false 2 3"], want: "violation" },
  {
    name: "a refusal that an unknown write explains",
    ops: ["a write x 0 1", "c write w 1 ?", "b cas x>y false 2 3"],
    want: "linearizable",
  },
  {
    name: "an unknown compare and set may have worked",
    ops: ["a write x 0 1", "b cas x>y ? 2 ?", "a read ->y 4 5"],
    want: "linearizable",
  },
  { name: "an unknown read says nothing", ops: ["a write x 0 1", "b read ->zz 2 ?"], want: "linearizable" },
] as const;

for (const { name, ops, want } of registers) {
  t.test(`register: ${name}`, (t) => {
    t.equal(checkRegisters(ops.map(parseRegister)).kind, want);
    t.equal(checkRegisters(ops.map(parseRegister).toReversed()).kind, want, "in any order of listing");
    t.end();
  });
}

const lists = [
  {
    name: "appends are read in order",
    ops: ["a append 1 0 1", "b append 2 2 3", "c read ->1,2 4 5"],
    want: "linearizable",
  },
  {
    name: "an acknowledged append is missing",
    ops: ["a append 1 0 1", "b append 2 2 3", "c read ->2 4 5"],
    want: "violation",
  },
  {
    name: "the newest is missing",
    ops: ["a append 1 0 1", "b append 2 2 3", "c read ->1 4 5"],
    want: "violation",
  },
  {
    name: "order against time",
    ops: ["a append 1 0 1", "b append 2 2 3", "c read ->2,1 4 5"],
    want: "violation",
  },
  {
    name: "overlapping appends, either order",
    ops: ["a append 1 0 9", "b append 2 0 9", "c read ->2,1 10 11"],
    want: "linearizable",
  },
  {
    name: "two reads disagree on the order",
    ops: ["a append 1 0 9", "b append 2 0 9", "c read ->2,1 10 11", "c read ->1,2 12 13"],
    want: "violation",
  },
  { name: "a value twice", ops: ["a append 1 0 1", "c read ->1,1 4 5"], want: "violation" },
  { name: "a value from nowhere", ops: ["a append 1 0 1", "c read ->1,7 4 5"], want: "violation" },
  {
    name: "a later read is shorter",
    ops: ["a append 1 0 ?", "c read ->1 4 5", "c read -> 6 7"],
    want: "violation",
  },
  {
    name: "an unknown append comes late",
    ops: ["a append 1 0 ?", "b append 2 2 3", "c read ->2 4 5", "c read ->2,1 6 7"],
    want: "linearizable",
  },
  {
    name: "an unknown append never comes",
    ops: ["a append 1 0 ?", "b append 2 2 3", "c read ->2 4 5"],
    want: "linearizable",
  },
  { name: "nobody reads", ops: ["a append 1 0 1", "b append 2 0 1"], want: "linearizable" },
  {
    name: "acknowledged after the last read",
    ops: ["a append 1 0 1", "c read ->1 2 3", "b append 2 4 5"],
    want: "linearizable",
  },
  {
    name: "read before the append returned",
    ops: ["a append 1 0 9", "c read ->1 2 3", "c read ->1 4 5"],
    want: "linearizable",
  },
  {
    name: "read before the append was asked for",
    ops: ["c read ->1 2 3", "a append 1 4 9"],
    want: "violation",
  },
] as const;

for (const { name, ops, want } of lists) {
  t.test(`list: ${name}`, (t) => {
    t.equal(checkLists(ops.map(parseList)).kind, want);
    t.end();
  });
}

t.test("keys are independent, and the verdict names the one that is wrong", (t) => {
  const good = parseRegister("a write x 0 1");
  const bad = { ...parseRegister("b read ->q 2 3"), key: "other" };
  const verdict = checkRegisters([good, bad]);
  t.match(verdict, { kind: "violation", key: "other" });
  t.match(verdict.kind === "violation" ? verdict.text : "", /b: read other -> "q" \[2\.\.3\]/);
  t.end();
});

t.test("the search is given up at its limit, and says so", (t) => {
  const writes = Array.from({ length: 14 }, (_, index) => parseRegister(`p${index} write v${index} 0 9`));
  const verdict = checkRegisters([...writes, parseRegister("r read ->nowhere 10 11")], { maxSteps: 1000 });
  t.match(verdict, { kind: "undecided", steps: 1000 });
  t.end();
});

t.test("an operation that returns before it was asked for is no history", (t) => {
  t.throws(() => checkRegisters([parseRegister("a write x 5 1")]), RangeError);
  t.end();
});

t.test("whatever a real register or list did is accepted, whatever is left unknown", (t) => {
  fc.assert(
    fc.property(fc.infiniteStream(fc.nat({ max: 9 })), (choices) => {
      const { registers, lists } = run(choices);
      return checkRegisters(registers).kind === "linearizable" && checkLists(lists).kind === "linearizable";
    }),
    { numRuns: 300 },
  );
  t.end();
});

t.test("the search agrees with trying every order", (t) => {
  const op = fc.record({
    kind: fc.constantFrom("write", "read"),
    value: fc.constantFrom("x", "y", nothing),
    invoked: fc.nat({ max: 8 }),
    takes: fc.option(fc.nat({ max: 4 }), { freq: 4 }),
  });
  let violations = 0;
  fc.assert(
    fc.property(fc.array(op, { maxLength: 6 }), (drawn) => {
      const history = drawn.map(({ kind, value, invoked, takes }, index): RegisterOperation => {
        const timed = timing(`p${index}`, invoked, takes === null ? undefined : invoked + takes);
        return kind === "write"
          ? { ...timed, kind, input: value === nothing ? "z" : value }
          : { ...timed, kind: "read", output: value };
      });
      const expected = tryEveryOrder(history);
      if (!expected) violations += 1;
      return (checkRegisters(history).kind === "linearizable") === expected;
    }),
    { numRuns: 2000 },
  );
  t.ok(violations > 200, "the histories were not all of the easy kind");
  t.end();
});

/** Histories of clients that overlap, with the object doing each operation at one moment within. */
function run(choices: Iterable<number>): { registers: RegisterOperation[]; lists: ListOperation[] } {
  const source = choices[Symbol.iterator]();
  const draw = (): number => source.next().value ?? 0;
  const registers: RegisterOperation[] = [];
  const lists: ListOperation[] = [];
  const list: string[] = [];
  let register: string = nothing;
  for (let moment = 1; moment <= 40; moment += 1) {
    const unknown = draw() === 0;
    const timed = timing(
      `p${moment}`,
      moment * 10 - draw() * 6,
      unknown ? undefined : moment * 10 + draw() * 6,
    );
    const takesEffect = !unknown || draw() < 5;
    const value = `v${moment}`;
    switch (draw() % 4) {
      case 0:
        registers.push({ ...timed, kind: "write", input: value });
        if (takesEffect) register = value;
        break;
      case 1:
        registers.push({ ...timed, kind: "read", output: register });
        break;
      case 2:
        lists.push({ ...timed, kind: "append", input: value });
        if (takesEffect) list.push(value);
        break;
      default:
        lists.push({ ...timed, kind: "read", output: [...list] });
    }
  }
  return { registers, lists };
}

function tryEveryOrder(history: readonly RegisterOperation[]): boolean {
  const go = (state: string, left: readonly RegisterOperation[]): boolean => {
    if (left.every(({ returned }) => returned === undefined)) return true;
    return left.some((op) => {
      if (left.some((other) => (other.returned ?? Infinity) < op.invoked)) return false;
      const rest = left.filter((other) => other !== op);
      if (op.kind === "write") return go(op.input, rest);
      return op.returned === undefined || op.output === state ? go(state, rest) : false;
    });
  };
  return go(nothing, history);
}

function parseRegister(line: string): RegisterOperation {
  const words = line.split(" ");
  const [process = "", kind = "", value = ""] = words;
  const timed = timing(process, Number(words.at(-2)), parseMoment(words.at(-1)));
  switch (kind) {
    case "write":
      return { ...timed, kind, input: value };
    case "read":
      return { ...timed, kind, output: value.slice("->".length) };
    default: {
      const [expected = "", wanted = ""] = value.split(">");
      return {
        ...timed,
        kind: "compare-and-set",
        input: { expected, value: wanted },
        output: words[3] === "?" ? undefined : words[3] === "true",
      };
    }
  }
}

function parseList(line: string): ListOperation {
  const [process = "", kind = "", value = "", invoked, returned] = line.split(" ");
  const timed = timing(process, Number(invoked), parseMoment(returned));
  if (kind === "append") return { ...timed, kind, input: value };
  const text = value.slice("->".length);
  return { ...timed, kind: "read", output: text === "" ? [] : text.split(",") };
}

function parseMoment(text: string | undefined): number | undefined {
  return text === "?" ? undefined : Number(text);
}

function timing(process: string, invoked: number, returned: number | undefined): Timed {
  return { process, key: "k", invoked, returned };
}
