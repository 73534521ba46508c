/** Expands templates of specs and payloads as Docker does; pure. */
import type { Labels } from "./meta.ts";
import type { Platform } from "./service.ts";
import { parseTemplate, problem, type Operand, type Pipe, type TemplateNode } from "./template-parse.ts";

export interface TemplateContext {
  readonly service: { readonly id: string; readonly name: string; readonly labels: Labels };
  readonly node: { readonly id: string; readonly hostname: string; readonly platform: Platform };
  readonly task: { readonly id: string; readonly name: string; readonly slot: string };
}

/** What only payloads may ask: by target file name, and by the name of a variable. */
export interface PayloadLookups {
  readonly secret: (target: string) => string;
  readonly config: (target: string) => string;
  readonly env: (name: string) => string;
}

type Value = string | number | boolean | undefined | Struct | ReadonlyMap<string, string>;
/** Fields by name; another name is an error, as with Go's structs. */
interface Struct {
  readonly [field: string]: Value;
}

/** A template that does more is refused: labels in loops in loops could go on for hours. */
const mostSteps = 100_000;
const longestText = 4 * 1024 * 1024;

/** @throws {Error} naming the expression that cannot be evaluated. */
export function expandTemplate(text: string, context: TemplateContext, lookups?: PayloadLookups): string {
  if (!text.includes("{{")) return text;
  return new Expansion(rootOf(context), lookups).run(parseTemplate(text));
}

function rootOf({ service, node, task }: TemplateContext): Struct {
  const { architecture, os } = node.platform;
  return {
    Service: { ID: service.id, Name: service.name, Labels: new Map(Object.entries(service.labels)) },
    Node: { ID: node.id, Hostname: node.hostname, Platform: { Architecture: architecture, OS: os } },
    Task: { ID: task.id, Name: task.name, Slot: task.slot },
  };
}

type Scope = ReadonlyMap<string, { value: Value }>;

class Expansion {
  readonly #root: Struct;
  readonly #lookups: PayloadLookups | undefined;
  #steps = 0;
  #text = "";

  constructor(root: Struct, lookups: PayloadLookups | undefined) {
    this.#root = root;
    this.#lookups = lookups;
  }

  run(nodes: readonly TemplateNode[]): string {
    this.#walk(nodes, this.#root, new Map([["", { value: this.#root }]]));
    return this.#text;
  }

  #walk(nodes: readonly TemplateNode[], dot: Value, outer: Scope): void {
    const scope = new Map(outer);
    for (const node of nodes) {
      this.#count();
      switch (node.kind) {
        case "text":
          this.#print(node.text);
          break;
        case "print": {
          const value = this.#pipe(node.pipe, dot, scope);
          if (node.pipe.variable === undefined) this.#print(printed(value));
          break;
        }
        case "if":
        case "with": {
          const inner = new Map(scope);
          const value = this.#pipe(node.pipe, dot, inner);
          const next = node.kind === "with" && isTrue(value) ? value : dot;
          this.#walk(isTrue(value) ? node.body : node.otherwise, next, inner);
          break;
        }
        case "range":
          this.#range(node, dot, scope);
          break;
      }
    }
  }

  #range(
    node: Extract<TemplateNode, { kind: "range" }>,
    dot: Value,
    scope: Map<string, { value: Value }>,
  ): void {
    const value = this.#pipe(node.pipe, dot, new Map(scope));
    if (!(value instanceof Map)) throw problem(`range can't iterate over {{${node.pipe.text}}}`);
    if (value.size === 0) return this.#walk(node.otherwise, dot, scope);
    for (const [key, item] of [...(value as ReadonlyMap<string, string>)].toSorted(([a], [b]) =>
      a < b ? -1 : 1,
    )) {
      const inner = new Map(scope);
      if (node.key !== undefined) inner.set(node.key, { value: key });
      if (node.value !== undefined) inner.set(node.value, { value: item });
      this.#walk(node.body, item, inner);
    }
    return undefined;
  }

  #pipe(pipe: Pipe, dot: Value, scope: Map<string, { value: Value }>): Value {
    this.#count();
    let value: Value;
    for (const [index, command] of pipe.commands.entries()) {
      value = this.#command(pipe, command, index === 0 ? [] : [value], dot, scope);
    }
    if (pipe.variable !== undefined) {
      const { name, isNew } = pipe.variable;
      const known = scope.get(name);
      if (isNew) scope.set(name, { value });
      else if (known === undefined) throw problem(`undefined variable "$${name}"`);
      else known.value = value;
    }
    return value;
  }

  #command(
    pipe: Pipe,
    [head, ...rest]: readonly Operand[],
    last: readonly Value[],
    dot: Value,
    scope: Map<string, { value: Value }>,
  ): Value {
    if (head === undefined) throw problem(`missing value in {{${pipe.text}}}`);
    if (head.kind !== "function") {
      if (rest.length + last.length > 0) {
        throw problem(`can't give argument to non-function in {{${pipe.text}}}`);
      }
      return this.#operand(pipe, head, dot, scope);
    }
    const args = [...rest.map((each) => this.#operand(pipe, each, dot, scope)), ...last];
    return this.#call(pipe, head.name, args);
  }

  #operand(pipe: Pipe, operand: Operand, dot: Value, scope: Map<string, { value: Value }>): Value {
    switch (operand.kind) {
      case "value":
        return operand.value;
      case "field":
        return fieldOf(pipe, dot, operand.names);
      case "variable": {
        const known = scope.get(operand.name);
        if (known === undefined) throw problem(`undefined variable "$${operand.name}"`);
        return fieldOf(pipe, known.value, operand.names);
      }
      case "function":
        return this.#call(pipe, operand.name, []);
      case "group":
        return fieldOf(pipe, this.#pipe(operand.pipe, dot, scope), operand.names);
    }
  }

  #call(pipe: Pipe, name: string, args: readonly Value[]): Value {
    const text = (index: number): string => {
      const value = args[index];
      if (typeof value !== "string") throw problem(`wrong arguments for ${name} in {{${pipe.text}}}`);
      return value;
    };
    switch (name) {
      case "secret":
      case "config":
      case "env":
        if (this.#lookups === undefined) throw problem(`function "${name}" not defined`);
        return this.#lookups[name](text(0));
      case "join":
        // The separator comes first, as Docker has it.
        return args
          .slice(1)
          .map((_, index) => text(index + 1))
          .join(text(0));
      case "index": {
        const [map] = args;
        if (!(map instanceof Map)) throw problem(`wrong arguments for index in {{${pipe.text}}}`);
        return (map as ReadonlyMap<string, string>).get(text(1)) ?? "";
      }
      case "len": {
        const [value] = args;
        if (typeof value === "string") return new TextEncoder().encode(value).length;
        if (value instanceof Map) return (value as ReadonlyMap<string, string>).size;
        throw problem(`wrong arguments for len in {{${pipe.text}}}`);
      }
      case "and":
        return args.find((value) => !isTrue(value)) ?? args.at(-1);
      case "or":
        return args.find(isTrue) ?? args.at(-1);
      case "not":
        return !isTrue(args[0]);
      case "eq":
        return args.slice(1).some((value) => value === args[0]);
      case "ne":
        return args[0] !== args[1];
      case "lt":
        return compare(pipe, args) < 0;
      case "le":
        return compare(pipe, args) <= 0;
      case "gt":
        return compare(pipe, args) > 0;
      case "ge":
        return compare(pipe, args) >= 0;
      case "print":
      case "println":
        return args.map(printed).join(name === "print" ? "" : " ") + (name === "print" ? "" : "\n");
      case "printf": {
        let next = 1;
        return text(0).replaceAll(/%(?:%|[svdtq])/g, (verb) => {
          if (verb === "%%") return "%";
          const value = printed(args[next]);
          next += 1;
          return verb === "%q" ? JSON.stringify(value) : value;
        });
      }
      default:
        throw problem(`function "${name}" not defined`);
    }
  }

  #print(text: string): void {
    this.#text += text;
    if (this.#text.length > longestText) throw problem("the result is too large");
  }

  #count(): void {
    this.#steps += 1;
    if (this.#steps > mostSteps) throw problem(`it takes more than ${mostSteps} steps`);
  }
}

function fieldOf(pipe: Pipe, start: Value, names: readonly string[]): Value {
  let value = start;
  for (const name of names) {
    if (value instanceof Map) {
      const item = (value as ReadonlyMap<string, string>).get(name);
      if (item === undefined) throw problem(`map has no entry for key "${name}" in {{${pipe.text}}}`);
      value = item;
    } else if (typeof value === "object" && Object.hasOwn(value, name)) {
      value = (value as Struct)[name];
    } else {
      const known = typeof value === "object" ? Object.keys(value).map((field) => `.${field}`) : [];
      const hint = known.length === 0 ? `.${name} is no field` : `known are ${known.join(", ")}`;
      throw problem(`can't evaluate {{${pipe.text}}}: ${hint}`);
    }
  }
  return value;
}

function compare({ text }: Pipe, [a, b]: readonly Value[]): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0;
  throw problem(`incompatible types for comparison in {{${text}}}`);
}

function isTrue(value: Value): boolean {
  return value instanceof Map ? value.size > 0 : Boolean(value);
}

/** As Go's fmt prints it. */
function printed(value: Value): string {
  if (value === undefined) return "<no value>";
  if (value instanceof Map) {
    const entries = [...(value as ReadonlyMap<string, string>)].toSorted(([a], [b]) => (a < b ? -1 : 1));
    return `map[${entries.map(([key, item]) => `${key}:${item}`).join(" ")}]`;
  }
  if (typeof value === "object")
    return `{${Object.values(value as Struct)
      .map(printed)
      .join(" ")}}`;
  return String(value);
}
