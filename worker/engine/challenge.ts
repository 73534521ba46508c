/** The `WWW-Authenticate` header of registries (RFC 7235; Docker's token specification). Pure. */

export type Challenge =
  | { readonly kind: "basic"; readonly realm: string }
  | { readonly kind: "bearer"; readonly realm: string; readonly service?: string; readonly scope?: string };

const headerLimit = 8_192;

/** The challenges that we can answer, in the header's order. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  const text = header.slice(0, headerLimit);
  const schemes = /(?:^|,)\s*([A-Za-z]+)(?:\s+|$)(?=$|[A-Za-z_]+\s*=)/g;
  const starts = [...text.matchAll(schemes)];
  for (const [index, match] of starts.entries()) {
    const parameters = parseParameters(text.slice(match.index + match[0].length, starts[index + 1]?.index));
    const realm = parameters.get("realm") ?? "";
    const scheme = (match[1] ?? "").toLowerCase();
    if (scheme === "basic") challenges.push({ kind: "basic", realm });
    if (scheme !== "bearer" || realm === "") continue;
    const service = parameters.get("service");
    const scope = parameters.get("scope");
    challenges.push({
      kind: "bearer",
      realm,
      ...(service !== undefined && { service }),
      ...(scope !== undefined && { scope }),
    });
  }
  return challenges;
}

function parseParameters(text: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const [, key = "", quoted, bare] of text.matchAll(
    /([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))/g,
  )) {
    parameters.set(key.toLowerCase(), quoted?.replaceAll(/\\(.)/g, "$1") ?? bare ?? "");
  }
  return parameters;
}
