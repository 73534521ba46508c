/** Small words that the JSON conversions share. */
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { JsonObject } from "./json-reader.ts";

type Present<Fields> = { [Name in keyof Fields]?: Exclude<Fields[Name], undefined> };

/** Drops the fields that are undefined, so that "absent" stays absent. */
export function present<Fields extends object>(fields: Fields): Present<Fields> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as Present<Fields>;
}

/**
 * "" is undefined; anything outside `allowed` is refused with what would have been accepted.
 *
 * @param refusal - How the message begins, in the API's words, such as `invalid Role: "king"`.
 */
export function oneOf<const Word extends string>(
  text: string,
  allowed: readonly Word[],
  refusal: string,
): Word | undefined {
  if (text === "") return undefined;
  const found = allowed.find((each) => each === text);
  if (found === undefined) {
    throw new ClusterError("invalid-argument", `${refusal} (${allowed.join(", ")} is expected)`);
  }
  return found;
}

/** `{"Name": …, "Options": {…}}`, such as a log driver; undefined without a name. */
export function parseNamedOptions(json: JsonObject): { name: string; options: Labels } | undefined {
  const name = json.text("Name");
  return name === "" ? undefined : { name, options: json.labels("Options") };
}
