/** Secrets and configs that a service names: from the command line, and their ids before they are sent. */
import type { ApiPayloadReference, ApiServiceSpec, Named } from "./api-types.ts";
import { type Client, filters } from "./client.ts";
import { parsePair } from "./units.ts";

export type PayloadKind = "secret" | "config";

const defaultFileMode = 0o444;

/** "name", or "source=name,target=file,uid=0,gid=0,mode=0444". The id is still missing. */
export function parsePayload(kind: PayloadKind, text: string): ApiPayloadReference {
  const given = new Map(text.includes("=") ? text.split(",").map(parsePair) : [["source", text]]);
  const take = (...names: string[]) => {
    const name = names.find((each) => given.has(each));
    const value = name === undefined ? undefined : given.get(name);
    for (const each of names) given.delete(each);
    return value;
  };
  const source = take("source", "src") ?? "";
  const mode = take("mode");
  const file = {
    Name: take("target") ?? source,
    UID: take("uid") ?? "0",
    GID: take("gid") ?? "0",
    Mode: mode === undefined ? defaultFileMode : parseMode(mode),
  };
  const [unknown] = given.keys();
  if (unknown !== undefined) throw new Error(`invalid field in ${kind} request: ${unknown}`);
  if (source === "") throw new Error(`source is required: expected ${kind} name or source=NAME,target=FILE`);
  return payloadReference(kind, source, file);
}

/** A service's use of a secret or config, by name; `fillPayloadIds` adds the id. */
export function payloadReference(
  kind: PayloadKind,
  name: string,
  file: ApiPayloadReference["File"],
): ApiPayloadReference {
  return kind === "secret" ? { SecretName: name, File: file } : { ConfigName: name, File: file };
}

/**
 * Looks up the ids of the secrets and configs that a specification has by name alone.
 *
 * @throws {Error} `secret not found: NAME`.
 */
export async function fillPayloadIds(client: Client, spec: ApiServiceSpec): Promise<void> {
  const { Secrets, Configs } = spec.TaskTemplate.ContainerSpec;
  await fill(client, "secret", Secrets ?? [], { name: "SecretName", id: "SecretID" });
  await fill(client, "config", Configs ?? [], { name: "ConfigName", id: "ConfigID" });
}

async function fill(
  client: Client,
  kind: PayloadKind,
  references: readonly ApiPayloadReference[],
  keys: { readonly name: "SecretName" | "ConfigName"; readonly id: "SecretID" | "ConfigID" },
): Promise<void> {
  const open = references.filter((each) => each[keys.id] === undefined);
  if (open.length === 0) return;
  const names = open.map((each) => each[keys.name] ?? "");
  const found = await client.get<Named[]>(`/${kind}s`, { filters: filters({ name: names }) });
  const idOf = new Map(found.map(({ Spec, ID }) => [Spec.Name, ID]));
  for (const each of open) {
    const id = idOf.get(each[keys.name] ?? "");
    if (id === undefined) throw new Error(`${kind} not found: ${each[keys.name]}`);
    each[keys.id] = id;
  }
}

function parseMode(text: string): number {
  if (!/^[0-7]+$/.test(text))
    throw new Error(`invalid mode specified: ${text}: expected an octal number, such as 0440`);
  return Number.parseInt(text, 8);
}
