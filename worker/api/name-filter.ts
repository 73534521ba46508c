/** Filters by name, which are regular expressions with Docker. Pure. */

/** Go's expressions take time in proportion to the text; ours do as long as few of their parts are repeated. */
const repetitionsMost = 3;
const repeated = /[*+]|\{\d/g;
const repeatedGroup = /\)[*+?{]/;

/** A pattern that is no expression, or one that could take for ever, is found nowhere but in itself. */
export function nameMatches(name: string, pattern: string): boolean {
  if (name.includes(pattern)) return true;
  if (repeatedGroup.test(pattern) || (pattern.match(repeated)?.length ?? 0) > repetitionsMost) return false;
  try {
    return new RegExp(pattern).test(name);
  } catch {
    return false;
  }
}
