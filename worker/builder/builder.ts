/** The builds of this host: how many at a time, what they keep, and what is cleared after them. */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { noProxies } from "../../proto/host.ts";
import { Limit } from "../../runtime/limit.ts";
import { newContainerId } from "../../runtime/random.ts";
import { anyOf, deadline, orAborted } from "../../runtime/signal.ts";
import { diskBytes } from "../mounts/disk-bytes.ts";
import { Buildah, removeCgroup } from "./buildah.ts";
import { stepFormat, stepsBefore } from "./cache.ts";
import { type BuildContext, unpackContext } from "./context.ts";
import { dockerfileLimitBytes, parseDockerfile } from "./dockerfile.ts";
import { cgroupOf, type JobDeps, runJob } from "./job.ts";
import { planBuild } from "./plan.ts";
import type { BuildListener, BuildRequest } from "./request.ts";

const parallelBuilds = 4;
/** Uploading, waiting and running ones; more are refused. */
const openBuilds = 32;
const contextLimitBytes = 16 * 2 ** 30;
/** A build that takes longer has hung. */
const buildTimeoutMs = 6 * 3_600_000;
/** A client that sends nothing of its context for this long is gone. */
const contextIdleMs = 120_000;

export interface Pruned {
  /** Ids of what the cache held. */
  readonly ids: readonly string[];
  readonly reclaimedBytes: number;
}

export class Builder {
  readonly #deps: JobDeps;
  /** Of the cache, when they could last be counted. */
  #lastBytes = 0;
  readonly #buildah: Buildah;
  readonly #running = new Limit(parallelBuilds);
  /** Base images on their way into buildah, by id. */
  readonly #imports = new Map<string, Promise<void>>();
  readonly #work: string;
  readonly #storage: string;
  #open = 0;
  /** Clearing what killed builds left, or the cache; no build begins before it is over. */
  #clearing: Promise<unknown> = Promise.resolve();
  /** True while a build that was killed, maybe of an earlier process, may have left something. */
  #hasRemains = true;

  constructor(deps: JobDeps) {
    this.#deps = deps;
    const directory = join(deps.settings.stateDir, "build");
    this.#work = join(directory, "work");
    this.#storage = join(directory, "storage");
    const directories = {
      root: this.#storage,
      runRoot: join(deps.settings.runDir, "build"),
      settings: join(directory, "settings"),
    };
    this.#buildah = new Buildah(directories, deps.settings.proxies ?? noProxies);
  }

  /**
   * Carries out a Dockerfile. Nothing is left of a build that fails or is cancelled but its finished steps in the cache.
   *
   * @param body - The context, a tar archive, plain or gzipped.
   * @returns The image's id.
   * @throws {CommandFailed} when a command of it fails.
   * @throws {ClusterError} `invalid-argument` for the context and the Dockerfile; as `Engine.pull` for base images;
   *   `resource-exhausted` when too many builds are open; `unavailable` when buildah is not installed.
   */
  async build(
    request: BuildRequest,
    body: AsyncIterable<Buffer>,
    listener: BuildListener,
    signal: AbortSignal,
  ): Promise<string> {
    if (this.#open >= openBuilds)
      throw new ClusterError(
        "resource-exhausted",
        `${this.#open} builds are open, at most ${openBuilds} are accepted`,
      );
    const id = newContainerId(this.#deps.random);
    const work = join(this.#work, id);
    using limit = deadline(this.#deps.clock, buildTimeoutMs, "the build", signal);
    this.#open++;
    try {
      await this.#clear(limit.signal);
      await mkdir(join(work, "context"), { recursive: true, mode: 0o700 });
      const context = await this.#receive(join(work, "context"), body, limit.signal);
      const file = parseDockerfile(await dockerfileOf(context, request.dockerfile));
      const plan = planBuild(file, request);
      const job = { id, work, request, plan, escape: file.escape };
      const tools = { ...this.#deps, buildah: this.#buildah, imports: this.#imports };
      return await this.#running.run(() => runJob(tools, job, listener, limit.signal), limit.signal);
    } catch (error) {
      if (limit.signal.aborted) this.#hasRemains = true;
      throw error;
    } finally {
      await rm(work, { recursive: true, force: true });
      this.#open--;
    }
  }

  /**
   * Gives back the cache. While a build is open, all of it may be in use and nothing is given back.
   *
   * @param beforeMs - Steps that were made before that time; absent: all.
   */
  async prune(beforeMs: number | undefined, signal: AbortSignal): Promise<Pruned> {
    if (this.#open > 0) return { ids: [], reclaimedBytes: 0 };
    const pruning = this.#clearing.then(() => this.#prune(beforeMs, signal));
    this.#clearing = pruning.catch(() => undefined); // Whoever asked is told.
    return pruning;
  }

  async #prune(beforeMs: number | undefined, signal: AbortSignal): Promise<Pruned> {
    const temporary = join(this.#work, "prune");
    await mkdir(temporary, { recursive: true, mode: 0o700 });
    const run = (...args: string[]): Promise<string> =>
      this.#buildah.must("clear the build cache", { args, temporary }, signal);
    const list = await run("images", "-a", "-n", "--no-trunc", "--format", stepFormat);
    const ids = stepsBefore(list, beforeMs);
    const beforeBytes = await this.#storageBytes();
    await run("rm", "--all");
    // What later steps share with those that go stays, and they with it.
    if (ids.length > 0) await run("rmi", "--force", ...(beforeMs === undefined ? ["--all"] : ids));
    const reclaimedBytes = Math.max(0, beforeBytes - (await this.#storageBytes()));
    return { ids, reclaimedBytes };
  }

  /** What the cache takes on the disk. */
  async cacheBytes(): Promise<number> {
    const isThere = await stat(this.#storage).then(
      () => true,
      () => false,
    );
    return isThere ? this.#storageBytes() : 0;
  }

  async #storageBytes(): Promise<number> {
    this.#lastBytes = (await diskBytes(this.#storage, this.#deps.warn)) ?? this.#lastBytes;
    return this.#lastBytes;
  }

  /** Working containers and directories of builds that were killed; only while no other build may own them. */
  async #clear(signal: AbortSignal): Promise<void> {
    if (this.#hasRemains && this.#open === 1) {
      this.#hasRemains = false;
      const clearing = this.#clearing.then(() => this.#clearRemains(signal));
      this.#clearing = clearing.catch(() => {
        this.#hasRemains = true;
      });
    }
    await orAborted(this.#clearing, signal);
  }

  async #clearRemains(signal: AbortSignal): Promise<void> {
    const temporary = join(this.#work, "clear");
    await mkdir(temporary, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#work)) {
      if (/^[0-9a-f]{64}$/.test(name)) await removeCgroup(this.#deps.clock, cgroupOf(this.#deps, name));
      if (join(this.#work, name) !== temporary)
        await rm(join(this.#work, name), { recursive: true, force: true });
    }
    await this.#buildah.must("clear earlier builds", { args: ["rm", "--all"], temporary }, signal);
  }

  /** Everything that the client sends; a silent one is given up. */
  async #receive(directory: string, body: AsyncIterable<Buffer>, signal: AbortSignal): Promise<BuildContext> {
    const { clock } = this.#deps;
    const idle = new AbortController();
    using linked = anyOf(signal, idle.signal);
    const either = linked.signal;
    const source = body[Symbol.asyncIterator]();
    async function* watched(): AsyncGenerator<Buffer> {
      for (;;) {
        const cancel = clock.after(contextIdleMs, () =>
          idle.abort(
            new ClusterError(
              "deadline-exceeded",
              `nothing of the build context came for ${contextIdleMs / 1_000} s`,
            ),
          ),
        );
        const next = await orAborted(source.next(), either).finally(cancel);
        if (next.done === true) return;
        yield next.value;
      }
    }
    try {
      return await unpackContext(directory, watched(), contextLimitBytes, either);
    } catch (error) {
      // By this iterator, as nobody else can read on: a client that sends reads no answer before it has sent all.
      void drain(source, () => clock.after(contextIdleMs, () => void source.return?.())).catch(
        () => undefined,
      );
      throw error;
    }
  }
}

/** Reads the rest to nowhere. @param watch - Gives up unless what it returns is called. */
async function drain(source: AsyncIterator<Buffer>, watch: () => () => void): Promise<void> {
  let bytes = 0;
  for (;;) {
    const next = await source.next().finally(watch());
    if (next.done === true) return;
    bytes += next.value.length;
    if (bytes > contextLimitBytes) return void (await source.return?.());
  }
}

async function dockerfileOf(context: BuildContext, asked: string): Promise<string> {
  const names = asked === "" ? ["Dockerfile", "dockerfile"] : [asked.replace(/^\/+/, "")];
  for (const name of names) {
    const text = await context.text(name, dockerfileLimitBytes);
    if (text === undefined) continue;
    if (text.trim() === "")
      throw new ClusterError("invalid-argument", `the Dockerfile (${name}) cannot be empty`);
    return text;
  }
  throw new ClusterError("invalid-argument", `Cannot locate specified Dockerfile: ${names[0]}`);
}
