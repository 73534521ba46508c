import { asMeantAt } from "./meant.ts";

/** Values for `${VAR}`; undefined means not set. */
export type Environment = Readonly<Record<string, string | undefined>>;

const variable =
  /\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?+])((?:[^{}]|\{[^{}]*\})*))?\}|(.?))/g;

/**
 * Replaces the variables of one text: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR-default}`,
 * `${VAR:?message}`, `${VAR?message}`, `${VAR:+other}`, `${VAR+other}`; `$$` is a dollar sign.
 * @throws when a required variable is missing or the text is malformed.
 */
export function interpolate(text: string, environment: Environment, missing: (name: string) => void): string {
  return text.replaceAll(
    variable,
    (_whole, escaped: string, plain: string, braced: string, operator: string, word = "") => {
      if (escaped !== undefined) return "$";
      const name = plain ?? braced;
      if (name === undefined)
        throw new Error(`invalid interpolation format: "${text}"; write $$ for a dollar sign`);
      const value = environment[name];
      const counts = value !== undefined && (value !== "" || !operator?.startsWith(":"));
      const kind = operator?.at(-1);
      if (kind === "-") return counts ? value : interpolate(word as string, environment, missing);
      if (kind === "+") return counts ? interpolate(word as string, environment, missing) : "";
      if (kind === "?" && !counts) {
        throw new Error(
          `required variable ${name} is missing a value${word === "" ? "" : `: ${word as string}`}`,
        );
      }
      if (value === undefined) missing(name);
      return value ?? "";
    },
  );
}

/**
 * Every text inside a value; keys stay as they are. Where a compose file has a number or a boolean, a text that had a variable
 * in it becomes one.
 * @throws with its place when it cannot.
 */
export function interpolateAll(
  value: unknown,
  environment: Environment,
  missing: (name: string) => void,
  place: readonly string[] = [],
): unknown {
  if (typeof value === "string") {
    const text = interpolate(value, environment, missing);
    return text === value ? value : asMeantAt(place, text);
  }
  if (Array.isArray(value)) {
    return value.map((entry) => interpolateAll(entry, environment, missing, [...place, "[]"]));
  }
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, entry]) => [
        key,
        interpolateAll(entry, environment, missing, [...place, key]),
      ]),
    );
  }
  return value;
}
