/**
 * Whether a history of concurrent operations can be explained by one order in which each took effect at one moment
 * between its invocation and its return (Herlihy and Wing, 1990).
 *
 * The format of a history, in any order:
 *
 * - `process`: who asked; only for messages.
 * - `key`: which register or list; keys are independent of each other and are checked one by one.
 * - `invoked`, `returned`: moments of one clock, in any unit. One operation precedes another when its `returned` is
 *   less than the other's `invoked`; at equal moments they overlap.
 * - `returned: undefined` means that the outcome is unknown (a time-out, a lost connection, a leader that was lost while
 *   it was asked): the operation may have taken effect at any moment after `invoked`, or never. Its `output` is not
 *   looked at.
 * - An operation that certainly did not take place (refused before anything was done) is left out.
 *
 * Each written or appended value is unique within its key; a register begins with {@link nothing}, a list empty.
 */
export interface Timed {
  readonly process: string;
  readonly key: string;
  readonly invoked: number;
  readonly returned: number | undefined;
}

/** What a register holds before the first write. */
export const nothing = "";

export type RegisterOperation = Timed &
  (
    | { readonly kind: "write"; readonly input: string; readonly output?: undefined }
    | { readonly kind: "read"; readonly input?: undefined; readonly output: string | undefined }
    /** Writes `value` if the register holds `expected`; the output says whether it did. */
    | {
        readonly kind: "compare-and-set";
        readonly input: { readonly expected: string; readonly value: string };
        readonly output: boolean | undefined;
      }
  );

export type ListOperation = Timed &
  (
    | { readonly kind: "append"; readonly input: string; readonly output?: undefined }
    | { readonly kind: "read"; readonly input?: undefined; readonly output: readonly string[] | undefined }
  );

export type Verdict =
  | { readonly kind: "linearizable" }
  /** `text` names the operations that no order explains. */
  | { readonly kind: "violation"; readonly key: string; readonly text: string }
  /** The search was given up at its limit. */
  | { readonly kind: "undecided"; readonly key: string; readonly steps: number };

export interface SearchLimits {
  /** Operations tried per key before the search gives up. Default 2,000,000. */
  readonly maxSteps?: number;
}

const defaultMaxSteps = 2_000_000;

/** A sequential object: what an operation does to a state, or that it is not possible there. */
export interface Model<State, Op> {
  readonly initial: State;
  /** The state after `op`; undefined when `op`, with the output it had, cannot happen in `state`. */
  step(state: State, op: Op): State | undefined;
  /** Equal for equal states. */
  fingerprint(state: State): string | number;
}

export function checkRegisters(history: readonly RegisterOperation[], limits: SearchLimits = {}): Verdict {
  return checkEachKey(history, (operations) => {
    const model: Model<string, RegisterOperation> = {
      initial: nothing,
      step: stepRegister,
      fingerprint: (state) => state,
    };
    return search(model, operations.filter(unseenWritesOmitted(operations)), limits);
  });
}

export function checkLists(history: readonly ListOperation[], limits: SearchLimits = {}): Verdict {
  return checkEachKey(history, (operations) => {
    const problem = inconsistentReads(operations);
    if (problem !== undefined) return { kind: "violation", text: problem };
    const longest = longestRead(operations);
    const seen = new Map(longest.map((value, index) => [value, index]));
    const relevant = operations.filter((op) =>
      op.kind === "append" ? op.returned !== undefined || seen.has(op.input) : op.returned !== undefined,
    );
    return search(listModel(longest, seen), relevant, limits);
  });
}

function stepRegister(state: string, op: RegisterOperation): string | undefined {
  switch (op.kind) {
    case "write":
      return op.input;
    case "read":
      return op.output === state ? state : undefined;
    case "compare-and-set": {
      const holds = state === op.input.expected;
      if (op.returned !== undefined && op.output !== holds) return undefined;
      return holds ? op.input.value : state;
    }
  }
}

/**
 * Reads of unknown outcome say nothing. Nor do writes of unknown outcome that nobody saw, if only reads look: whoever
 * finds an order with such a write in it has one without.
 */
function unseenWritesOmitted(operations: readonly RegisterOperation[]): (op: RegisterOperation) => boolean {
  const compared = operations.some(({ kind }) => kind === "compare-and-set");
  const seen = new Set(
    operations.flatMap((op) => (op.kind === "read" && op.returned !== undefined ? [op.output] : [])),
  );
  return (op) =>
    op.returned !== undefined || (op.kind !== "read" && (compared || seen.has(op.input as string)));
}

/**
 * All reads must be prefixes of the longest one, so a state is how much of the longest is there; one more stands for
 * everything beyond it, which nobody has seen.
 */
function listModel(
  longest: readonly string[],
  seen: ReadonlyMap<string, number>,
): Model<number, ListOperation> {
  return {
    initial: 0,
    step(state, op) {
      if (op.kind === "read") return op.output?.length === state ? state : undefined;
      const place = seen.get(op.input);
      if (place === undefined) return state >= longest.length ? longest.length + 1 : undefined;
      return place === state ? state + 1 : undefined;
    },
    fingerprint: (state) => state,
  };
}

function longestRead(operations: readonly ListOperation[]): readonly string[] {
  let longest: readonly string[] = [];
  for (const op of operations) {
    if (op.kind === "read" && op.returned !== undefined && (op.output?.length ?? 0) > longest.length) {
      longest = op.output ?? [];
    }
  }
  return longest;
}

/** What is wrong with the reads whatever their times; undefined when nothing is. */
function inconsistentReads(operations: readonly ListOperation[]): string | undefined {
  const longest = longestRead(operations);
  const appended = new Set(operations.flatMap((op) => (op.kind === "append" ? [op.input] : [])));
  for (const [index, value] of longest.entries()) {
    if (longest.indexOf(value) !== index) return `${value} stands twice in [${longest.join(" ")}]`;
    if (!appended.has(value)) return `${value} was read and never appended`;
  }
  for (const op of operations) {
    if (op.kind !== "read" || op.returned === undefined) continue;
    const output = op.output ?? [];
    if (output.some((value, index) => value !== longest[index])) {
      return `two reads disagree: [${output.join(" ")}] and [${longest.join(" ")}]`;
    }
  }
  return undefined;
}

type KeyVerdict =
  | { readonly kind: "linearizable" }
  | { readonly kind: "violation"; readonly text: string }
  | { readonly kind: "undecided"; readonly steps: number };

function checkEachKey<Op extends Timed>(
  history: readonly Op[],
  check: (operations: readonly Op[]) => KeyVerdict,
): Verdict {
  const byKey = new Map<string, Op[]>();
  for (const op of history) {
    if (op.returned !== undefined && op.returned < op.invoked) {
      throw new RangeError(`history: ${describe(op)} returned before it was invoked`);
    }
    const known = byKey.get(op.key);
    if (known === undefined) byKey.set(op.key, [op]);
    else known.push(op);
  }
  let undecided: Verdict | undefined;
  for (const [key, operations] of byKey) {
    const verdict = check(operations);
    if (verdict.kind === "violation") return { ...verdict, key };
    if (verdict.kind === "undecided") undecided ??= { ...verdict, key };
  }
  return undecided ?? { kind: "linearizable" };
}

/** One end of an operation, in a list ordered by time from which chosen operations are taken out. */
interface End {
  readonly op: number;
  readonly edge: "invoke" | "return";
  previous: End;
  next: End;
}

/**
 * Wing and Gong's search (1993) with Lowe's memory (2017): takes the operations one after another that may come next,
 * goes back where none fits, and never enters the same state with the same operations done twice.
 */
export function search<State, Op extends Timed>(
  model: Model<State, Op>,
  operations: readonly Op[],
  { maxSteps = defaultMaxSteps }: SearchLimits = {},
): KeyVerdict {
  const { head, invocations, returns } = linkEnds(operations);
  const done = new DoneSet(operations.length);
  const visited = new Set<string>();
  const path: { readonly end: End; readonly before: State }[] = [];
  let state = model.initial;
  let left = operations.filter(({ returned }) => returned !== undefined).length;
  let deepest: { readonly path: readonly number[]; readonly stuck: number } | undefined;
  let steps = 0;
  let at = head.next;
  while (left > 0) {
    const op = at === head ? undefined : operations[at.op];
    if (op !== undefined && at.edge === "invoke") {
      steps += 1;
      if (steps > maxSteps) return { kind: "undecided", steps: maxSteps };
      const after = model.step(state, op);
      if (after !== undefined) {
        done.add(at.op);
        const key = `${done.key()}|${model.fingerprint(after)}`;
        if (!visited.has(key)) {
          visited.add(key);
          path.push({ end: at, before: state });
          state = after;
          takeOut(at, returns[at.op]);
          if (op.returned !== undefined) left -= 1;
          at = head.next;
          continue;
        }
        done.delete(at.op);
      }
      at = at.next;
      continue;
    }
    // An operation that has returned must have been chosen by now: go back.
    if (deepest === undefined || path.length > deepest.path.length) {
      deepest = { path: path.map(({ end }) => end.op), stuck: at.op };
    }
    const last = path.pop();
    if (last === undefined) return { kind: "violation", text: explain(operations, deepest) };
    state = last.before;
    done.delete(last.end.op);
    putBack(last.end, returns[last.end.op]);
    if (operations[last.end.op]?.returned !== undefined) left += 1;
    at = (invocations[last.end.op] ?? head).next;
  }
  return { kind: "linearizable" };
}

function linkEnds(operations: readonly Timed[]): {
  readonly head: End;
  readonly invocations: readonly End[];
  /** Undefined for an unknown outcome, which never has to have happened. */
  readonly returns: readonly (End | undefined)[];
} {
  const head = makeEnd(-1, "return");
  const invocations = operations.map((_, op) => makeEnd(op, "invoke"));
  const returns = operations.map(({ returned }, op) =>
    returned === undefined ? undefined : makeEnd(op, "return"),
  );
  const ends = [...invocations, ...returns].filter((end) => end !== undefined);
  const momentOf = ({ op, edge }: End): number =>
    (edge === "invoke" ? operations[op]?.invoked : operations[op]?.returned) ?? 0;
  // At one moment invocations come first, so that such operations overlap.
  ends.sort((a, b) => momentOf(a) - momentOf(b) || edgeOrder(a) - edgeOrder(b) || a.op - b.op);
  let last = head;
  for (const end of ends) {
    last.next = end;
    end.previous = last;
    last = end;
  }
  last.next = head;
  head.previous = last;
  return { head, invocations, returns };
}

function makeEnd(op: number, edge: End["edge"]): End {
  const end: { op: number; edge: End["edge"]; previous?: End; next?: End } = { op, edge };
  end.previous = end as End; // Closed upon itself until it is linked.
  end.next = end as End;
  return end as End;
}

function edgeOrder({ edge }: End): number {
  return edge === "invoke" ? 0 : 1;
}

function takeOut(...ends: readonly (End | undefined)[]): void {
  for (const end of ends) {
    if (end === undefined) continue;
    end.previous.next = end.next;
    end.next.previous = end.previous;
  }
}

/** The reverse of {@link takeOut}, in reverse order. */
function putBack(invocation: End, returned: End | undefined): void {
  for (const end of [returned, invocation]) {
    if (end === undefined) continue;
    end.previous.next = end;
    end.next.previous = end;
  }
}

/** Which operations have been chosen, with a short key: nearly all before the first gap have. */
class DoneSet {
  readonly #words: Int32Array;

  constructor(size: number) {
    this.#words = new Int32Array(Math.ceil(size / 32));
  }

  add(op: number): void {
    this.#words[op >>> 5] = (this.#words[op >>> 5] ?? 0) | (1 << (op & 31));
  }

  delete(op: number): void {
    this.#words[op >>> 5] = (this.#words[op >>> 5] ?? 0) & ~(1 << (op & 31));
  }

  key(): string {
    const words = this.#words;
    let from = 0;
    let to = words.length;
    while (from < to && words[from] === -1) from += 1;
    while (to > from && words[to - 1] === 0) to -= 1;
    let key = `${from}`;
    for (let at = from; at < to; at += 1) key += `,${words[at]}`;
    return key;
  }
}

const shownOperations = 8;

function explain(
  operations: readonly Timed[],
  deepest: { readonly path: readonly number[]; readonly stuck: number },
): string {
  const name = (op: number): string => describe(operations[op]);
  const before = deepest.path.slice(-shownOperations).map(name);
  return `no order explains ${name(deepest.stuck)}; the longest one found ends with ${before.join(", ") || "nothing"}`;
}

function describe(
  op: (Timed & { readonly kind?: string; readonly input?: unknown; readonly output?: unknown }) | undefined,
): string {
  if (op === undefined) return "?";
  const { process, key, kind = "operation", input, output, invoked, returned } = op;
  const asked = input === undefined ? "" : ` ${JSON.stringify(input)}`;
  const answer =
    returned === undefined ? " -> ?" : output === undefined ? "" : ` -> ${JSON.stringify(output)}`;
  return `${process}: ${kind} ${key}${asked}${answer} [${invoked}..${returned ?? "unknown"}]`;
}
