/** Reads and changes the host's devices, addresses, routes, neighbours and forwarding entries. */
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import { observeForwards, observeIpv6Rules, observeLines, parseObserved } from "./observe.ts";
import type { KernelObject, Observed } from "./objects.ts";
import type { Step, Tool } from "./plan.ts";

export interface StepFailure {
  readonly line: string;
  readonly object: KernelObject;
  /** What the kernel said, and of which line. */
  readonly text: string;
}

export async function observe(run: Run): Promise<Observed> {
  const doing = "read the host's network";
  const [printed, forwards, ipv6Rules] = await Promise.all([
    must(run, doing, ["ip", "-j", "-d", "-batch", "-"], observeLines.map((line) => `${line}\n`).join("")),
    must(run, doing, observeForwards),
    readIpv6Rules(run, doing),
  ]);
  return parseObserved([...printed.trimEnd().split("\n"), forwards, ipv6Rules]);
}

/** A kernel without IPv6 has none. */
async function readIpv6Rules(run: Run, doing: string): Promise<string> {
  const outcome = await run(observeIpv6Rules);
  if (outcome.code !== 0 && outcome.stderr.includes("family not supported")) return "";
  return await must(async () => outcome, doing, observeIpv6Rules);
}

/**
 * Carries steps out in their order, one process per tool and direction. A refused step does not
 * stop the others. Removing what is not there is no failure.
 */
export async function execute(run: Run, steps: readonly Step[]): Promise<StepFailure[]> {
  const failures: StepFailure[] = [];
  const tools: readonly Tool[] = ["ip", "ip -6", "bridge"];
  for (const action of ["remove", "add"] as const) {
    for (const tool of action === "remove" ? tools.toReversed() : tools) {
      const batch = steps.filter((step) => step.action === action && step.tool === tool);
      if (batch.length > 0) failures.push(...(await executeBatch(run, tool, batch)));
    }
  }
  return failures;
}

async function executeBatch(run: Run, tool: Tool, batch: readonly Step[]): Promise<StepFailure[]> {
  const input = batch.map(({ line }) => `${line}\n`).join("");
  const { code, stderr } = await run([...tool.split(" "), "-force", "-batch", "-"], input);
  if (code === 0) return [];
  const failures: StepFailure[] = [];
  let said: string[] = [];
  for (const text of stderr.split("\n")) {
    const match = /^Command failed -:(\d+)/.exec(text);
    if (match === null) {
      if (text.trim() !== "") said.push(text.trim());
      continue;
    }
    const step = batch[Number(match[1]) - 1];
    if (step !== undefined && !isAbsence(step, said)) failures.push(failure(tool, step, said));
    said = [];
  }
  // The tool ended itself at one of the neighbours; which ones are in place is not known.
  if (said.length > 0 || stderr.trim() === "") {
    const last = batch.filter(({ object }) => object.kind === "neighbour");
    const suspects = last.length > 0 ? last : batch;
    for (const step of suspects) {
      if (!isAbsence(step, said)) failures.push(failure(tool, step, said));
    }
  }
  return failures;
}

function failure(tool: Tool, { line, object }: Step, said: readonly string[]): StepFailure {
  return {
    line,
    object,
    text: `${tool} ${line}: ${said.join(", ") || `${tool} failed and did not say why`}`,
  };
}

function isAbsence({ action }: Step, said: readonly string[]): boolean {
  return (
    action === "remove" &&
    said.every((text) =>
      /Cannot find device|No such process|No such file or directory|Cannot assign requested address|does not exist/.test(
        text,
      ),
    )
  );
}
