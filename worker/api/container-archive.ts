/** `/containers/{id}/archive`, `/changes` and `/export`: files of a container, in and out. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { ClusterError, errorText } from "../../model/errors.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { queryFlag, timeText } from "../../runtime/http.ts";
import type { OpenTree } from "../engine/container-files.ts";
import { decompressed, readTar } from "../engine/tar-stream.ts";
import { resolveUser } from "../engine/user.ts";
import { pack } from "../files/pack.ts";
import {
  bytesOf,
  linkOf,
  openContent,
  PathError,
  type Place,
  type Spot,
  textOf,
  type Tree,
} from "../files/tree.ts";
import { readOnly, requireWritable, unpack } from "../files/unpack.ts";
import { findContainer } from "./container.ts";
import type { ContainerDeps } from "./container-routes.ts";
import { lifeOf, queryOf, stream } from "./request.ts";

const statHeader = "x-docker-container-path-stat";
const tarType = "application/x-tar";
/** A client that sends nothing for this long holds up the start of its container, and is given up. */
const stallMs = 300_000;
const accountsLimitBytes = 1 << 20;

/** Bits of Go's `os.FileMode` beside the nine of permissions. */
const goModes: readonly (readonly [(place: Place) => boolean, number])[] = [
  [({ kind }) => kind === "directory", 31],
  [({ kind }) => kind === "link", 27],
  [({ kind }) => kind === "block" || kind === "character", 26],
  [({ kind }) => kind === "fifo", 25],
  [({ kind }) => kind === "socket", 24],
  [({ stats }) => (stats.mode & 0o4000n) !== 0n, 23],
  [({ stats }) => (stats.mode & 0o2000n) !== 0n, 22],
  [({ kind }) => kind === "character", 21],
  [({ stats }) => (stats.mode & 0o1000n) !== 0n, 20],
];

/** `HEAD` and `GET /containers/{id}/archive`: what is at a path, and for `GET` all of it as a tar archive. */
export async function readArchive(
  deps: ContainerDeps,
  name: string,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const path = pathOf(queryOf(request));
  const { id } = await findContainer(deps, name);
  const signal = lifeOf(reply, deps.ending);
  const opened = await deps.containers.engine.files.open(id, "read", signal);
  let spot: Spot | undefined;
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> =>
    (closed ??= (async () => {
      try {
        await spot?.close();
      } finally {
        await opened.close();
      }
    })());
  try {
    spot = await opened.tree.walk(bytesOf(`/${path}`), { last: "kept" });
    const headers = { [statHeader]: await printStat(opened.tree, spot, path) };
    if (request.method === "HEAD") {
      await close();
      return await reply
        .headers({ ...headers, "content-type": tarType })
        .code(200)
        .send();
    }
    await deps.containers.emit(id, "archive-path", { path });
    // Whoever has gone by now tells nobody any more.
    signal.throwIfAborted();
    const reading = { begun: false };
    // A client that is gone before the first byte is asked for leaves nobody to end what was opened.
    reply.raw.once("close", () => {
      if (!reading.begun)
        close().catch((error: unknown) => deps.log.warn({ id, error }, "cannot close files"));
    });
    return stream(
      reply,
      packed(deps, opened, { spot, base: bytesOf(baseOf(path)) }, reading, close),
      tarType,
      headers,
    );
  } catch (error) {
    await close();
    throw inClientsWords(error, { path, name });
  }
}

/** `PUT /containers/{id}/archive`: a tar archive, plain or gzipped, put into a directory. */
export async function writeArchive(
  deps: ContainerDeps,
  name: string,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const query = queryOf(request);
  const path = pathOf(query);
  const record = await findContainer(deps, name);
  const signal = lifeOf(reply, deps.ending);
  const opened = await deps.containers.engine.files.open(record.id, "write", signal);
  let spot: Spot | undefined;
  try {
    spot = await opened.tree.walk(bytesOf(`/${path}`), { last: "followed" });
    if (spot.last.kind !== "directory")
      throw new ClusterError("invalid-argument", "extraction point is not a directory");
    requireWritable(opened.tree, spot.names);
    const wantsOwner = queryFlag(query.get("copyUIDGID")) && record.user !== "";
    const options = {
      kinds: queryFlag(query.get("noOverwriteDirNonDir")) ? "kept" : "replaced",
      ...(wantsOwner && { owner: await ownerOf(opened.tree, record.user) }),
    } as const;
    const body = unstalled(deps, request.raw as AsyncIterable<Buffer>);
    await unpack(opened.tree, spot, readTar(await decompressed(body), "latin1"), options, signal);
    await deps.containers.emit(record.id, "extract-to-dir", { path });
  } catch (error) {
    throw inClientsWords(error, { path, name });
  } finally {
    await spot?.close();
    await opened.close();
  }
  return reply.code(200).send(); // Nothing of ours is open in it any more, should it be removed now.
}

/** `GET /containers/{id}/changes`; null when there are none, as clients expect. */
export async function listChanges(
  deps: ContainerDeps,
  name: string,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { id } = await findContainer(deps, name);
  const kinds = { modified: 0, added: 1, removed: 2 } as const;
  const changes = await deps.containers.engine.files.changes(id);
  const printed = changes.map(({ path, kind }) => ({ Path: path, Kind: kinds[kind] }));
  return sendJson(reply, 200, printed.length === 0 ? null : printed);
}

/** `GET /containers/{id}/export` */
export async function exportContainer(
  deps: ContainerDeps,
  name: string,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { id } = await findContainer(deps, name);
  const archive = await deps.containers.engine.files.archive(id, lifeOf(reply, deps.ending));
  await deps.containers.emit(id, "export");
  return stream(reply, archive, tarType);
}

function pathOf(query: URLSearchParams): string {
  const path = query.get("path") ?? "";
  if (path === "") throw new ClusterError("invalid-argument", "bad parameter: 'path' cannot be empty");
  if (path.includes("\0"))
    throw new ClusterError("invalid-argument", "bad parameter: 'path' has a zero byte");
  return path;
}

async function* packed(
  { log }: ContainerDeps,
  { tree }: OpenTree,
  { spot, base }: { readonly spot: Spot; readonly base: string },
  reading: { begun: boolean },
  close: () => Promise<void>,
): AsyncGenerator<Buffer> {
  reading.begun = true;
  try {
    yield* pack(tree, spot, base);
  } catch (error) {
    log.warn({ path: spot.path, error: errorText(error) }, "an archive of a container was not finished");
    throw error;
  } finally {
    await close();
  }
}

async function printStat(tree: Tree, spot: Spot, path: string): Promise<string> {
  const { last } = spot;
  const bits = goModes.filter(([holds]) => holds(last)).reduce((sum, [, bit]) => sum + 2 ** bit, 0);
  const text = JSON.stringify({
    name: baseOf(path) || "/",
    size: Number(last.stats.size),
    mode: bits + Number(last.stats.mode & 0o777n),
    mtime: timeText(Number(last.stats.mtimeMs)),
    linkTarget: last.kind === "link" ? await targetOf(tree, spot) : "",
  });
  return Buffer.from(text).toString("base64");
}

/** Where a link leads in the end, within the container; as far as it can be told when nothing is there. */
async function targetOf(tree: Tree, spot: Spot): Promise<string> {
  try {
    const target = await tree.walk(spot.path, { last: "followed" });
    await target.close();
    return textOf(target.path);
  } catch (error) {
    if (!(error instanceof PathError)) throw error;
    return textOf(await linkOf(spot.parent ?? tree.root, spot.names.at(-1) ?? ""));
  }
}

/** The last part of a path as the client wrote it; empty for the root. */
function baseOf(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1) ?? "";
}

async function ownerOf(tree: Tree, user: string): Promise<{ uid: number; gid: number }> {
  return resolveUser(user, [], await textAt(tree, "/etc/passwd"), await textAt(tree, "/etc/group"));
}

/** Empty for what is no small file. */
async function textAt(tree: Tree, path: string): Promise<string> {
  const spot = await tree.walk(path, { last: "followed" }).catch((error: unknown) => {
    if (error instanceof PathError) return undefined;
    throw error;
  });
  if (spot === undefined) return "";
  try {
    if (spot.last.kind !== "file") return "";
    const file = await openContent(spot.last);
    try {
      const { buffer, bytesRead } = await file.read(
        Buffer.alloc(accountsLimitBytes),
        0,
        accountsLimitBytes,
        0,
      );
      return buffer.toString("utf8", 0, bytesRead);
    } finally {
      await file.close();
    }
  } finally {
    await spot.close();
  }
}

async function* unstalled(
  { clock }: Pick<ContainerDeps, "clock">,
  body: AsyncIterable<Buffer>,
): AsyncGenerator<Buffer> {
  const pieces = body[Symbol.asyncIterator]();
  for (;;) {
    let cancel = (): void => undefined;
    const late = new Promise<never>((_resolve, reject) => {
      cancel = clock.after(stallMs, () =>
        reject(new ClusterError("deadline-exceeded", `the client sent nothing for ${stallMs / 1_000} s`)),
      );
    });
    const next = await Promise.race([pieces.next(), late]).finally(() => cancel());
    if (next.done === true) return;
    yield next.value;
  }
}

const kernelSays: Readonly<
  Record<string, readonly ["resource-exhausted" | "conflict" | "permission-denied", string]>
> = {
  ENOSPC: ["resource-exhausted", "no space left on device"],
  EDQUOT: ["resource-exhausted", "disk quota exceeded"],
  EBUSY: ["conflict", "device or resource busy"],
  EPERM: ["permission-denied", "operation not permitted"],
  EACCES: ["permission-denied", "permission denied"],
};

function inClientsWords(
  error: unknown,
  { path, name }: { readonly path: string; readonly name: string },
): unknown {
  if (error instanceof PathError) {
    if (error.refusal === "missing")
      return new ClusterError("not-found", `Could not find the file ${path} in container ${name}`, {
        cause: error,
      });
    const seen = {
      "no-directory": "not a directory",
      "too-many-links": "too many levels of symbolic links",
      "too-deep": "nested too deep",
    }[error.refusal];
    return new ClusterError("invalid-argument", `lstat ${path}: ${seen}`, { cause: error });
  }
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (code === "EROFS") return readOnly("root");
  const known = kernelSays[code];
  if (known !== undefined) return new ClusterError(known[0], `${path}: ${known[1]}`, { cause: error });
  if (/^E[A-Z]+$/.test(code))
    return new ClusterError("invalid-argument", errorText(error).replace(/\/proc\/self\/fd\/\d+/g, ""), {
      cause: error,
    });
  return error;
}
