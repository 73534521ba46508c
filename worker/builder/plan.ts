/** A Dockerfile and what the client wants of it → the images it needs, its steps, and the text that is carried out. Pure. */
import { ClusterError } from "../../model/errors.ts";
import {
  type Dockerfile,
  execForm,
  expandWord,
  type Instruction,
  parseArg,
  printInstruction,
  problem,
  type Stage,
} from "./dockerfile.ts";

export interface Step {
  /** As it was written; what `Step 1/3 : ` is followed by. */
  readonly text: string;
  readonly keyword: string;
  readonly rest: string;
  /** Index of the stage; -1 for what stands before the first. */
  readonly stage: number;
  /** Key of the image that a FROM stands for. */
  readonly base?: string;
}

export interface BuildPlan {
  readonly steps: readonly Step[];
  /** Each once, in the order of the file; as written, variables expanded. */
  readonly images: readonly NeededImage[];
  /** @param idOf - Of an image by its key, as 64 digits. */
  readonly print: (idOf: (key: string) => string) => string;
}

export interface NeededImage {
  /** Of no two in a plan. */
  readonly key: string;
  readonly reference: string;
  /** Empty for the build's own. */
  readonly platform: string;
  /** True: what it has for ONBUILD becomes steps. */
  readonly isBase: boolean;
}

export interface PlanOptions {
  /** Name or number of the last stage to be built; empty for the last of the file. */
  readonly target: string;
  readonly args: ReadonlyMap<string, string>;
  /** Added at the end, as one step. */
  readonly labels: Readonly<Record<string, string>>;
}

const noBase = "scratch";

/** @throws {ClusterError} `invalid-argument` in Docker's words. */
export function planBuild(file: Dockerfile, options: PlanOptions): BuildPlan {
  const stages = upToTarget(file.stages, options.target);
  const globals = globalValues(file, options.args);
  const images = new Map<string, NeededImage>();
  const lines: ((idOf: (key: string) => string) => string)[] = [];
  const steps: Step[] = [];
  const { escape } = file;

  for (const global of file.globals) say(global, -1);
  for (const [index, stage] of stages.entries()) {
    const { from } = stage;
    const image = expandWord(stage.image, globals, { escape, line: from.line });
    if (image === "") throw problem(from.line, `base name (${stage.image}) should not be blank`);
    const suffix = stage.name === undefined ? "" : ` AS ${stage.name}`;
    const before = stages.slice(0, index);
    if (image === noBase || findStage(before, image) !== undefined) {
      steps.push(stepOf(from, index));
      const base = image === noBase ? noBase : image.toLowerCase();
      lines.push(() => `FROM ${base}${suffix}`);
    } else {
      const platform = expandWord(from.flags["platform"] ?? "", globals, { escape, line: from.line });
      const base = need({ reference: image, platform, isBase: true });
      steps.push({ ...stepOf(from, index), base });
      lines.push((idOf) => `FROM ${idOf(base)}${suffix}`);
    }
    for (const instruction of stage.instructions) sayInStage(instruction, index, before);
  }
  const labels = Object.entries(options.labels).map(([name, value]) => `"${name}"="${value}"`);
  if (labels.length > 0) {
    const rest = labels.join(" ");
    const shown = Object.entries(options.labels).map(([name, value]) => `${name}=${value}`);
    steps.push({ text: `LABEL ${shown.join(" ")}`, keyword: "LABEL", rest, stage: stages.length - 1 });
  }
  return {
    steps,
    images: [...images.values()],
    print: (idOf) => [`# escape=${escape}`, ...lines.map((line) => line(idOf)), ""].join("\n"),
  };

  function say(instruction: Instruction, stage: number): void {
    steps.push(stepOf(instruction, stage));
    lines.push(() => printInstruction(instruction));
  }

  function sayInStage(instruction: Instruction, stage: number, before: readonly Stage[]): void {
    const from = instruction.keyword === "COPY" ? instruction.flags["from"] : undefined;
    if (from === undefined) return say(instruction, stage);
    const { line } = instruction;
    steps.push(stepOf(instruction, stage));
    const number = /^\d+$/.test(from) ? Number(from) : undefined;
    if (number !== undefined && number >= before.length)
      throw problem(line, `invalid from flag value ${from}: invalid stage index ${from}`);
    const found = number ?? findStage(before, from);
    if (found !== undefined) {
      lines.push(() =>
        printInstruction({ ...instruction, flags: { ...instruction.flags, from: String(found) } }),
      );
      return;
    }
    const needed = need({ reference: from, platform: "", isBase: false });
    lines.push((idOf) =>
      printInstruction({ ...instruction, flags: { ...instruction.flags, from: idOf(needed) } }),
    );
  }

  /** Its key. */
  function need(image: Omit<NeededImage, "key">): string {
    const key = `${image.platform} ${image.reference}`;
    const isBase = image.isBase || images.get(key)?.isBase === true;
    images.set(key, { ...image, key, isBase });
    return key;
  }
}

/** What Docker says of a command that failed. */
export function failureText({ keyword, rest }: Step, shell: readonly string[], exitCode: number): string {
  const words = execForm(rest) ?? [...shell, rest];
  const command = keyword === "RUN" ? words.join(" ") : rest;
  return `The command '${command}' returned a non-zero code: ${exitCode}`;
}

/** The shell that runs a step's text: the one of the last `SHELL` before it in its stage. */
export function shellOf(steps: readonly Step[], index: number): readonly string[] {
  const stage = steps[index]?.stage;
  for (let at = index; at >= 0; at--) {
    const step = steps[at];
    if (step === undefined || step.stage !== stage) break;
    if (step.keyword === "SHELL") return execForm(step.rest) ?? ["/bin/sh", "-c"];
  }
  return ["/bin/sh", "-c"];
}

function upToTarget(stages: readonly Stage[], target: string): readonly Stage[] {
  if (target === "") return stages;
  const named = findStage(stages, target);
  const index = named ?? (/^\d+$/.test(target) ? Number(target) : -1);
  if (index < 0 || index >= stages.length)
    throw new ClusterError("invalid-argument", `failed to reach build target ${target} in Dockerfile`);
  return stages.slice(0, index + 1);
}

function findStage(stages: readonly Stage[], name: string): number | undefined {
  const index = stages.findLastIndex((stage) => stage.name === name.toLowerCase());
  return index < 0 ? undefined : index;
}

/** Values of what is declared before the first stage; the client's go before the file's. */
function globalValues(
  { globals, escape }: Dockerfile,
  given: ReadonlyMap<string, string>,
): Map<string, string> {
  const values = new Map<string, string>();
  for (const instruction of globals) {
    for (const { name, value } of parseArg(instruction)) {
      const own =
        given.get(name) ??
        (value === undefined ? undefined : expandWord(value, values, { escape, line: instruction.line }));
      if (own !== undefined) values.set(name, own);
    }
  }
  return values;
}

function stepOf({ text, keyword, rest }: Instruction, stage: number): Step {
  return { text, keyword, rest, stage };
}
