/** What a container has made of its image's files. */
import type { Place, Tree } from "./tree.ts";
import { depthLimit, textOf } from "./tree.ts";

export interface FileChange {
  readonly path: string;
  readonly kind: "modified" | "added" | "removed";
}

/** Of one container; `own` holds only what it has written, which keeps the comparison short. */
export interface Compared {
  readonly own: Tree;
  readonly all: Tree;
  /** Absent when the image has no files. */
  readonly image?: Tree;
}

/** Parents before what is in them, names in order. A directory in which something changed counts as modified. */
export async function differences({ own, all, image }: Compared): Promise<FileChange[]> {
  const changes: FileChange[] = [];
  await compare([], own.root, all.root, image?.root);
  return changes;

  async function compare(
    names: readonly string[],
    written: Place,
    now: Place,
    before: Place | undefined,
  ): Promise<void> {
    if (names.length > depthLimit) return;
    const current = await all.list(now, names);
    const old = before === undefined || image === undefined ? [] : await image.list(before, names);
    const here = new Set(current);
    const touched = await own.list(written, names);
    const gone = old.filter((name) => !here.has(name));
    const wanted = new Set([...touched.filter((name) => here.has(name)), ...gone]);
    for (const name of [...wanted].toSorted((a, b) => (a < b ? -1 : 1)))
      await compareOne([...names, name], name, { names, written, now, before });
  }

  async function compareOne(
    path: readonly string[],
    name: string,
    at: {
      readonly names: readonly string[];
      readonly written: Place;
      readonly now: Place;
      readonly before: Place | undefined;
    },
  ): Promise<void> {
    const [top, after, prior] = await Promise.all([
      own.child(at.written, at.names, name),
      all.child(at.now, at.names, name),
      at.before === undefined ? undefined : image?.child(at.before, at.names, name),
    ]);
    try {
      if (after === undefined) {
        if (prior !== undefined) say(path, "removed");
        return;
      }
      const isDirectory = after.kind === "directory";
      const wasDirectory = prior?.kind === "directory";
      if (prior === undefined) say(path, "added");
      else if (isDifferent(prior, after)) say(path, "modified");
      if (!isDirectory || top?.kind !== "directory") return;
      const mark = changes.length;
      await compare(path, top, after, wasDirectory ? prior : undefined);
      const isSaid = prior === undefined || isDifferent(prior, after);
      if (changes.length > mark && !isSaid) changes.splice(mark, 0, { path: shown(path), kind: "modified" });
    } finally {
      for (const place of [top, after, prior]) await place?.handle.close();
    }
  }

  function say(path: readonly string[], kind: FileChange["kind"]): void {
    changes.push({ path: shown(path), kind });
  }
}

/** A directory's size and time follow from what is in it. */
function isDifferent({ stats: a, kind }: Place, { stats: b }: Place): boolean {
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid || a.rdev !== b.rdev) return true;
  return kind !== "directory" && (a.size !== b.size || a.mtimeNs !== b.mtimeNs);
}

function shown(names: readonly string[]): string {
  return `/${names.map(textOf).join("/")}`;
}

/** Where every container has something mounted: what is made there for its start is none of its changes. */
const mountPoints = new Set([
  "/.dockerenv",
  "/dev",
  "/dev/console",
  "/dev/mqueue",
  "/dev/pts",
  "/dev/shm",
  "/etc",
  "/etc/hostname",
  "/etc/hosts",
  "/etc/resolv.conf",
  "/proc",
  "/sbin",
  "/sbin/docker-init",
  "/sys",
]);

/** Leaves out mount points, and directories that changed by nothing else. */
export function withoutMountPoints(changes: readonly FileChange[]): FileChange[] {
  const left = new Set(changes);
  // From the bottom up: a directory is looked at when all below it are decided on.
  for (const change of changes.toSorted((a, b) => b.path.length - a.path.length)) {
    const { path, kind } = change;
    if (kind === "removed" || !mountPoints.has(path)) continue;
    const below = changes.filter((other) => other.path.startsWith(`${path}/`));
    const isOwn = kind === "modified" && below.length === 0;
    if (!isOwn && !below.some((other) => left.has(other))) left.delete(change);
  }
  return changes.filter((change) => left.has(change));
}
