import { readFileSync } from "node:fs";
import { getSystemErrorMap } from "node:util";

/** Where the words of Go, which people know from docker, are not those of node. */
const wordsOfGo: Readonly<Record<string, string>> = { EISDIR: "is a directory" };

/**
 * A file that the user named, or standard input.
 *
 * @throws with docker's text, such as "open web.yml: no such file or directory".
 */
export function readNamedFile(path: string | 0): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const { code = "", errno = 0, syscall = "open" } = cause as NodeJS.ErrnoException;
    const words = wordsOfGo[code] ?? getSystemErrorMap().get(errno)?.[1];
    if (words === undefined) throw cause;
    throw new Error(`${syscall} ${path === 0 ? "stdin" : path}: ${words}`, { cause });
  }
}
