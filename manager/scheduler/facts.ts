import { type CidrBlock, overlaps, parseCidr } from "../../model/address.ts";
import { matchesAll, nodeMeets } from "../../model/constraint.ts";
import { labelValue } from "../../model/meta.ts";
import type { Node } from "../../model/node.ts";
import type { Platform } from "../../model/service.ts";
import type { Demand } from "./demand.ts";

/** What a node says to a demand whatever runs on it; `fits` when it says nothing against it. */
export type NodeAnswer = "fits" | "ready" | "plugin" | "tunnel" | "subnet" | "constraint" | "platform";

export const answers = [
  "fits",
  "ready",
  "plugin",
  "tunnel",
  "subnet",
  "constraint",
  "platform",
] as const satisfies NodeAnswer[];
/** Stands where a node was not asked yet. */
export const unknown = 255;

/** Columns that are kept of each sort; all of them go when there are more, and come back as they are asked for. */
const columnLimit = 1_000;

/** Answers that only change when a node does, by row; each is worked out once. */
export class NodeFacts {
  readonly #answers = new Map<string, Uint8Array>();
  readonly #labels = new Map<string, { readonly numbers: Map<string, number>; column: Int32Array }>();

  /** The node of this row has changed or gone. */
  forget(row: number): void {
    for (const column of this.#answers.values()) if (row < column.length) column[row] = unknown;
    for (const { numbers, column } of this.#labels.values()) {
      if (row < column.length) column[row] = -1;
      // Values come and go for ever; only here, for numbers must not change while a decision compares them.
      if (numbers.size < valueLimit(column.length)) continue;
      numbers.clear();
      column.fill(-1);
    }
  }

  /** Indexes into `answers` by row; `unknown` for a row that was not asked yet, which `answer` fills in. */
  answersTo({ kind }: Demand, rows: number): Uint8Array {
    let column = this.#answers.get(kind);
    if (column === undefined || column.length < rows) {
      if (this.#answers.size >= columnLimit) this.#answers.clear();
      const larger = new Uint8Array(Math.max(64, rows * 2)).fill(unknown);
      if (column !== undefined) larger.set(column);
      this.#answers.set(kind, (column = larger));
    }
    return column;
  }

  /** Looks the answer up in a column of `answersTo`, or works it out. @returns An index into `answers`. */
  answer(column: Uint8Array, row: number, demand: Demand, node: Node): number {
    const known = column[row] ?? unknown;
    if (known !== unknown) return known;
    return (column[row] = answers.indexOf(answerOf(demand, node)));
  }

  /** Numbers for the values of a label, equal for equal values; `labelNumber` fills in those below 0. */
  labelColumn(descriptor: string): Int32Array {
    return this.#labels.get(descriptor)?.column ?? noColumn;
  }

  /** How many values of a label have a number; bounded, however often nodes change theirs. */
  valueCount(descriptor: string): number {
    return this.#labels.get(descriptor)?.numbers.size ?? 0;
  }

  labelNumber(descriptor: string, row: number, node: Node): number {
    let label = this.#labels.get(descriptor);
    if (label === undefined) {
      if (this.#labels.size >= columnLimit) this.#labels.clear();
      this.#labels.set(descriptor, (label = { numbers: new Map(), column: new Int32Array(64).fill(-1) }));
    }
    if (row >= label.column.length) {
      const larger = new Int32Array(row * 2).fill(-1);
      larger.set(label.column);
      label.column = larger;
    }
    const known = label.column[row] ?? -1;
    if (known >= 0) return known;
    const value = labelOf(descriptor, node);
    let number = label.numbers.get(value);
    if (number === undefined) label.numbers.set(value, (number = label.numbers.size));
    return (label.column[row] = number);
  }
}

/** Nodes give a label at most one value each; what is beyond that are values of the past. */
function valueLimit(rows: number): number {
  return rows * 2;
}

const noColumn = new Int32Array(0);

/** A node without the label forms a branch of its own. */
export function labelOf(descriptor: string, node: Node): string {
  const lower = descriptor.toLowerCase();
  if (lower.startsWith("node.labels."))
    return labelValue(node.spec.labels, descriptor.slice("node.labels.".length)) ?? "";
  return labelValue(node.description?.engineLabels ?? {}, descriptor.slice("engine.labels.".length)) ?? "";
}

/** Only labels are known; whatever else a preference names is passed over. */
export function isLabel(descriptor: string): boolean {
  return /^(?:node|engine)\.labels\../i.test(descriptor);
}

/** What the node says as it is given, whatever was worked out before. */
export function answerOf(demand: Demand, node: Node): NodeAnswer {
  if (node.status.state !== "ready" || node.spec.availability !== "active") return "ready";
  if (missingDriver(demand, node) !== undefined) return "plugin";
  const { needsTunnel, blocks } = demand.reach;
  if (needsTunnel && (node.description?.tunnel?.keys.length ?? 0) === 0) return "tunnel";
  if (hostBlockAmong(blocks, node) !== undefined) return "subnet";
  const { constraints, platforms } = demand.task.placement;
  if (!nodeMeets(constraints, node)) return "constraint";
  if (platforms.length > 0 && !platforms.some((wanted) => runs(wanted, node))) return "platform";
  return "fits";
}

/** What the node's host has of its own in one of these blocks, such as "10.0.0.0/24". */
export function hostBlockAmong(blocks: readonly CidrBlock[], { description }: Node): string | undefined {
  if (blocks.length === 0) return undefined;
  return description?.subnets?.find((text) => {
    const own = parseCidr(text);
    return own !== undefined && blocks.some((block) => overlaps(block, own));
  });
}

/** Higher is better: each preference outweighs all that come after it. */
export function preferenceOf({ prefer }: Demand, node: Node, near: (name: string) => boolean): number {
  let score = 0;
  for (const preference of prefer) {
    const met =
      preference.kind === "node"
        ? matchesAll([preference.constraint], node)
        : near(preference.name) === (preference.operator === "==");
    score = score * 2 + (met ? 1 : 0);
  }
  return score;
}

/**
 * The log or volume driver that the node lacks. Networks are ours and on every node. A node that lists no drivers of a
 * kind is not asked for them.
 */
export function missingDriver({ task }: Demand, { description }: Node): string | undefined {
  const plugins = description?.plugins ?? [];
  const lacks = (kind: "Volume" | "Log", driver: string | undefined): boolean => {
    const names = plugins.filter(({ type }) => type === kind).map(({ name }) => name);
    if (driver === undefined || driver === "" || names.length === 0) return false;
    return !names.includes(driver) && !names.includes(`${driver}:latest`);
  };
  const volumeDrivers = task.container.mounts.flatMap((mount) =>
    mount.type === "volume" && mount.volume?.driverName !== "local" ? [mount.volume?.driverName] : [],
  );
  const logDriver = task.logDriver?.name === "none" ? undefined : task.logDriver?.name;
  if (lacks("Log", logDriver)) return logDriver;
  return volumeDrivers.find((driver) => lacks("Volume", driver));
}

function runs(wanted: Platform, { description }: Node): boolean {
  if (description === undefined) return false;
  const { architecture, os } = description.platform;
  const sameOs = wanted.os === "" || wanted.os.toLowerCase() === os.toLowerCase();
  return sameOs && (wanted.architecture === "" || canonical(wanted.architecture) === canonical(architecture));
}

/** Image indexes and `uname -m` name the same processors differently. */
function canonical(architecture: string): string {
  const lower = architecture.toLowerCase();
  if (lower === "x86_64") return "amd64";
  return lower === "aarch64" ? "arm64" : lower;
}
