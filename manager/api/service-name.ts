/** A name for a service that came without one. */
import { assert } from "../../model/errors.ts";
import type { Random } from "../../runtime/random.ts";

const adjectives = [
  "amber",
  "bold",
  "brisk",
  "calm",
  "clever",
  "coral",
  "deep",
  "eager",
  "fleet",
  "gentle",
  "glad",
  "grand",
  "keen",
  "lively",
  "lucid",
  "mellow",
  "nimble",
  "polished",
  "quick",
  "quiet",
  "silver",
  "steady",
  "swift",
  "vivid",
];
/** People who made computing and networks what they are. */
const surnames = [
  "allen",
  "babbage",
  "baran",
  "bartik",
  "cerf",
  "codd",
  "dijkstra",
  "engelbart",
  "floyd",
  "hamilton",
  "hoare",
  "hopper",
  "kahn",
  "knuth",
  "lamport",
  "liskov",
  "lovelace",
  "milner",
  "perlman",
  "ritchie",
  "shannon",
  "sinclair",
  "thompson",
  "turing",
  "wirth",
  "zuse",
];
const attempts = 1_000;

/** `adjective_surname`, with a number once the plain ones run out. */
export function freeServiceName(random: Random, isFree: (name: string) => boolean): string {
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const plain = `${pick(random, adjectives)}_${pick(random, surnames)}`;
    const name = attempt < 20 ? plain : `${plain}${random.integer(1_000_000)}`;
    if (isFree(name)) return name;
  }
  throw new Error("assertion failed: no free service name among a billion");
}

function pick(random: Random, words: readonly string[]): string {
  const word = words[random.integer(words.length)];
  assert(word !== undefined, "a random index is within its list");
  return word;
}
