/** What is mounted where, as the kernel tells this process. */
import { readFile } from "node:fs/promises";

/** Paths that something is mounted on, in the order of the mounts: one that covers another is there twice. */
export async function mountPoints(): Promise<string[]> {
  return parseMountPoints(await readFile("/proc/self/mountinfo", "utf8"));
}

/** @param text - As in `/proc/self/mountinfo`, where blanks, newlines and backslashes of paths are octal numbers. */
export function parseMountPoints(text: string): string[] {
  return text.split("\n").flatMap((line) => {
    const path = line.split(" ")[4];
    return path === undefined ? [] : [unescaped(path)];
  });
}

function unescaped(path: string): string {
  return path.replaceAll(/\\([0-7]{3})/g, (_whole, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
