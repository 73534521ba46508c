import { parsePorts } from "../service-parse.ts";
import { namedRecord } from "./names.ts";
import { asList, parseShortMount } from "./short-forms.ts";
import type { ComposeFile, ComposePort, ComposeService, ListOrMap } from "./types.ts";

/**
 * Several compose files as one, as `docker stack deploy` puts them together: services key by key; networks, volumes, secrets and configs
 * of a name whole from the last file that has them.
 */
export function mergeFiles(base: ComposeFile, over: ComposeFile): ComposeFile {
  const services: Record<string, ComposeService> = { ...base.services };
  for (const [name, service] of Object.entries(over.services ?? {})) {
    services[name] = mergeService(services[name] ?? {}, service);
  }
  return {
    services,
    networks: { ...base.networks, ...over.networks },
    volumes: { ...base.volumes, ...over.volumes },
    secrets: { ...base.secrets, ...over.secrets },
    configs: { ...base.configs, ...over.configs },
  };
}

type Merge<Value> = (base: Value, over: Value) => Value;

type RuledKey =
  | "command"
  | "entrypoint"
  | "environment"
  | "labels"
  | "sysctls"
  | "extra_hosts"
  | "env_file"
  | "dns"
  | "dns_search"
  | "tmpfs"
  | "healthcheck"
  | "ulimits"
  | "logging"
  | "networks"
  | "ports"
  | "volumes"
  | "secrets"
  | "configs";

/** How each key goes together; of all others lists are joined, records merged and single values taken from the later file. */
const rules = {
  command: last,
  entrypoint: last,
  environment: mergeNamed,
  labels: mergeNamed,
  sysctls: mergeNamed,
  extra_hosts: (base, over) => [...hostLines(base), ...hostLines(over)],
  env_file: joinLists,
  dns: joinLists,
  dns_search: joinLists,
  tmpfs: joinLists,
  healthcheck: (base, over) => ({ ...base, ...over }),
  ulimits: (base, over) => ({ ...base, ...over }),
  logging: (base, over) => {
    const isOther = base.driver !== undefined && over.driver !== undefined && base.driver !== over.driver;
    return isOther ? over : { ...base, ...over, options: { ...base.options, ...over.options } };
  },
  networks: (base, over) => ({ ...networkRecord(base), ...networkRecord(over) }),
  ports: mergePorts,
  volumes: (base, over) =>
    byKey([...base, ...over], (mount) =>
      typeof mount === "string" ? parseShortMount(mount).target : mount.target,
    ),
  secrets: mergeReferences,
  configs: mergeReferences,
} satisfies { readonly [Key in RuledKey]: Merge<NonNullable<ComposeService[Key]>> };

function mergeService(base: ComposeService, over: ComposeService): ComposeService {
  const merged: ComposeService = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const before = base[key];
    if (value === null || value === undefined) continue; // Said, and nothing said of it.
    // Key and value belong together, which the loop cannot show.
    const rule = (key in rules ? rules[key as RuledKey] : mergeAny) as Merge<unknown>;
    merged[key] = before === undefined || before === null ? value : rule(before, value);
  }
  return merged;
}

function last<Value>(_base: Value, over: Value): Value {
  return over;
}

/** @param key - Where the values stand: labels have two forms wherever they are. */
function mergeAny(base: unknown, over: unknown, key = ""): unknown {
  if (key === "labels") return mergeNamed(base as ListOrMap, over as ListOrMap); // By the schema.
  if (Array.isArray(base) && Array.isArray(over)) return [...(base as unknown[]), ...(over as unknown[])];
  if (!isRecord(base) || !isRecord(over)) return over;
  const merged = { ...base };
  for (const [name, value] of Object.entries(over)) {
    merged[name] = name in base ? mergeAny(base[name], value, name) : value;
  }
  return merged;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function mergeNamed(base: ListOrMap, over: ListOrMap): ListOrMap {
  return { ...namedRecord(base), ...namedRecord(over) };
}

function joinLists(base: string | string[], over: string | string[]): string[] {
  return [...(asList(base) ?? []), ...(asList(over) ?? [])];
}

function hostLines(list: ListOrMap): string[] {
  if (Array.isArray(list)) return [...(list as readonly string[])];
  return Object.entries(list).map(([host, address]) => `${host}:${String(address)}`);
}

function networkRecord(
  networks: NonNullable<ComposeService["networks"]>,
): Exclude<NonNullable<ComposeService["networks"]>, string[]> {
  return Array.isArray(networks) ? Object.fromEntries(networks.map((name) => [name, null])) : networks;
}

/** A port that the later file publishes is what that says of it; those that are not published are all kept. */
function mergePorts(
  base: NonNullable<ComposeService["ports"]>,
  over: NonNullable<ComposeService["ports"]>,
): NonNullable<ComposeService["ports"]> {
  const [before, after] = [base.flatMap(longPorts), over.flatMap(longPorts)];
  const taken = new Set(
    after.flatMap(({ published }) => (published === undefined ? [] : [Number(published)])),
  );
  return [
    ...before.filter(({ published }) => published === undefined || !taken.has(Number(published))),
    ...after,
  ];
}

function longPorts(port: string | number | ComposePort): ComposePort[] {
  if (typeof port === "object") return [port];
  return parsePorts(String(port)).map(({ Protocol, TargetPort, PublishedPort, PublishMode }) => ({
    protocol: Protocol,
    target: TargetPort,
    mode: PublishMode,
    ...(PublishedPort !== undefined && { published: PublishedPort }),
  }));
}

function mergeReferences(
  base: NonNullable<ComposeService["secrets"]>,
  over: NonNullable<ComposeService["secrets"]>,
): NonNullable<ComposeService["secrets"]> {
  return byKey([...base, ...over], (reference) =>
    typeof reference === "string" ? reference : reference.source,
  );
}

/** Of several with one key the last, at the place of the first. */
function byKey<Item>(list: readonly Item[], keyOf: (item: Item) => string | undefined): Item[] {
  return [...new Map(list.map((item) => [keyOf(item), item])).values()];
}
