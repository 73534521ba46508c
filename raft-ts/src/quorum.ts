import type { Configuration, MemberId } from "./message.ts";

/** `pending` while the votes that are missing could still decide either way. */
export type VoteResult = "won" | "lost" | "pending";

/**
 * Highest value that a majority has reached: the commit index when `valueOf` gives match indexes, the
 * confirmed round when it gives acknowledged read rounds. Joint configurations need both majorities.
 *
 * @param valueOf - What is known of a member; 0 when nothing is.
 * @returns 0 for a configuration without voters: nothing is ever decided by nobody.
 */
export function reachedByQuorum(configuration: Configuration, valueOf: (id: MemberId) => number): number {
  const incoming = reachedByMajority(configuration.voters, valueOf);
  if (configuration.outgoing.length === 0) return incoming;
  return Math.min(incoming, reachedByMajority(configuration.outgoing, valueOf));
}

/**
 * Outcome of an election so far.
 *
 * @param voteOf - `true` granted, `false` refused, `undefined` not heard from.
 */
export function voteResult(
  configuration: Configuration,
  voteOf: (id: MemberId) => boolean | undefined,
): VoteResult {
  const incoming = majorityVote(configuration.voters, voteOf);
  if (configuration.outgoing.length === 0) return incoming;
  const outgoing = majorityVote(configuration.outgoing, voteOf);
  if (incoming === "lost" || outgoing === "lost") return "lost";
  return incoming === "won" && outgoing === "won" ? "won" : "pending";
}

/** Members whose say counts, each once. */
export function votersOf(configuration: Configuration): ReadonlySet<MemberId> {
  return new Set([...configuration.voters, ...configuration.outgoing]);
}

/** Everyone who receives the log, each once. */
export function membersOf(configuration: Configuration): ReadonlySet<MemberId> {
  return new Set([...configuration.voters, ...configuration.outgoing, ...configuration.learners]);
}

function reachedByMajority(voters: readonly MemberId[], valueOf: (id: MemberId) => number): number {
  if (voters.length === 0) return 0;
  const values = voters.map(valueOf).toSorted((a, b) => b - a);
  return values[majority(voters.length) - 1] ?? 0;
}

function majorityVote(
  voters: readonly MemberId[],
  voteOf: (id: MemberId) => boolean | undefined,
): VoteResult {
  if (voters.length === 0) return "lost";
  const votes = voters.map(voteOf);
  const needed = majority(voters.length);
  if (votes.filter((vote) => vote === true).length >= needed) return "won";
  return votes.filter((vote) => vote !== false).length >= needed ? "pending" : "lost";
}

function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}
