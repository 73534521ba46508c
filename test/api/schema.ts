import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Ajv, type ValidateFunction } from "ajv";
import { parse } from "yaml";

/** Where the API's own description lies: beside the repository, or wherever `SHOAL_API_SCHEMA` says. */
export function schemaPath(): string {
  const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
  return process.env["SHOAL_API_SCHEMA"] ?? findUpwards(root, join("shared", "api", "docker-engine-api-v1.50.yaml"));
}

/** The description lies beside the repository; a worktree of it may lie one level deeper. */
function findUpwards(root: string, file: string): string {
  const near = join(root, "..", file);
  const farther = join(root, "..", "..", file);
  return !existsSync(near) && existsSync(farther) ? farther : near;
}

export interface ApiSchema {
  /** What is wrong with a value as `definition`; empty when nothing is. */
  problems(definition: string, value: unknown): string[];
  /** The same for an array of them. */
  listProblems(definition: string, value: unknown): string[];
}

/** Undefined when the description is not there; the test then says that it is skipped. */
export function loadSchema(): ApiSchema | undefined {
  const path = schemaPath();
  if (!existsSync(path)) return undefined;
  const document = parse(readFileSync(path, "utf8")) as { definitions: Record<string, unknown> };
  correct(document.definitions);
  const definitions = toJsonSchema(document.definitions) as Record<string, unknown>;
  const time = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z$/;
  const ajv = new Ajv({
    strict: false,
    allErrors: true,
    formats: { dateTime: time, "date-time": time, cidr: true, CIDR: true, int64: true, uint64: true, uint32: true, uint16: true, int32: true, int: true, "ip-address": true },
  });
  ajv.addSchema({ $id: "api", definitions });
  const validators = new Map<string, ValidateFunction>();
  const validator = (name: string, schema: object): ValidateFunction => {
    let found = validators.get(name);
    if (found === undefined) {
      found = ajv.compile(schema);
      validators.set(name, found);
    }
    return found;
  };
  const run = (validate: ValidateFunction, value: unknown): string[] => {
    if (validate(value)) return [];
    return (validate.errors ?? []).map(
      ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
    );
  };
  return {
    problems: (name, value) => run(validator(name, { $ref: `api#/definitions/${name}` }), value),
    listProblems: (name, value) =>
      run(validator(`${name}[]`, { type: "array", items: { $ref: `api#/definitions/${name}` } }), value),
  };
}

/** Where the description differs from what engines send and clients read. */
function correct(definitions: Record<string, unknown>): void {
  const get = (path: string): Record<string, unknown> =>
    path.split(".").reduce<Record<string, unknown>>((node, key) => node[key] as Record<string, unknown>, definitions);
  const container = get("TaskSpec.properties.ContainerSpec.properties");
  container["Healthcheck"] = container["HealthCheck"];
  delete container["HealthCheck"];
  // A swarm's own view of a network, not the one of `/networks`.
  get("NetworkAttachment.properties")["Network"] = { type: "object" };
  // `verbose=true`
  Object.assign(get("Network.properties"), { Services: { type: "object" } });
  // Another definition adds fields to it.
  get("ClusterInfo")["additionalProperties"] = true;
}

/** Swagger 2 to JSON schema: `x-nullable` allows null, and an object has no fields but those described. */
function toJsonSchema(node: unknown, closed = true): unknown {
  if (Array.isArray(node)) return node.map((each) => toJsonSchema(each, closed));
  if (typeof node !== "object" || node === null) return node;
  const source = node as Record<string, unknown>;
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(source)) {
    if (key === "example" || key === "description" || key === "default" || key === "title") {
      if (typeof value !== "object" || value === null) continue;
    }
    result[key] = toJsonSchema(value, closed && key !== "allOf");
  }
  // Misspelt fields are what a validation is for. Parts joined by allOf each know only their own.
  if (closed && result["type"] === "object" && "properties" in result && !("additionalProperties" in result) && !("allOf" in result)) {
    result["additionalProperties"] = false;
  }
  if (source["x-nullable"] !== true) return result;
  if (typeof result["type"] === "string") return { ...result, type: [result["type"], "null"] };
  return { anyOf: [result, { type: "null" }] };
}
