import { encodeConfiguration, maxDepartedCount } from "./confchange.ts";
import { ConfigurationHistory } from "./history.ts";
import type { Configuration, Entry, HardState, MemberId } from "./message.ts";
import { membersOf } from "./quorum.ts";
import type { Storage } from "./storage.ts";

/**
 * The way out for a group that has lost its majority for good: what to append, durably and before the member starts, so that
 * `id` decides alone. Everything in its log counts from then on, also what was not known to be committed, since it may have
 * been; all others have left for good, and are told so should they ever come back.
 *
 * No rule makes this safe: what only the others held is lost, and where a majority of them lives on there are two groups.
 *
 * @param member - Its id, and the context that the configuration is to hold for it.
 * @returns undefined when the log is empty, or says that this member itself has left the group.
 */
export function forceSoleVoter(
  storage: Storage,
  { id, context }: { readonly id: MemberId; readonly context: string },
): { readonly hardState: HardState; readonly entries: readonly Entry[] } | undefined {
  if (storage.lastIndex() === 0) return undefined;
  const { commit, term: knownTerm } = storage.initialState();
  const history = new ConfigurationHistory(storage.snapshot());
  history.appended(storage.entries(storage.firstIndex(), storage.lastIndex() + 1, Number.MAX_SAFE_INTEGER));
  const known = [history.at(commit), history.latest];
  const departed = new Set(known.flatMap((configuration) => configuration.departed ?? []));
  if (departed.has(id)) return undefined;
  for (const configuration of known) for (const other of membersOf(configuration)) departed.add(other);
  departed.delete(id);
  const configuration: Configuration = {
    voters: [id],
    outgoing: [],
    learners: [],
    contexts: { [id]: context },
    departed: [...departed].slice(-maxDepartedCount),
  };
  // A term of its own: no other leader's entry can have this place in it.
  const term = knownTerm + 1;
  const index = storage.lastIndex() + 1;
  const data = encodeConfiguration(configuration);
  return { hardState: { term, vote: id, commit }, entries: [{ term, index, kind: "config", data }] };
}
