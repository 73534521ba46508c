/** Reads the templates of specs and payloads: the part of Go's text/template that has no templates of its own. */

export type Operand =
  | { readonly kind: "value"; readonly value: string | number | boolean | undefined }
  /** `.A.B`, or `.` with no names. */
  | { readonly kind: "field"; readonly names: readonly string[] }
  | { readonly kind: "variable"; readonly name: string; readonly names: readonly string[] }
  | { readonly kind: "function"; readonly name: string }
  | { readonly kind: "group"; readonly pipe: Pipe; readonly names: readonly string[] };

export interface Pipe {
  /** As it was written, for messages. */
  readonly text: string;
  readonly variable?: { readonly name: string; readonly isNew: boolean };
  /** Each gets the result of the one before as its last argument. */
  readonly commands: readonly (readonly Operand[])[];
}

export type TemplateNode =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "print"; readonly pipe: Pipe }
  | {
      readonly kind: "if" | "with";
      readonly pipe: Pipe;
      readonly body: readonly TemplateNode[];
      readonly otherwise: readonly TemplateNode[];
    }
  | {
      readonly kind: "range";
      /** Names of the variables for key and value. */
      readonly key?: string;
      readonly value?: string;
      readonly pipe: Pipe;
      readonly body: readonly TemplateNode[];
      readonly otherwise: readonly TemplateNode[];
    };

/** Deeper nesting of blocks and parentheses is refused. */
const deepest = 50;

/** @throws {Error} as Go prefixes it, saying what cannot be read. */
export function parseTemplate(text: string): readonly TemplateNode[] {
  const pieces = split(text);
  let at = 0;
  const { nodes, end } = block(0);
  if (end !== undefined) throw problem(`unexpected {{${end}}}`);
  return nodes;

  /** Nodes up to `end` or `else`, which is taken too. */
  function block(depth: number): { nodes: TemplateNode[]; end: string | undefined } {
    if (depth > deepest) throw problem("too deeply nested");
    const nodes: TemplateNode[] = [];
    for (let piece = pieces[at]; piece !== undefined; piece = pieces[at]) {
      at += 1;
      if (piece.kind === "text") {
        if (piece.text !== "") nodes.push({ kind: "text", text: piece.text });
        continue;
      }
      const [, word = "", rest = ""] = /^(\w*)\s*(.*)$/s.exec(piece.text) ?? [];
      if (word === "end" || word === "else") return { nodes, end: piece.text };
      if (word === "if" || word === "with" || word === "range") nodes.push(branch(word, rest, depth));
      else if (/^(?:define|template|block|break|continue)$/.test(word)) {
        throw problem(`{{${word}}} is not available`);
      } else nodes.push({ kind: "print", pipe: parsePipe(piece.text) });
    }
    return { nodes, end: undefined };
  }

  function branch(kind: "if" | "with" | "range", head: string, depth: number): TemplateNode {
    const main = block(depth + 1);
    let otherwise: readonly TemplateNode[] = [];
    const chained = /^else\s+(if|with)\s+(.*)$/s.exec(main.end ?? "");
    if (chained !== null) {
      // One `end` closes the whole chain: the inner branch has taken it.
      otherwise = [branch(chained[1] === "if" ? "if" : "with", chained[2] ?? "", depth + 1)];
    } else if (main.end === "else") {
      const rest = block(depth + 1);
      if (rest.end !== "end") throw problem(`unclosed {{${kind}}}`);
      otherwise = rest.nodes;
    } else if (main.end !== "end") throw problem(`unclosed {{${kind}}}`);
    if (kind !== "range") return { kind, pipe: parsePipe(head), body: main.nodes, otherwise };
    const [, first, second, source = head] = /^\$(\w+)(?:\s*,\s*\$(\w+))?\s*:=\s*(.*)$/s.exec(head) ?? [];
    const value = second ?? first;
    return {
      kind,
      ...(second !== undefined && first !== undefined && { key: first }),
      ...(value !== undefined && { value }),
      pipe: parsePipe(source),
      body: main.nodes,
      otherwise,
    };
  }
}

export function problem(what: string): Error {
  return new Error(`template: expansion:1: ${what}`);
}

type Piece = { readonly kind: "text" | "action"; readonly text: string };

/** Text and actions in turn; `{{-` and `-}}` take the space beside them away, comments are left out. */
function split(text: string): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  let trimNext = false;
  for (;;) {
    const open = text.indexOf("{{", at);
    let plain = text.slice(at, open < 0 ? undefined : open);
    if (trimNext) plain = plain.trimStart();
    const trimsBefore = open >= 0 && /^\{\{-\s/.test(text.slice(open, open + 4));
    pieces.push({ kind: "text", text: trimsBefore ? plain.trimEnd() : plain });
    if (open < 0) return pieces;
    const begin = open + (trimsBefore ? 3 : 2);
    const close = closing(text, begin);
    if (close < 0) throw problem(`unclosed action started at character ${open + 1}`);
    trimNext = /\s-$/.test(text.slice(begin, close));
    const action = text.slice(begin, trimNext ? close - 1 : close).trim();
    if (!(action.startsWith("/*") && action.endsWith("*/"))) {
      if (action === "") throw problem("missing value for command");
      pieces.push({ kind: "action", text: action });
    }
    at = close + 2;
  }
}

/** Where the action ends: braces inside quotes and comments do not count. */
function closing(text: string, begin: number): number {
  const pattern = /"(?:[^"\\\n]|\\.)*"|`[^`]*`|\/\*[\s\S]*?\*\/|\}\}/g;
  pattern.lastIndex = begin;
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    if (match[0] === "}}") return match.index;
  }
  return -1;
}

const tokenPattern =
  /\s+|"(?:[^"\\\n]|\\.)*"|`[^`]*`|-?\d+(?:\.\d+)?|\$\w*(?:\.\w+)*|\)(?:\.\w+)*|(?:\.\w+)+|\.|\w+|:=|[=|(]/gy;

function parsePipe(text: string): Pipe {
  const tokens = tokensOf(text);
  let at = 0;
  const pipe = readPipe(0);
  if (at < tokens.length) throw problem(`unexpected ${JSON.stringify(tokens[at])} in {{${text}}}`);
  return pipe;

  function readPipe(depth: number): Pipe {
    if (depth > deepest) throw problem("too deeply nested");
    let variable: Pipe["variable"];
    const [first = "", second = ""] = tokens.slice(at, at + 2);
    if (/^\$\w+$/.test(first) && (second === ":=" || second === "=")) {
      variable = { name: first.slice(1), isNew: second === ":=" };
      at += 2;
    }
    const commands: Operand[][] = [[]];
    for (let token = tokens[at]; token !== undefined && !token.startsWith(")"); token = tokens[at]) {
      at += 1;
      if (token === "|") commands.push([]);
      else if (token === "(") {
        const inner = readPipe(depth + 1);
        const close = tokens[at];
        if (close === undefined) throw problem(`unclosed left paren in {{${text}}}`);
        at += 1;
        commands.at(-1)?.push({ kind: "group", pipe: inner, names: namesOf(close.slice(1)) });
      } else commands.at(-1)?.push(operand(token, text));
    }
    if (commands.some((command) => command.length === 0)) throw problem(`missing value in {{${text}}}`);
    return { text, commands, ...(variable !== undefined && { variable }) };
  }
}

function tokensOf(text: string): string[] {
  const tokens: string[] = [];
  tokenPattern.lastIndex = 0;
  for (let at = 0; at < text.length; at = tokenPattern.lastIndex) {
    const match = tokenPattern.exec(text);
    if (match === null) throw problem(`unexpected ${JSON.stringify(text[at])} in {{${text}}}`);
    if (match[0].trim() !== "") tokens.push(match[0]);
  }
  return tokens;
}

function operand(token: string, text: string): Operand {
  const [first = ""] = token;
  if (first === '"') return { kind: "value", value: unquote(token, text) };
  if (first === "`") return { kind: "value", value: token.slice(1, -1) };
  if (/^-?\d/.test(token)) return { kind: "value", value: Number(token) };
  if (first === ".") return { kind: "field", names: namesOf(token) };
  if (first === "$") {
    const [name = "", ...names] = token.slice(1).split(".");
    return { kind: "variable", name, names };
  }
  if (token === "true" || token === "false") return { kind: "value", value: token === "true" };
  if (token === "nil") return { kind: "value", value: undefined };
  if (/^\w+$/.test(token)) return { kind: "function", name: token };
  throw problem(`unexpected ${JSON.stringify(token)} in {{${text}}}`);
}

function namesOf(text: string): string[] {
  return text.split(".").filter((name) => name !== "");
}

function unquote(token: string, text: string): string {
  try {
    return JSON.parse(token) as string;
  } catch {
    throw problem(`${token} in {{${text}}} is no text`);
  }
}
