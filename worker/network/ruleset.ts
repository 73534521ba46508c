/** An nftables table as data: its text for `nft -f`, and the few lines that turn one state of it into another. */

export type Family = "ip" | "ip6";

export interface Table {
  readonly family: Family;
  readonly name: string;
}

/** The tables of networks, one for each family; beside them there is `tunnelTable`. No other one is ever read or written. */
export const rulesTables: Readonly<Record<Family, Table>> = {
  ip: { family: "ip", name: "shoal_net" },
  ip6: { family: "ip6", name: "shoal_net" },
};

/** "ip shoal_net" */
export function tableText({ family, name }: Table): string {
  return `${family} ${name}`;
}

/** A set, or a map whose elements read "key : value". */
export interface Container {
  readonly word: "set" | "map";
  /** With flags, such as "ipv4_addr; flags interval". */
  readonly type: string;
  /** No key twice, each as `nft` prints it. */
  readonly elements: readonly string[];
}

/** A chain that the kernel itself calls. */
export interface HookChain {
  /** "type nat hook …; policy accept;" */
  readonly head: string;
  readonly rules: readonly string[];
}

export interface Ruleset {
  readonly containers: ReadonlyMap<string, Container>;
  /** Chains that verdict maps lead to, and their rules. */
  readonly chains: ReadonlyMap<string, readonly string[]>;
  readonly hooks: ReadonlyMap<string, HookChain>;
}

/** The whole table, which replaces whatever there is in one transaction; equal rulesets give equal texts. */
export function rulesetText({ containers, chains, hooks }: Ruleset, of = rulesTables.ip): string {
  const table = tableText(of);
  const chainText = (chain: string, lines: readonly string[]): string =>
    `  chain ${chain} {\n${lines.map((line) => `    ${line}\n`).join("")}  }\n`;
  return `table ${table}
delete table ${table}
table ${table} {
${[...containers].map(([name, container]) => containerText(name, container)).join("")}${[...chains]
    .map(([name, rules]) => chainText(name, rules))
    .join("")}${[...hooks].map(([name, { head, rules }]) => chainText(name, [head, ...rules])).join("")}}
`;
}

/**
 * One transaction that makes `before` into `after`: elements and chains alone, so that one service's new task costs the
 * same among a thousand services as among ten.
 *
 * @returns an empty text when nothing differs; undefined when only the whole table will do.
 */
export function changeText(before: Ruleset, after: Ruleset, of = rulesTables.ip): string | undefined {
  const table = tableText(of);
  if (shapeOf(before) !== shapeOf(after)) return undefined;
  const removed: string[] = [];
  const added: string[] = [];
  for (const [name, { elements }] of after.containers) {
    const had = new Set(before.containers.get(name)?.elements);
    const has = new Set(elements);
    const gone = [...had].filter((element) => !has.has(element)).map(elementKey);
    const fresh = elements.filter((element) => !had.has(element));
    if (gone.length > 0) removed.push(`delete element ${table} ${name} { ${gone.join(", ")} }`);
    if (fresh.length > 0) added.push(`add element ${table} ${name} { ${fresh.join(", ")} }`);
  }
  const chains: string[] = [];
  for (const [name, rules] of after.chains) {
    const had = before.chains.get(name);
    if (had?.join("\n") === rules.join("\n")) continue;
    chains.push(
      `${had === undefined ? "add" : "flush"} chain ${table} ${name}`,
      ...rules.map((rule) => `add rule ${table} ${name} ${rule}`),
    );
  }
  const ended = [...before.chains.keys()].filter((name) => !after.chains.has(name));
  // An element refers to its chain: it goes before that, and comes after.
  const lines = [
    ...removed,
    ...chains,
    ...added,
    ...ended.flatMap((name) => [`flush chain ${table} ${name}`, `delete chain ${table} ${name}`]),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

/** All that cannot be changed element by element. */
export function shapeOf({ containers, hooks }: Ruleset): string {
  const types = [...containers].map(([name, { word, type }]) => [word, name, type]);
  return JSON.stringify([types, [...hooks]]);
}

/** "key : value" → "key" */
export function elementKey(element: string): string {
  return element.split(" : ")[0] ?? element;
}

function containerText(name: string, { word, type, elements }: Container): string {
  const list = elements.length === 0 ? "" : `; elements = { ${elements.join(", ")} }`;
  return `  ${word} ${name} { type ${type}${list}; }\n`;
}
