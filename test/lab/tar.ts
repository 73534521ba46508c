/** One entry of an image layer. Directories above a file need not be listed. */
export type TarEntry =
  | { readonly kind: "file"; readonly path: string; readonly data: Buffer; readonly mode?: number }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | { readonly kind: "directory"; readonly path: string; readonly mode?: number };

const blockBytes = 512;

/**
 * Packs entries as a POSIX ustar archive, owner root, time zero: the same entries give the same bytes.
 *
 * @param entries - Paths without a leading slash, at most 100 bytes each.
 * @see POSIX.1-2017, pax, "ustar Interchange Format".
 */
export function packTar(entries: readonly TarEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    const data = entry.kind === "file" ? entry.data : Buffer.alloc(0);
    parts.push(header(entry, data.length), data);
    const rest = data.length % blockBytes;
    if (rest !== 0) parts.push(Buffer.alloc(blockBytes - rest));
  }
  parts.push(Buffer.alloc(2 * blockBytes));
  return Buffer.concat(parts);
}

function header(entry: TarEntry, sizeBytes: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  const path = entry.kind === "directory" ? `${entry.path}/` : entry.path;
  if (Buffer.byteLength(path) > 100) throw new Error(`cannot pack ${path}: path is longer than 100 bytes`);
  const mode = entry.kind === "link" ? 0o777 : (entry.mode ?? (entry.kind === "directory" ? 0o755 : 0o644));
  block.write(path, 0, 100);
  block.write(octal(mode, 7), 100);
  block.write(octal(0, 7), 108); // uid
  block.write(octal(0, 7), 116); // gid
  block.write(octal(sizeBytes, 11), 124);
  block.write(octal(0, 11), 136); // time
  block.write("        ", 148); // the sum is taken with its own field blank
  block.write({ file: "0", link: "2", directory: "5" }[entry.kind], 156);
  if (entry.kind === "link") block.write(entry.target, 157, 100);
  block.write("ustar\x0000", 257);
  block.write("root", 265);
  block.write("root", 297);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${octal(sum, 6)}\0 `, 148);
  return block;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, "0");
}

/** An empty file of root's, to be changed in what a test is about; for `printTarEntry`. */
export const plainHeader = {
  name: "",
  type: "0",
  link: "",
  sizeBytes: 0,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 0,
  major: 0,
  minor: 0,
};
