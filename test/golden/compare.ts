/** Where two recorded sets of answers differ. Pure. */
import type { Recorded } from "./ask.ts";

export interface Difference {
  readonly call: string;
  /** Such as "status", "err" or "body.State.Pid". */
  readonly at: string;
  /** As JSON; "nothing" where it is absent. */
  readonly docker: string;
  readonly ours: string;
}

/** A difference that is meant, or that says nothing: every difference at such a place of such a call. */
export interface Expected {
  readonly call: RegExp;
  readonly at: RegExp;
  /** Why; a row of docs/engine-api.md says it to users. */
  readonly why: string;
  /** It is there at times only: on a host of another kernel than the record was made on, or by the pace of one. */
  readonly isHostsOwn?: true;
}

export function compare(docker: readonly Recorded[], ours: readonly Recorded[]): Difference[] {
  const said = new Map(ours.map(({ call, answer }) => [call, answer]));
  return docker.flatMap(({ call, answer }) =>
    differences(answer, said.get(call), "").map((difference) => ({ call, ...difference })),
  );
}

/** @returns Those that nobody expected, and expectations that met no difference. */
export function judge(
  found: readonly Difference[],
  expected: readonly Expected[],
): { readonly unexpected: Difference[]; readonly idle: Expected[] } {
  const isMet = new Set<Expected>();
  const unexpected = found.filter((difference) => {
    const meets = expected.filter(({ call, at }) => call.test(difference.call) && at.test(difference.at));
    for (const each of meets) isMet.add(each);
    return meets.length === 0;
  });
  return { unexpected, idle: expected.filter((each) => each.isHostsOwn !== true && !isMet.has(each)) };
}

export function printDifference({ call, at, docker, ours }: Difference): string {
  return `${call}\n  ${at}\n    docker: ${docker}\n    ours:   ${ours}`;
}

type Place = Omit<Difference, "call">;

function differences(docker: unknown, ours: unknown, at: string): Place[] {
  if (Object.is(docker, ours)) return [];
  if (!isObject(docker) || !isObject(ours) || Array.isArray(docker) !== Array.isArray(ours)) {
    return [{ at, docker: print(docker), ours: print(ours) }];
  }
  const keys = new Set([...Object.keys(docker), ...Object.keys(ours)]);
  return [...keys].flatMap((key) => differences(docker[key], ours[key], at === "" ? key : `${at}.${key}`));
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

function print(value: unknown): string {
  return JSON.stringify(value) ?? "nothing";
}
