/** Keeps our table as wanted: loads what differs from what was loaded, and looks whether it is still there. */
import { writeFile } from "node:fs/promises";

import type { Clock } from "../../runtime/clock.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import {
  chainDifferences,
  chainsCommand,
  hookRules,
  parseRules,
  tableCommand,
  tableDifferences,
} from "./rules-observe.ts";
import type { ForeignChain } from "./rules-observe.ts";
import { changeText, rulesetText, rulesTables, shapeOf, tableText } from "./ruleset.ts";
import type { Ruleset, Table } from "./ruleset.ts";

/**
 * A look at every rule costs `nft` and us some 0.4 µs of processor time a byte, and may take 1 % of the time. So a table of a hundred
 * services is read whole in every look; a larger one less often, and a cheap look in between sees what was flushed.
 */
const restMsPerByte = 0.045;

export class Rules {
  readonly #clock: Clock;
  readonly #run: Run;
  /** `nft` reads a file: it refuses the socket that a child of ours has as its input. */
  readonly #file: string;
  readonly #table: Table;
  readonly #doing: string;
  /** Undefined while what the kernel has is not known. */
  #loaded: Ruleset | undefined;
  #isAbsent = false;
  /** How the kernel prints the rules of hooks, for rulesets of one shape. */
  #known: { readonly shape: string; readonly rules: ReadonlyMap<string, string> } | undefined;
  #nextLookAtMs = 0;
  #foreign: readonly ForeignChain[] = [];

  /** @param options.table - One of ours; default: that of networks, for IPv4. */
  constructor(options: { clock: Clock; run: Run; file: string; table?: Table }) {
    const { clock, run, file, table = rulesTables.ip } = options;
    this.#clock = clock;
    this.#run = run;
    this.#file = file;
    this.#table = table;
    const isOfTasks = table.name === rulesTables.ip.name;
    this.#doing = `the firewall rules of ${isOfTasks ? "tasks" : "tunnels"}${table.family === "ip6" ? " for IPv6" : ""}`;
  }

  /**
   * The same ruleset again costs nothing, and a change costs what changed; the kernel takes all of it or nothing. Where
   * it does not take a change, the table is not as it was left, and is replaced.
   */
  async load(wanted: Ruleset): Promise<void> {
    const before = this.#loaded;
    const change = before === undefined ? undefined : changeText(before, wanted, this.#table);
    if (change === "") return;
    this.#loaded = undefined;
    this.#isAbsent = false;
    const taken = change !== undefined && (await this.#offer(change)).code === 0;
    if (!taken) {
      await writeFile(this.#file, rulesetText(wanted, this.#table), { mode: 0o600 });
      await must(this.#run, `load ${this.#doing}`, ["nft", "-f", this.#file]);
      this.#nextLookAtMs = 0; // A table of a new shape is soon looked at, so that its rules are known.
    }
    this.#loaded = wanted;
  }

  /** Takes the table away, whoever loaded it. */
  async unload(): Promise<void> {
    if (this.#isAbsent) return;
    this.#loaded = undefined;
    // Deleting what is not there would be refused.
    const table = tableText(this.#table);
    await writeFile(this.#file, `table ${table}\ndelete table ${table}\n`, { mode: 0o600 });
    await must(this.#run, `remove ${this.#doing}`, ["nft", "-f", this.#file]);
    this.#isAbsent = true;
  }

  /** Reads the chains of other tables alone, which every look does beside its own. */
  async survey(): Promise<void> {
    const text = await must(this.#run, "read the host's firewall", chainsCommand);
    this.#foreign = parseRules(text, this.#table).foreign;
  }

  /** Chains of other tables, as of the last look. */
  get foreign(): readonly ForeignChain[] {
    return this.#foreign;
  }

  /** @returns what is not as it was loaded, in words; the next `load` then replaces all. */
  async look(): Promise<string[]> {
    const wanted = this.#loaded;
    if (wanted === undefined) return [];
    const isResting = this.#clock.monotonic() < this.#nextLookAtMs;
    const found = isResting ? await this.#glance(wanted) : await this.#inspect(wanted);
    if (found.length > 0) this.#loaded = undefined;
    return found;
  }

  async #glance(wanted: Ruleset): Promise<string[]> {
    const text = await must(this.#run, `read ${this.#doing}`, chainsCommand);
    const observed = parseRules(text, this.#table);
    this.#foreign = observed.foreign;
    return chainDifferences(wanted, observed);
  }

  async #inspect(wanted: Ruleset): Promise<string[]> {
    const glimpse = await this.#glance(wanted);
    if (glimpse.length > 0) return glimpse; // `nft` cannot list a table that is not there.
    const text = await must(this.#run, `read ${this.#doing}`, tableCommand(this.#table));
    const observed = parseRules(text, this.#table);
    this.#nextLookAtMs = this.#clock.monotonic() + text.length * restMsPerByte;
    const shape = shapeOf(wanted);
    const known = this.#known?.shape === shape ? this.#known.rules : undefined;
    const found = tableDifferences(wanted, observed, known);
    if (found.length === 0) this.#known = { shape, rules: known ?? hookRules(wanted, observed) };
    return found;
  }

  async #offer(text: string): Promise<{ readonly code: number }> {
    await writeFile(this.#file, text, { mode: 0o600 });
    return await this.#run(["nft", "-f", this.#file]);
  }
}
