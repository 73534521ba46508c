type Kind = "integer" | "number" | "boolean";

/** Where a text with a variable in it is meant as something else; `*` is any key, `[]` any entry of a list. As in Docker's CLI. */
const meant: readonly (readonly [place: string, kind: Kind])[] = [
  ["services.*.configs.[].mode", "integer"],
  ["services.*.secrets.[].mode", "integer"],
  ["services.*.healthcheck.retries", "integer"],
  ["services.*.healthcheck.disable", "boolean"],
  ["services.*.deploy.replicas", "integer"],
  ["services.*.deploy.update_config.parallelism", "integer"],
  ["services.*.deploy.update_config.max_failure_ratio", "number"],
  ["services.*.deploy.rollback_config.parallelism", "integer"],
  ["services.*.deploy.rollback_config.max_failure_ratio", "number"],
  ["services.*.deploy.restart_policy.max_attempts", "integer"],
  ["services.*.deploy.placement.max_replicas_per_node", "integer"],
  ["services.*.ports.[].target", "integer"],
  ["services.*.ports.[].published", "integer"],
  ["services.*.ulimits.*", "integer"],
  ["services.*.ulimits.*.hard", "integer"],
  ["services.*.ulimits.*.soft", "integer"],
  ["services.*.privileged", "boolean"],
  ["services.*.read_only", "boolean"],
  ["services.*.stdin_open", "boolean"],
  ["services.*.tty", "boolean"],
  ["services.*.init", "boolean"], // Docker's CLI leaves it a text, which its schema then refuses.
  ["services.*.volumes.[].read_only", "boolean"],
  ["services.*.volumes.[].volume.nocopy", "boolean"],
  ["networks.*.external", "boolean"],
  ["networks.*.internal", "boolean"],
  ["networks.*.attachable", "boolean"],
  ["volumes.*.external", "boolean"],
  ["secrets.*.external", "boolean"],
  ["configs.*.external", "boolean"],
];
const patterns = meant.map(([place, kind]) => ({ parts: place.split("."), kind }));

/** A text that came out of variables, as the kind of value that its place takes. */
export function asMeantAt(place: readonly string[], text: string): string | number | boolean {
  const kind = patterns.find(
    ({ parts }) =>
      parts.length === place.length && parts.every((part, index) => part === "*" || part === place[index]),
  )?.kind;
  if (kind === undefined) return text;
  const value = kind === "boolean" ? readBoolean(text) : readNumber(text, kind);
  if (value === undefined) throw new Error(`${place.join(".")}: "${text}" is not ${articles[kind]} ${kind}`);
  return value;
}

const articles: Readonly<Record<Kind, string>> = { integer: "an", number: "a", boolean: "a" };

/** Decimal, a leading zero or not: only what is written into the file itself can be octal. */
function readNumber(text: string, kind: "integer" | "number"): number | undefined {
  const accepted = kind === "integer" ? /^[-+]?\d+$/ : /^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$/;
  return accepted.test(text) ? Number(text) : undefined;
}

function readBoolean(text: string): boolean | undefined {
  if (/^(?:y|yes|true|on)$/i.test(text)) return true;
  return /^(?:n|no|false|off)$/i.test(text) ? false : undefined;
}
