import type { ServiceId } from "../../model/ids.ts";
import type { Demand } from "./demand.ts";
import { answers, preferenceOf, unknown } from "./facts.ts";
import type { FilterName } from "./filter.ts";
import type { NodeColumns, NodeIndex } from "./nodes.ts";

const fits = answers.indexOf("fits");

/**
 * All nodes as one demand sees them, for as long as its tasks are placed. What the demand's own service has
 * on them is spread out into columns first, so that asking a node costs no look into a map. Those columns are
 * the index's: a second field of the same index ends the first.
 */
export class Field {
  readonly #index: NodeIndex;
  readonly #demand: Demand;
  readonly #columns: NodeColumns;
  readonly #answers: Uint8Array;
  readonly #ofService: Int32Array;
  /** 1 where the revision failed too often of late; undefined when it did nowhere. */
  readonly #behind: Uint8Array | undefined;
  /** 1 where a service is that is not to be met; undefined when there is none. */
  readonly #shunned: Uint8Array | undefined;
  /** 1 where a host-mode port that is needed is taken; undefined when none is needed. */
  readonly #taken: Uint8Array | undefined;
  readonly #preference: Float64Array | undefined;

  constructor(index: NodeIndex, demand: Demand, nowMs: number) {
    this.#index = index;
    this.#demand = demand;
    this.#columns = index.columns;
    const { rowCount } = index;
    this.#answers = index.facts.answersTo(demand, rowCount);
    const { scratch } = index;
    this.#ofService = scratch.numbers("of-service", rowCount);
    for (const [row, count] of index.rowsOf(demand.serviceId)) this.#ofService[row] = count;
    const behind = [...index.failures.nodesBehind(demand.key, nowMs)];
    if (behind.length > 0)
      this.#behind = marked(
        scratch.flags("behind", rowCount),
        behind.map((id) => index.get(id)?.row),
      );
    const shunned = [...this.#shunnedServices()];
    if (shunned.length > 0) {
      this.#shunned = marked(
        scratch.flags("shunned", rowCount),
        shunned.flatMap((id) => [...index.rowsOf(id).keys()]),
      );
    }
    if (demand.hostPorts.length > 0) {
      this.#taken = scratch.flags("taken", rowCount);
      for (const port of demand.hostPorts) marked(this.#taken, index.rowsWithPort(port));
    }
    if (demand.prefer.length > 0) this.#preference = this.#preferences(rowCount);
  }

  get rowCount(): number {
    return this.#ofService.length;
  }

  ofService(row: number): number {
    return this.#ofService[row] ?? 0;
  }

  /** The first filter that refuses the node of this row, or `undefined` when a task can go there. */
  refusal(row: number): FilterName | undefined {
    const use = this.#columns.uses[row];
    if (use === undefined) return "ready";
    const answer = answers[this.#index.facts.answer(this.#answers, row, this.#demand, use.node)] ?? "ready";
    if (answer === "ready") return "ready";
    if (!this.#hasResources(row)) return "resource";
    return answer === "fits" ? this.#loadRefusal(row) : answer;
  }

  /** Every row where a task can go, lowest first. */
  fitting(): Int32Array {
    const { resources } = this.#demand;
    const { usedCpus, offeredCpus, usedBytes, offeredBytes } = this.#columns;
    const known = this.#answers;
    const { nanoCpus, memoryBytes } = resources;
    const rows = this.#index.scratch.numbers("fitting", this.rowCount);
    let count = 0;
    const shunned = this.#shunned;
    const taken = this.#taken;
    const ofService = this.#ofService;
    const most = this.#demand.task.placement.maxReplicas || Infinity;
    const asksGeneric = this.#demand.generic.length > 0;
    // `refusal` without a call per row, for nodes that were asked before, which nearly all were.
    for (let row = 0; row < rows.length; row += 1) {
      if (known[row] === fits) {
        if (nanoCpus > 0 && (usedCpus[row] ?? 0) + nanoCpus > (offeredCpus[row] ?? 0)) continue;
        if (memoryBytes > 0 && (usedBytes[row] ?? 0) + memoryBytes > (offeredBytes[row] ?? 0)) continue;
        if ((ofService[row] ?? 0) >= most) continue;
        if (taken !== undefined && taken[row] === 1) continue;
        if (shunned !== undefined && shunned[row] === 1) continue;
        if (asksGeneric && !this.#hasResources(row)) continue;
      } else if (known[row] !== unknown || this.refusal(row) !== undefined) {
        continue;
      }
      rows[count] = row;
      count += 1;
    }
    return rows.subarray(0, count);
  }

  /** Whether one more can go where `refusal` found nothing before; only what placing changes is asked again. */
  stillFits(row: number): boolean {
    return this.#hasResources(row) && this.#loadRefusal(row) === undefined;
  }

  /** Negative when row `a` is better for one more task. */
  compare(a: number, b: number): number {
    if (this.#behind !== undefined) {
      const order = (this.#behind[a] ?? 0) - (this.#behind[b] ?? 0);
      if (order !== 0) return order;
    }
    if (this.#preference !== undefined) {
      const order = (this.#preference[b] ?? 0) - (this.#preference[a] ?? 0);
      if (order !== 0) return order;
    }
    const { active, offeredBytes, usedBytes } = this.#columns;
    const ofService = (this.#ofService[a] ?? 0) - (this.#ofService[b] ?? 0);
    if (ofService !== 0) return ofService;
    const load = (active[a] ?? 0) - (active[b] ?? 0);
    if (load !== 0) return load;
    const freeA = (offeredBytes[a] ?? 0) - (usedBytes[a] ?? 0);
    const freeB = (offeredBytes[b] ?? 0) - (usedBytes[b] ?? 0);
    return freeB - freeA || a - b;
  }

  /** One more task of this demand is on that row. */
  placed(row: number): void {
    this.#ofService[row] = (this.#ofService[row] ?? 0) + 1;
    if (this.#taken !== undefined) this.#taken[row] = 1;
  }

  /** A limit of replicas need not count one that is there. Ports that it has stay taken, and others stay free. */
  discount(row: number): void {
    this.#ofService[row] = (this.#ofService[row] ?? 0) - 1;
  }

  #hasResources(row: number): boolean {
    const { resources, generic } = this.#demand;
    const { usedCpus, offeredCpus, usedBytes, offeredBytes, uses } = this.#columns;
    if (resources.nanoCpus > 0 && (usedCpus[row] ?? 0) + resources.nanoCpus > (offeredCpus[row] ?? 0)) {
      return false;
    }
    if (
      resources.memoryBytes > 0 &&
      (usedBytes[row] ?? 0) + resources.memoryBytes > (offeredBytes[row] ?? 0)
    ) {
      return false;
    }
    if (generic.length === 0) return true;
    const use = uses[row];
    const offer = use?.node.description?.resources.generic ?? {};
    return generic.every(
      ([kind, amount]) => (use?.reservedGeneric.get(kind) ?? 0) + amount <= (offer[kind] ?? 0),
    );
  }

  #loadRefusal(row: number): FilterName | undefined {
    const { hostPorts, task } = this.#demand;
    if (hostPorts.length > 0 && this.#taken?.[row] === 1) return "host-port";
    const { maxReplicas } = task.placement;
    if (maxReplicas > 0 && (this.#ofService[row] ?? 0) >= maxReplicas) return "max-replicas";
    return this.#shunned?.[row] === 1 ? "avoid" : undefined;
  }

  /** Whom the demand avoids, and who avoids it: it must not matter who came first. */
  *#shunnedServices(): Iterable<ServiceId> {
    for (const name of this.#demand.avoid) yield* this.#index.servicesNamed(name);
    yield* this.#index.avoidersOf(this.#demand.serviceName);
  }

  #preferences(rowCount: number): Float64Array {
    const nearby = new Map<string, Uint8Array>();
    for (const preference of this.#demand.prefer) {
      if (preference.kind !== "service") continue;
      const rows = [...this.#index.servicesNamed(preference.name)].flatMap((id) => [
        ...this.#index.rowsOf(id).keys(),
      ]);
      nearby.set(preference.name, marked(new Uint8Array(rowCount), rows));
    }
    const scores = new Float64Array(rowCount);
    for (let row = 0; row < rowCount; row += 1) {
      const node = this.#columns.uses[row]?.node;
      if (node === undefined) continue;
      scores[row] = preferenceOf(this.#demand, node, (name) => nearby.get(name)?.[row] === 1);
    }
    return scores;
  }
}

function marked(column: Uint8Array, rows: Iterable<number | undefined>): Uint8Array {
  for (const row of rows) if (row !== undefined) column[row] = 1;
  return column;
}
