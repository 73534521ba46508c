import type { Configuration, Entry, MemberId } from "./message.ts";
import { membersOf } from "./quorum.ts";

/**
 * What can be asked of the membership; only one change may be uncommitted at a time (thesis §4.1).
 *
 * All but `reconfigure` move at most one voter, so that any two majorities before and after share a member (§4.2).
 * `reconfigure` goes from any set to any set through a joint configuration (§4.3): it is entered by this change, and
 * left by the leader once it is committed (`auto`) or by a `leave` change (`explicit`).
 */
export type ConfChange =
  | { readonly kind: "add-voter"; readonly id: MemberId; readonly context: string }
  | { readonly kind: "add-learner"; readonly id: MemberId; readonly context: string }
  /** A learner becomes a voter. */
  | { readonly kind: "promote"; readonly id: MemberId }
  /** A voter becomes a learner. */
  | { readonly kind: "demote"; readonly id: MemberId }
  | { readonly kind: "remove"; readonly id: MemberId }
  | { readonly kind: "update"; readonly id: MemberId; readonly context: string }
  | Reconfiguration
  | { readonly kind: "leave" };

export interface Reconfiguration {
  readonly kind: "reconfigure";
  /** Everyone who shall vote. */
  readonly voters: readonly MemberId[];
  /** Everyone who shall learn; whoever is in neither list leaves the group. */
  readonly learners: readonly MemberId[];
  /** Of members that are new, or whose context changes; the others keep theirs, and who has none gets an empty one. */
  readonly contexts: Readonly<Record<MemberId, string>>;
  readonly leave: "auto" | "explicit";
}

export type ConfChangeResult =
  | { readonly kind: "changed"; readonly configuration: Configuration }
  | { readonly kind: "refused"; readonly text: string };

/** How many departed members a configuration remembers, the latest. */
export const maxDepartedCount = 64;

/** The configuration after `change`, or why that is not possible. */
export function changeConfiguration(configuration: Configuration, change: ConfChange): ConfChangeResult {
  const isJoint = configuration.outgoing.length > 0;
  switch (change.kind) {
    case "leave":
      if (!isJoint) return refused("the group is in no joint configuration");
      return { kind: "changed", configuration: leaveJoint(configuration) };
    case "reconfigure":
      return isJoint ? jointRefusal() : reconfigure(configuration, change);
    case "add-voter":
    case "add-learner":
    case "promote":
    case "demote":
    case "remove":
    case "update":
      return isJoint ? jointRefusal() : changeOne(configuration, change);
  }
}

type SingleChange = Exclude<ConfChange, { kind: "reconfigure" | "leave" }>;

function changeOne(configuration: Configuration, change: SingleChange): ConfChangeResult {
  const { voters, learners, contexts } = configuration;
  const { id } = change;
  const without = (ids: readonly MemberId[]): readonly MemberId[] => ids.filter((other) => other !== id);
  const isKnown = voters.includes(id) || learners.includes(id);
  switch (change.kind) {
    case "add-voter":
    case "add-learner":
      if (isKnown) return refused(`member ${id} is there already`);
      if (isDeparted(configuration, id)) return refused(departedText(id));
      return changed({
        ...(change.kind === "add-voter" ? { voters: [...voters, id] } : { learners: [...learners, id] }),
        contexts: { ...contexts, [id]: change.context },
      });
    case "promote":
      if (!learners.includes(id)) return refused(`member ${id} is not a learner`);
      return changed({ voters: [...voters, id], learners: without(learners) });
    case "demote":
      if (!voters.includes(id)) return refused(`member ${id} is not a voter`);
      if (voters.length === 1) return refused(`member ${id} is the last voter and cannot become a learner`);
      return changed({ voters: without(voters), learners: [...learners, id] });
    case "remove":
      if (!isKnown) return refused(`member ${id} is not in the group`);
      if (voters.length === 1 && voters[0] === id) {
        return refused(`member ${id} is the last voter and cannot be removed`);
      }
      return { kind: "changed", configuration: settle(configuration, without(voters), without(learners)) };
    case "update":
      if (!isKnown) return refused(`member ${id} is not in the group`);
      return changed({ contexts: { ...contexts, [id]: change.context } });
  }

  function changed(parts: Partial<Configuration>): ConfChangeResult {
    return { kind: "changed", configuration: { ...configuration, ...parts } };
  }
}

function reconfigure(configuration: Configuration, target: Reconfiguration): ConfChangeResult {
  const { voters, learners } = target;
  if (voters.length === 0) return refused("a group needs at least one voter");
  const named = new Set([...voters, ...learners]);
  if (named.size < voters.length + learners.length) {
    return refused("a member is named twice among the voters and learners");
  }
  const departed = [...named].find((id) => isDeparted(configuration, id));
  if (departed !== undefined) return refused(departedText(departed));
  const contexts = { ...configuration.contexts };
  for (const id of named) contexts[id] = target.contexts[id] ?? contexts[id] ?? "";
  const before = { ...configuration, contexts };
  if (isSameSet(voters, configuration.voters)) {
    // Only learners change: no majority does.
    return { kind: "changed", configuration: settle(before, configuration.voters, learners) };
  }
  const outgoing = configuration.voters;
  const leaving = configuration.learners.filter((id) => !named.has(id));
  const joint: Configuration = {
    ...withoutMembers(before, leaving),
    voters,
    outgoing,
    learners: learners.filter((id) => !outgoing.includes(id)),
    learnersNext: learners.filter((id) => outgoing.includes(id)),
    leave: target.leave,
  };
  return { kind: "changed", configuration: joint };
}

function leaveJoint(joint: Configuration): Configuration {
  return settle(joint, joint.voters, [...joint.learners, ...(joint.learnersNext ?? [])]);
}

/** The plain configuration with these members; the others have left for good. */
function settle(
  before: Configuration,
  voters: readonly MemberId[],
  learners: readonly MemberId[],
): Configuration {
  const leaving = [...membersOf(before)].filter((id) => !voters.includes(id) && !learners.includes(id));
  const { contexts, departed } = withoutMembers(before, leaving);
  return { voters, outgoing: [], learners, contexts, ...(departed === undefined ? {} : { departed }) };
}

function withoutMembers(configuration: Configuration, leaving: readonly MemberId[]): Configuration {
  if (leaving.length === 0) return configuration;
  const contexts = Object.entries(configuration.contexts).filter(([id]) => !leaving.includes(id));
  const departed = [...(configuration.departed ?? []), ...leaving].slice(-maxDepartedCount);
  return { ...configuration, contexts: Object.fromEntries(contexts), departed };
}

function isDeparted({ departed }: Configuration, id: MemberId): boolean {
  return departed?.includes(id) ?? false;
}

function departedText(id: MemberId): string {
  return `member ${id} has left the group; ids are never used again, so it must come back under a new one`;
}

function isSameSet(one: readonly MemberId[], other: readonly MemberId[]): boolean {
  return one.length === other.length && one.every((id) => other.includes(id));
}

function jointRefusal(): ConfChangeResult {
  return refused("the group is between two configurations; it has to leave the joint one first");
}

function refused(text: string): ConfChangeResult {
  return { kind: "refused", text };
}

/** Payload of a `config` entry: the whole configuration, so that any one entry is enough to know it. */
export function encodeConfiguration(configuration: Configuration): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(configuration));
}

/** @throws {Error} when the payload is not what {@link encodeConfiguration} makes. */
export function decodeConfiguration(data: Uint8Array): Configuration {
  const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  if (!isConfiguration(value)) throw new Error("configuration entry: unexpected shape");
  return value;
}

function isConfiguration(value: unknown): value is Configuration {
  if (typeof value !== "object" || value === null) return false;
  const parts = value as Partial<Record<keyof Configuration, unknown>>;
  const { contexts, leave } = parts;
  return (
    [parts.voters, parts.outgoing, parts.learners].every(isIdList) &&
    [parts.learnersNext, parts.departed].every((ids) => ids === undefined || isIdList(ids)) &&
    (leave === undefined || leave === "auto" || leave === "explicit") &&
    typeof contexts === "object" &&
    contexts !== null &&
    Object.values(contexts).every((context) => typeof context === "string")
  );
}

function isIdList(value: unknown): value is readonly MemberId[] {
  return Array.isArray(value) && value.every((id) => typeof id === "string");
}

/** First entry of a new group: its founding members. Persist it with term 1 and commit 1 before the first start. */
export function bootstrapEntry(configuration: Configuration): Entry {
  return { term: 1, index: 1, kind: "config", data: encodeConfiguration(configuration) };
}
