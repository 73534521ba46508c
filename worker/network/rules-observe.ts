/** What `nft -j list …` prints of our table × the ruleset it should hold → what differs, in words. */
import { elementKey, rulesTables, tableText } from "./ruleset.ts";
import type { Ruleset, Table } from "./ruleset.ts";

/** Prints every chain's place in the kernel, those of others too, and no rule: cheap, and enough to see that somebody flushed. */
export const chainsCommand = ["nft", "-j", "list", "chains"] as const;
/** Prints all; its cost grows with the number of services. */
export function tableCommand({ family, name }: Table): readonly string[] {
  return ["nft", "-j", "list", "table", family, name];
}

type Row = Readonly<Record<string, unknown>>;

/** A chain of another's table. */
export interface ForeignChain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  /** Empty for chains that the kernel does not call. */
  readonly hook: string;
  readonly policy: string;
}

export interface ObservedRules {
  readonly table: Table;
  readonly exists: boolean;
  readonly foreign: readonly ForeignChain[];
  /** "type hook prio policy" of hooks, empty for other chains. */
  readonly chains: ReadonlyMap<string, string>;
  /** Elements as `ruleset.ts` writes them, without quotes. */
  readonly containers: ReadonlyMap<string, ReadonlySet<string>>;
  /** Rules of each chain, as JSON without what the kernel numbers. */
  readonly rules: ReadonlyMap<string, readonly string[]>;
}

/** @throws {SyntaxError} for anything but what `nft -j` prints. */
export function parseRules(output: string, table: Table = rulesTables.ip): ObservedRules {
  const chains = new Map<string, string>();
  const containers = new Map<string, ReadonlySet<string>>();
  const rules = new Map<string, string[]>();
  const foreign: ForeignChain[] = [];
  let exists = false;
  const parsed: unknown = JSON.parse(output);
  const list = row(parsed)["nftables"];
  for (const entry of Array.isArray(list) ? list.map(row) : []) {
    const [kind = "", value] = Object.entries(entry)[0] ?? [];
    const item = row(value);
    if (item["family"] !== table.family || (item["table"] ?? item["name"]) !== table.name) {
      if (kind === "chain") foreign.push(foreignChain(item));
      continue;
    }
    if (kind === "table") exists = true;
    const name = String(item["name"]);
    if (kind === "chain") {
      exists = true;
      const { type = "", hook = "", prio = "", policy = "" } = item;
      chains.set(name, [type, hook, prio, policy].map(String).join(" ").trim());
    }
    if (kind === "set" || kind === "map") {
      const elements = Array.isArray(item["elem"]) ? item["elem"] : [];
      containers.set(name, new Set(elements.map(elementText)));
    }
    if (kind === "rule") {
      const chain = String(item["chain"]);
      rules.set(chain, [...(rules.get(chain) ?? []), JSON.stringify(item["expr"])]);
    }
  }
  return { table, exists, foreign, chains, containers, rules };
}

/** @param output - Of one chain. @returns whether its last rule drops or refuses whatever comes to it. */
export function endsStrictly(output: string): boolean {
  const parsed: unknown = JSON.parse(output);
  const list = row(parsed)["nftables"];
  const rules = Array.isArray(list) ? list.map(row).flatMap((entry) => entry["rule"] ?? []) : [];
  const expressions = row(rules.at(-1))["expr"];
  const words = Array.isArray(expressions) ? expressions.flatMap((each) => Object.keys(row(each))) : [];
  return (
    words.some((word) => word === "drop" || word === "reject") &&
    words.every((word) => ["drop", "reject", "counter", "log"].includes(word))
  );
}

function foreignChain({ family, table, name, hook = "", policy = "" }: Row): ForeignChain {
  return {
    family: String(family),
    table: String(table),
    name: String(name),
    hook: String(hook),
    policy: String(policy),
  };
}

/** What is seen without looking at rules and elements. */
export function chainDifferences(wanted: Ruleset, { table, exists, chains }: ObservedRules): string[] {
  if (!exists) return [`the table ${tableText(table)} is gone`];
  const found: string[] = [];
  for (const [name, { head }] of wanted.hooks) {
    const place = chains.get(name);
    if (place === undefined) found.push(`the chain ${name} is gone`);
    else if (!isPlaced(head, place)) found.push(`the chain ${name} is not where it was put`);
  }
  for (const name of wanted.chains.keys()) if (!chains.has(name)) found.push(`the chain ${name} is gone`);
  for (const name of chains.keys()) {
    if (!wanted.hooks.has(name) && !wanted.chains.has(name)) found.push(`the chain ${name} is not ours`);
  }
  return found;
}

/**
 * @param known - Rules of the hooks as the kernel prints them, by chain; absent before they were seen once: then they are
 *   counted. `nft` has its own words for most rules.
 */
export function tableDifferences(
  wanted: Ruleset,
  observed: ObservedRules,
  known: ReadonlyMap<string, string> | undefined,
): string[] {
  const found = chainDifferences(wanted, observed);
  if (!observed.exists) return found;
  for (const [name, { rules }] of wanted.hooks) {
    const seen = observed.rules.get(name) ?? [];
    const same = known === undefined ? seen.length === rules.length : known.get(name) === seen.join("\n");
    if (!same) found.push(`the rules of the chain ${name} were changed`);
  }
  for (const [name, rules] of wanted.chains) {
    const seen = observed.rules.get(name) ?? [];
    const targets = seen.flatMap((text) => targetsOf(JSON.parse(text)));
    const same =
      seen.length === rules.length && rules.every((rule) => rule.includes(`{ ${targets.join(", ")} }`));
    if (!same) found.push(`the rules of the chain ${name} were changed`);
  }
  for (const [name, { word, elements }] of wanted.containers) {
    const seen = observed.containers.get(name);
    if (seen === undefined) {
      found.push(`the ${word} ${name} is gone`);
      continue;
    }
    const has = new Set(elements.map(unquoted));
    const missing = [...has].filter((element) => !seen.has(element)).map(elementKey);
    const foreign = [...seen].filter((element) => !has.has(element)).map(elementKey);
    if (missing.length > 0) found.push(`the ${word} ${name} lacks ${missing.join(", ")}`);
    const odd = foreign.filter((key) => !missing.includes(key));
    if (odd.length > 0) found.push(`the ${word} ${name} has ${odd.join(", ")}`);
  }
  return found;
}

/** To be kept as `known` once a ruleset of that shape was found in place. */
export function hookRules(wanted: Ruleset, { rules }: ObservedRules): Map<string, string> {
  return new Map([...wanted.hooks.keys()].map((name) => [name, (rules.get(name) ?? []).join("\n")]));
}

const priorities: Readonly<Record<string, string>> = {
  raw: "-300",
  mangle: "-150",
  dstnat: "-100",
  filter: "0",
  srcnat: "100",
};

/** @param head - "type nat hook prerouting priority dstnat; policy accept;" */
function isPlaced(head: string, place: string): boolean {
  const [, type, , hook, , priority = "", , policy] = head.replaceAll(";", "").split(" ");
  return place === [type, hook, priorities[priority] ?? priority, policy].join(" ");
}

/** The entries of the one map inside a balancer's rule, in their order. */
function targetsOf(value: unknown): string[] {
  if (typeof value !== "object" || value === null) return [];
  const list = row(value)["set"];
  // The addresses that a port is published on are a set too, of no pairs.
  if (Array.isArray(list) && list.every((each) => Array.isArray(each))) return list.map(elementText);
  return Object.values(value).flatMap(targetsOf);
}

/** As `ruleset.ts` writes it: a pair is an element of a map. */
function elementText(value: unknown): string {
  return Array.isArray(value) ? value.map(valueText).join(" : ") : valueText(value);
}

function valueText(value: unknown): string {
  if (typeof value === "string" || typeof value === "number") return String(value);
  const { concat, prefix, goto, elem } = row(value);
  if (Array.isArray(concat)) return concat.map(valueText).join(" . ");
  if (prefix !== undefined) return `${String(row(prefix)["addr"])}/${String(row(prefix)["len"])}`;
  if (goto !== undefined) return `goto ${String(row(goto)["target"])}`;
  if (elem !== undefined) return valueText(row(elem)["val"]);
  return JSON.stringify(value);
}

function unquoted(element: string): string {
  return element.replaceAll('"', "");
}

function row(value: unknown): Row {
  return typeof value === "object" && value !== null ? (value as Row) : {};
}
