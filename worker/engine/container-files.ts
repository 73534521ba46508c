/** The files of a container, from outside of it: while it runs, and from its snapshot while it does not. */
import { spawn } from "node:child_process";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { assert, ClusterError, errorText } from "../../model/errors.ts";
import { orAborted } from "../../runtime/signal.ts";
import type { Mount } from "../../proto/gen/containerd/types.ts";
import { differences, type FileChange, withoutMountPoints } from "../files/differences.ts";
import { Tree } from "../files/tree.ts";
import type { Volumes } from "../mounts/volume.ts";
import { type Connection, toEngineError } from "./connection.ts";
import type { Container } from "./container.ts";
import type { ImageMounts } from "./image-mounts.ts";
import type { OciSpec } from "./oci.ts";
import { snapshotMounts } from "./snapshots.ts";
import { bindSubpaths, type BoundParts } from "../mounts/subpath.ts";
import { runTool } from "../mounts/tool.ts";
import { clearViews, openView, upperDirectory, type View } from "./views.ts";

export interface OpenTree {
  readonly tree: Tree;
  close(): Promise<void>;
}

export interface ContainerFiles {
  /**
   * The container's files with its volumes and binds. While one that does not run is written to, it is not
   * started; it is to be closed soon.
   *
   * @throws {ClusterError} `not-found`.
   */
  open(id: string, purpose: "read" | "write", signal: AbortSignal): Promise<OpenTree>;
  /** Against its image; volumes and binds are not looked into. */
  changes(id: string): Promise<readonly FileChange[]>;
  /** A tar archive of its root file system without volumes. Settles before the first byte. */
  archive(id: string, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
  /** Bytes of the files that it has written, a file of several names once; as Docker counts, directories are nothing. */
  diskBytes(id: string): Promise<number>;
}

interface FilesDeps {
  readonly connection: Connection;
  readonly volumes: Volumes;
  readonly imageMounts: ImageMounts;
  /** For the short life of views. */
  readonly directory: string;
  readonly require: (id: string) => Container;
  readonly warn: (message: string, error: unknown) => void;
}

/** By programs of the system, as there may be a million files. What mounts are put on is directories and empty files. */
const sumOfFiles =
  `find "$1" -xdev ! -type d -size +0c -printf '%i %s\\n' 2>/dev/null | ` +
  `awk '!seen[$1]++ { bytes += $2 } END { printf "%.0f", bytes }'`;

/** What of a tar program's standard error is kept. */
const keptErrorBytes = 4_096;

export class SnapshotFiles implements ContainerFiles {
  readonly #deps: FilesDeps;
  /** Trees of containers that did not run, so far. */
  #opened = 0;

  constructor(deps: FilesDeps) {
    this.#deps = deps;
  }

  /** Removes what a former process left. */
  async clear(): Promise<void> {
    await clearViews(this.#deps.directory);
  }

  async open(id: string, purpose: "read" | "write", signal: AbortSignal): Promise<OpenTree> {
    const container = this.#deps.require(id);
    for (;;) {
      signal.throwIfAborted();
      const running = await runningTree(container);
      if (running !== undefined) return running;
      if (container.activity === "removing") throw new ClusterError("not-found", `No such container: ${id}`);
      if (container.activity === undefined) break;
      await container.change(signal);
    }
    if (purpose === "write") return this.#openAlone(container, signal);
    // The places where its mounts go are made by its first start, or here; whoever reads slowly must not hold up that start.
    const { status } = container;
    const hasRun = status.state === "stopped" && status.startedAtMs !== undefined;
    if (!hasRun) await (await this.#openAlone(container, signal)).close();
    return this.#openStopped(container, "all");
  }

  async changes(id: string): Promise<readonly FileChange[]> {
    const mounts = await this.#mounts(this.#deps.require(id));
    const closes: (() => Promise<void>)[] = [];
    const opened = async (view: View | undefined): Promise<Tree | undefined> => {
      if (view === undefined) return undefined;
      closes.push(() => view.close());
      const tree = await Tree.open(view.path);
      closes.push(() => tree.close());
      return tree;
    };
    try {
      const own = await opened({ path: upperDirectory(mounts), close: async () => undefined });
      const all = await opened(await openView(this.#deps.directory, mounts, "all"));
      const image = await opened(await openView(this.#deps.directory, mounts, "below"));
      assert(own !== undefined && all !== undefined, "a container has a layer of its own");
      return withoutMountPoints(await differences({ own, all, ...(image !== undefined && { image }) }));
    } finally {
      for (const close of closes.toReversed()) await close();
    }
  }

  async archive(id: string, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    return archived(this.#deps.directory, await this.#mounts(this.#deps.require(id)), signal);
  }

  async diskBytes(id: string): Promise<number> {
    try {
      return await writtenBytes(upperDirectory(await this.#mounts(this.#deps.require(id))));
    } catch (error) {
      if (error instanceof ClusterError && error.code === "not-found") return 0; // It is being made, or goes.
      throw error;
    }
  }

  async #mounts({ id }: Container): Promise<Mount[]> {
    try {
      return await snapshotMounts(this.#deps.connection, id);
    } catch (error) {
      throw toEngineError(error, `cannot read the files of container ${id}`);
    }
  }

  /** One after the other, and none while it starts: two mounts of one layer would harm it. */
  async #openAlone(container: Container, signal: AbortSignal): Promise<OpenTree> {
    const before = container.written;
    let release = (): void => undefined;
    // Made at once, so that one that stops waiting for its turn passes it on.
    const done = new Promise<void>((resolve) => (release = resolve));
    container.written = before.then(() => done);
    try {
      await orAborted(before, signal);
      signal.throwIfAborted();
      const opened = await this.#openStopped(container, "writable");
      return {
        tree: opened.tree,
        async close() {
          await opened.close().finally(release);
        },
      };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #openStopped(container: Container, kind: "all" | "writable"): Promise<OpenTree> {
    const { connection, volumes, imageMounts, directory, warn } = this.#deps;
    const { id } = container;
    await container.cleaned(); // Its layer is mounted until then.
    const names = container.record.mounts.flatMap(({ type, name }) =>
      type === "volume" && name !== undefined ? [name] : [],
    );
    const view = await openView(directory, await this.#mounts(container), kind);
    assert(view !== undefined, "a container has a layer of its own");
    let tree: Tree | undefined;
    let parts: BoundParts | undefined;
    const close = async (): Promise<void> => {
      try {
        // What stays mounted keeps a volume busy, so each is let go whatever becomes of the others.
        await (tree?.close() ?? Promise.resolve())
          .finally(() => parts?.release())
          .finally(() => view.close());
      } finally {
        // A view that cannot be unmounted keeps no volume from its removal.
        for (const name of names) await volumes.release(name, `files of ${id}`);
      }
    };
    try {
      for (const name of names) await volumes.use(name, `files of ${id}`);
      await imageMounts.ensure(container.record);
      // At places of their own: a start may come meanwhile and bind and release its.
      const key = `parts-${this.#opened++}`;
      parts = await bindSubpaths(directory, key, container.record.mounts);
      const { container: known } = await connection.call(connection.containers, "get", { id });
      const spec = JSON.parse(known?.spec?.value.toString("utf8") ?? "{}") as Partial<OciSpec>;
      tree = await Tree.open(view.path, { readOnly: spec.root?.readonly === true });
      for (const { type, source: given, destination, options } of spec.mounts ?? []) {
        const source = parts.places.get(destination) ?? given;
        if (type !== "bind" || !(await exists(source))) continue;
        await tree.mount({
          target: destination,
          source,
          readOnly: options.includes("ro") || options.includes("rro"),
        });
      }
      return { tree, close };
    } catch (error) {
      await close().catch((reason: unknown) => warn(`cannot close the files of ${id}`, reason));
      throw toEngineError(error, `cannot open the files of container ${id}`);
    }
  }
}

/** What its own kernel mounts show it. */
async function runningTree(container: Container): Promise<OpenTree | undefined> {
  const { status } = container;
  if (status.state !== "running") return undefined;
  const tree = await Tree.open(`/proc/${status.pid}/root`).catch((error: unknown) => {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  });
  // By now the number may be another process's.
  const isStill = container.status.state === "running" && container.status.pid === status.pid;
  if (tree !== undefined && isStill) return { tree, close: () => tree.close() };
  await tree?.close();
  if (!isStill) return undefined;
  throw new ClusterError("conflict", `container ${container.id} has just ended`);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** By the system's own tar, which knows extended attributes as Node does not. */
async function* archived(
  directory: string,
  mounts: readonly Mount[],
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const options = [
    "--create",
    "--format=pax",
    "--pax-option=delete=atime,delete=ctime",
    "--numeric-owner",
    "--sort=name",
    "--xattrs",
    "--xattrs-include=security.capability",
    "--null",
    "--verbatim-files-from",
    "--files-from=-",
  ];
  signal.throwIfAborted();
  const view = await openView(directory, mounts, "all");
  assert(view !== undefined, "a container has a layer of its own");
  try {
    const names = await readdir(view.path, "latin1");
    const child = spawn("tar", options, { cwd: view.path, env: { PATH: process.env["PATH"], LC_ALL: "C" } });
    const exited = new Promise<number | Error>((resolve) => {
      child.once("error", resolve);
      child.once("close", (code) => resolve(code ?? -1));
    });
    let said = "";
    child.stderr.on("data", (piece: Buffer) => {
      if (said.length < keptErrorBytes) said += piece.toString("utf8");
    });
    child.stdin.on("error", () => undefined); // It has ended; its code says why.
    child.stdin.end(Buffer.from(names.toSorted().join("\0"), "latin1"));
    const stop = (): void => void child.kill("SIGKILL");
    signal.addEventListener("abort", stop, { once: true });
    try {
      for await (const piece of child.stdout) yield piece as Buffer;
      const code = await exited;
      signal.throwIfAborted();
      // 1: a file changed while it was read.
      if (code !== 0 && code !== 1)
        throw new ClusterError("internal", `cannot archive: ${errorText(code)}: ${said.trim()}`);
    } finally {
      signal.removeEventListener("abort", stop);
      stop();
      await exited;
    }
  } finally {
    await view.close();
  }
}

export function viewsDirectory(runDir: string): string {
  return join(runDir, "views");
}

async function writtenBytes(directory: string): Promise<number> {
  return Number(await runTool("sh", ["-c", sumOfFiles, "sh", directory]));
}
