import { contains, parseCidr, parseIp } from "./address.ts";
import { ClusterError } from "./errors.ts";
import { labelValue } from "./meta.ts";
import type { Node } from "./node.ts";

/** A placement expression such as `node.labels.zone==a`. */
export interface Constraint {
  /** As written, trimmed; compared without regard to case, but for the name of a label. */
  readonly key: string;
  readonly operator: "==" | "!=";
  readonly value: string;
}

const keyPattern = /^[a-z_][a-z0-9\-_.]+$/i;
const valuePattern = /^[a-z0-9\s:\-_.*()?+[\]\\^$|/]+$/i;
const nodeLabelPrefix = "node.labels.";
const engineLabelPrefix = "engine.labels.";

/**
 * Parses one expression: a key, `==` or `!=`, a value; spaces around both are dropped.
 * @throws {ClusterError} `invalid-argument` with the texts of the Engine API.
 */
export function parseConstraint(text: string): Constraint {
  // `==` wins when both occur, as clients know it.
  const operator = text.includes("==") ? "==" : text.includes("!=") ? "!=" : undefined;
  if (operator === undefined) {
    throw new ClusterError("invalid-argument", "constraint expected one operator from ==, !=");
  }
  const at = text.indexOf(operator);
  const key = text.slice(0, at).trim();
  const value = text.slice(at + operator.length).trim();
  if (!keyPattern.test(key)) throw new ClusterError("invalid-argument", `key '${key}' is invalid`);
  if (!valuePattern.test(value)) throw new ClusterError("invalid-argument", `value '${value}' is invalid`);
  return { key, operator, value };
}

/** True when the key is one that a node can match at all; the rest is accepted and never matches. */
export function isKnownKey(key: string): boolean {
  const lower = key.toLowerCase();
  return (
    knownKeys.has(lower) || hasLabelName(lower, nodeLabelPrefix) || hasLabelName(lower, engineLabelPrefix)
  );
}

const knownKeys = new Set([
  "node.id",
  "node.hostname",
  "node.ip",
  "node.role",
  "node.platform.os",
  "node.platform.arch",
]);

function hasLabelName(key: string, prefix: string): boolean {
  return key.startsWith(prefix) && key.length > prefix.length;
}

/** What a constraint looks at. */
export type ConstrainedNode = Pick<Node, "id" | "spec" | "description" | "status" | "role">;

/** True when the node meets every one of them. */
export function matchesAll(constraints: readonly Constraint[], node: ConstrainedNode): boolean {
  return constraints.every((constraint) => matches(constraint, node));
}

/** As `matchesAll` on their text; an expression that cannot be parsed is met by no node. */
export function nodeMeets(expressions: readonly string[], node: ConstrainedNode): boolean {
  return expressions.every((text) => {
    const constraint = parsed(text);
    return constraint !== undefined && matches(constraint, node);
  });
}

function matches(constraint: Constraint, node: ConstrainedNode): boolean {
  const key = constraint.key.toLowerCase();
  if (hasLabelName(key, nodeLabelPrefix)) {
    const name = constraint.key.slice(nodeLabelPrefix.length);
    return compare(constraint, labelValue(node.spec.labels, name) ?? "");
  }
  if (hasLabelName(key, engineLabelPrefix)) {
    const name = constraint.key.slice(engineLabelPrefix.length);
    return compare(constraint, labelValue(node.description?.engineLabels ?? {}, name) ?? "");
  }
  switch (key) {
    case "node.id":
      return compare(constraint, node.id);
    case "node.hostname":
      return compare(constraint, node.description?.hostname ?? "");
    case "node.role":
      return compare(constraint, node.role);
    case "node.platform.os":
      return compare(constraint, node.description?.platform.os ?? "");
    case "node.platform.arch":
      return compare(constraint, node.description?.platform.architecture ?? "");
    case "node.ip":
      return matchesAddress(constraint, node.status.address);
    default:
      return false;
  }
}

function compare({ operator, value }: Constraint, actual: string): boolean {
  return (value.toLowerCase() === actual.toLowerCase()) === (operator === "==");
}

function matchesAddress({ operator, value }: Constraint, address: string): boolean {
  const actual = parseIp(address);
  const block = parseCidr(value.includes("/") ? value : `${value}/${value.includes(":") ? 128 : 32}`);
  if (block === undefined) return false;
  const inside = actual !== undefined && contains(block, actual);
  return inside === (operator === "==");
}

/** Expressions repeat for every task and node; each text is parsed once. Emptied when it grows odd. */
const parsedByText = new Map<string, Constraint | undefined>();
const parsedLimit = 10_000;

function parsed(text: string): Constraint | undefined {
  if (parsedByText.has(text)) return parsedByText.get(text);
  if (parsedByText.size >= parsedLimit) parsedByText.clear();
  let constraint: Constraint | undefined;
  try {
    constraint = parseConstraint(text);
  } catch {
    constraint = undefined; // Refused at the API; an old one that slipped in is met by no node.
  }
  parsedByText.set(text, constraint);
  return constraint;
}
