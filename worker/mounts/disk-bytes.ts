import { runTool } from "./tool.ts";

/**
 * What is below a directory takes on its disk, other mounts left out. Files may go while they are counted: du then ends
 * with a failure and prints the sum all the same.
 *
 * @returns Undefined when the counting takes too long: no figure is worth the failure of who asks for one.
 */
export async function diskBytes(
  directory: string,
  warn: (message: string, error: unknown) => void,
): Promise<number | undefined> {
  const script = 'du -sx -B1 -- "$1" 2>/dev/null || true';
  try {
    return Number.parseInt(await runTool("sh", ["-c", script, "sh", directory]), 10) || 0;
  } catch (error) {
    warn(`cannot count the bytes of ${directory}`, error);
    return undefined;
  }
}
