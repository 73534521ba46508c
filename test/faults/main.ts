import { Command, InvalidArgumentError } from "commander";
import { seededRandom } from "../../runtime/random.ts";
import { Lab } from "../lab/lab.ts";
import { faultKinds } from "./faults.ts";
import { type RunResult, runFault } from "./run.ts";

interface Flags {
  readonly managers: number;
  readonly runs: number;
  readonly seed: number;
  readonly only?: string;
}

const boundMs = 3_000;

const program = new Command("faults")
  .description("managers under faults: what clients saw must be linearizable, and writes must go on")
  .option("--managers <n>", "", count, 3)
  .option("--runs <n>", "the kinds of fault in turn", count, faultKinds.length)
  .option("--seed <n>", "of the choices of clients and faults", count, 1)
  .option("--only <text>", "faults whose name contains it")
  .action(async ({ managers, runs, seed, only = "" }: Flags) => {
    const kinds = faultKinds.filter((kind) => kind.managers <= managers && kind.name.includes(only));
    if (kinds.length === 0) throw new Error(`no fault is called ${only}`);
    const random = seededRandom(seed);
    const lab = await Lab.up({ name: "faults", managers, workers: 0 });
    const results: RunResult[] = [];
    try {
      for (let at = 0; at < runs; at += 1) {
        const kind = kinds[at % kinds.length] as (typeof kinds)[number];
        const result = await runFault(lab, kind, random.integer(2 ** 31));
        results.push(result);
        console.log(line(at + 1, result));
      }
    } finally {
      await lab.down();
    }
    const wrong = results.filter(isWrong);
    const slowest = Math.max(...results.map((result) => result.resumedDuringMs ?? 0));
    const after = Math.max(...results.map((result) => result.resumedAfterMs));
    const everywhere = Math.max(...results.map((result) => result.allServeAfterMs));
    const operations = results.reduce((sum, result) => sum + result.operations, 0);
    console.log(
      `${results.length} runs with ${managers} managers, ${operations} operations: ${wrong.length} wrong; ` +
        `writes went on within ${ms(slowest)} during faults, ${ms(after)} after them, ${ms(everywhere)} through every manager`,
    );
    if (wrong.length > 0) process.exitCode = 1;
  });

try {
  await program.parseAsync();
} catch (error) {
  console.error(`faults: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

function isWrong(result: RunResult): boolean {
  const late = Math.max(result.resumedDuringMs ?? 0, result.resumedAfterMs) > boundMs;
  return late || result.registers.kind !== "linearizable" || result.lists.kind !== "linearizable";
}

function line(at: number, result: RunResult): string {
  const { fault, resumedDuringMs, resumedAfterMs, allServeAfterMs, operations, unknown } = result;
  const during = resumedDuringMs === undefined ? "no quorum" : `writes after ${ms(resumedDuringMs)}`;
  const after = `writes ${ms(resumedAfterMs)} after its end, ${ms(allServeAfterMs)} through every manager`;
  const verdicts = [result.registers, result.lists]
    .filter(({ kind }) => kind !== "linearizable")
    .map((verdict) => ` ${JSON.stringify(verdict)}`);
  const judged = isWrong(result) ? "WRONG" : "ok";
  return `${at} ${judged}: ${fault}: ${during}, ${after}, ${operations} operations, ${unknown} unknown${verdicts.join("")}`;
}

function ms(value: number): string {
  return `${Math.round(value)} ms`;
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError("a whole number from 1");
  return value;
}
