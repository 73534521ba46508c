/** Prints what went wrong as docker does, and makes the process end with 1. */
export function setFailed(reason: unknown): void {
  const text = reason instanceof Error ? reason.message : String(reason);
  process.stderr.write(`${text}\n`);
  process.exitCode = 1;
}

/** Runs a step per argument; a failure is printed and the others still run. */
export async function forEach(
  names: readonly string[],
  step: (name: string) => Promise<void>,
): Promise<void> {
  for (const name of names) {
    try {
      await step(name);
    } catch (reason) {
      setFailed(reason);
    }
  }
}
