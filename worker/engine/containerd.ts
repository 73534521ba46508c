/** The engine over containerd: opens what is there, then hands each call to the file that does it. */
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import type { HostSettings } from "../../proto/host.ts";
import type { Clock } from "../../runtime/clock.ts";
import { newContainerId, type Random } from "../../runtime/random.ts";
import { canReadAttributes } from "../files/attributes.ts";
import { OutputFile } from "../logs/file.ts";
import { outputReader } from "../logs/follow.ts";
import { openRaw, type OutputChunk, type RawOptions } from "../logs/raw.ts";
import type { LogReader } from "../logs/reader.ts";
import { clearFills } from "../mounts/resolve.ts";
import { openPayloads } from "../mounts/secret.ts";
import { clearSubpaths } from "../mounts/subpath.ts";
import { runTool } from "../mounts/tool.ts";
import { openVolumes, type Volumes } from "../mounts/volume.ts";
import { type CommitRequest, commitContainer } from "./commit.ts";
import { SnapshotFiles, viewsDirectory } from "./container-files.ts";
import { Connection, toEngineError } from "./connection.ts";
import { Container, statusOfStored } from "./container.ts";
import { ContainerdImages, noSuchImage } from "./containerd-images.ts";
import { createContainer, type CreateDeps, fillDirectory, stdinOf } from "./create.ts";
import { type ExecSession, openSession, type SessionRequest } from "./exec-session.ts";
import type { Input, LocalEngine } from "./local.ts";
import { ImageMounts } from "./image-mounts.ts";
import type { OciResources, OciSpec } from "./oci.ts";
import type {
  ContainerCreate,
  ContainerRecord,
  Distribution,
  EngineEvent,
  EngineInfo,
  ExecRequest,
  ExecResult,
  ExitStatus,
  Image,
  PullOptions,
  Started,
  StopOptions,
} from "./engine.ts";
import { EventQueue } from "./event-queue.ts";
import { execInContainer } from "./exec.ts";
import { describeHost, type HostDescription, imageArchitecture } from "./host.ts";
import type { ImageStore } from "./image-store.ts";
import { signalFirstProcess } from "./first-process.ts";
import { IdleQueue } from "./idle-queue.ts";
import { Images } from "./images.ts";
import {
  killContainer,
  pauseContainer,
  removeContainer,
  startContainer,
  stopContainer,
  subpathDirectory,
  waitContainer,
} from "./lifecycle.ts";
import { type MonitorDeps, runMonitor } from "./monitor.ts";
import { Records } from "./records.ts";
import { SeccompFilters } from "./filters.ts";
import { Runtime } from "./runtime.ts";
import { parseRuntimeVersion, runtimeWarnings } from "./runtime-gate.ts";
import { SocketAddresses } from "./shim-addresses.ts";
import { ShimGroups } from "./shims.ts";
import { snapshotter } from "./snapshots.ts";
import type { LoadedImage } from "./store-image.ts";
import { Tasks, type TerminalSize } from "./task.ts";

/** Opening goes on without containerd after this long; calls then fail until it is there. */
const firstContactMs = 10_000;

export type EngineSettings = Pick<
  HostSettings,
  | "stateDir"
  | "runDir"
  | "hostname"
  | "containerd"
  | "containerdRoot"
  | "runtime"
  | "runtimeRoot"
  | "cgroupParent"
  | "insecureRegistries"
  | "registryMirrors"
  | "registryCertificates"
  | "proxies"
>;

export interface EngineDeps {
  readonly clock: Clock;
  readonly random: Random;
  /** What went wrong where nobody waits for the outcome. */
  readonly warn: (message: string, error: unknown) => void;
}

/**
 * Opens the engine over what an earlier one left. Settles once every container has been compared with
 * containerd, or, when containerd does not answer, after `firstContactMs`.
 */
export async function openContainerdEngine(deps: EngineDeps, settings: EngineSettings): Promise<LocalEngine> {
  const engine = await ContainerdEngine.open(deps, settings);
  await engine.firstContact();
  return engine;
}

function archiveDirectory(stateDir: string): string {
  return join(stateDir, "archives");
}

class ContainerdEngine implements LocalEngine {
  readonly imageStore: ImageStore;
  readonly volumes: Volumes;
  readonly files: SnapshotFiles;
  readonly #deps: MonitorDeps & CreateDeps;
  readonly #containers = new Map<string, Container>();
  readonly #images: Images;
  readonly #imageMounts: ImageMounts;
  readonly #host: HostDescription;
  readonly #rootDir: string;
  readonly #events = new EventQueue();
  readonly #closing = new AbortController();
  readonly #contact = new AbortController();
  /** Containers that are being made, and of which image once that is known. */
  readonly #creating = new Map<string, string>();
  readonly #runtimeTexts = new Map<string, Promise<string>>();
  #readsAttributes: Promise<boolean> | undefined;
  #monitor: Promise<void> = Promise.resolve();
  #connected = false;
  #version = { version: "", revision: "" };

  private constructor(deps: EngineDeps, settings: EngineSettings, host: HostDescription) {
    const { clock, random, warn } = deps;
    const { stateDir, runDir, cgroupParent } = settings;
    const connection = new Connection(settings.containerd, settings.containerdRoot);
    this.#host = host;
    this.#rootDir = stateDir;
    this.#images = new Images({
      connection,
      registries: {
        insecure: settings.insecureRegistries,
        mirrors: settings.registryMirrors ?? [],
        certificateDirectories: settings.registryCertificates ?? [],
        ...(settings.proxies !== undefined && { proxies: settings.proxies }),
      },
      platform: { os: "linux", architecture: imageArchitecture(host.machine) },
      directory: stateDir,
    });
    this.volumes = openVolumes({ clock, directory: join(stateDir, "volumes"), warn });
    this.imageStore = new ContainerdImages({
      connection,
      images: this.#images,
      directory: archiveDirectory(stateDir),
      users: (imageId) => this.#usersOf(imageId),
      emit: (event) => this.#events.send({ kind: "image", atMs: clock.now(), ...event }),
    });
    this.#imageMounts = new ImageMounts({
      connection,
      directory: join(runDir, "images"),
      find: async (reference) => {
        const image = await this.#images.find(reference);
        if (image === undefined) throw noSuchImage(reference);
        return image;
      },
    });
    this.files = new SnapshotFiles({
      connection,
      warn,
      imageMounts: this.#imageMounts,
      volumes: this.volumes,
      directory: viewsDirectory(runDir),
      require: (id) => this.#require(id),
    });
    const shims = new ShimGroups(random, new SocketAddresses(settings));
    const runtime = new Runtime(settings.runtime, settings.runtimeRoot);
    this.#deps = {
      clock,
      random,
      warn,
      connection,
      host,
      tasks: new Tasks(connection, shims),
      shims,
      filters: new SeccompFilters((id) => runtime.compiledFilter(id)),
      runtime,
      idle: new IdleQueue(clock),
      signalDirectly: signalFirstProcess,
      records: new Records(join(stateDir, "containers")),
      volumes: this.volumes,
      imageMounts: this.#imageMounts,
      payloads: openPayloads(join(runDir, "payloads")),
      runDirectory: join(runDir, "containers"),
      ownDirectories: [stateDir, runDir],
      cgroupVersion: host.cgroupVersion,
      cgroupPath: (id) => join("/", cgroupParent, id),
      emit: (event) => this.#events.send(event),
      users: new Map(),
      execPrefix: newContainerId(random).slice(0, 8),
      containers: this.#containers,
      remains: new Set(),
      connected: (version) => {
        this.#version = { version: version.version, revision: version.revision };
        this.#connected = true;
        this.#contact.abort();
        this.#events.send({ kind: "engine", action: "connected", atMs: clock.now() });
      },
      disconnected: () => {
        if (this.#connected) this.#events.send({ kind: "engine", action: "disconnected", atMs: clock.now() });
        this.#connected = false;
      },
    };
  }

  static async open(deps: EngineDeps, settings: EngineSettings): Promise<ContainerdEngine> {
    const engine = new ContainerdEngine(deps, settings, await describeHost(settings.hostname));
    await rm(archiveDirectory(settings.stateDir), { recursive: true, force: true }); // What a killed process left.
    await engine.#load();
    engine.#monitor = runMonitor(engine.#deps, engine.#closing.signal);
    return engine;
  }

  async firstContact(): Promise<void> {
    const { clock } = this.#deps;
    await clock.sleep(firstContactMs, this.#contact.signal).catch(() => {});
  }

  async pull(reference: string, options: PullOptions, signal: AbortSignal): Promise<Image> {
    const { image } = await this.#images.pull(reference, options, signal);
    const atMs = this.#deps.clock.now();
    this.#events.send({ kind: "image", action: "pull", atMs, id: image.id, reference: image.reference });
    return image;
  }

  image(reference: string): Promise<Image | undefined> {
    return this.#images.find(reference);
  }

  images(): Promise<readonly Image[]> {
    return this.#images.list();
  }

  resolve(reference: string, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<Distribution> {
    return this.#images.resolve(reference, auth, signal);
  }

  async create(request: ContainerCreate, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { id } = request;
    if (this.#containers.has(id) || this.#creating.has(id)) {
      throw new ClusterError("conflict", `cannot create container ${id}: the id is already in use`);
    }
    this.#creating.set(id, "");
    try {
      const image = await this.#images.find(request.image);
      if (image === undefined) throw new ClusterError("not-found", `No such image: ${request.image}`);
      this.#creating.set(id, image.id);
      const created = this.#deps.idle.busy(() => createContainer(this.#deps, request, image, signal));
      this.#containers.set(id, await created);
    } finally {
      this.#creating.delete(id);
    }
  }

  async start(id: string, signal: AbortSignal, adjust?: (spec: OciSpec) => OciSpec): Promise<Started> {
    signal.throwIfAborted();
    const container = this.#require(id);
    return this.#deps.idle.busy(() => startContainer(this.#deps, container, adjust));
  }

  async stop(id: string, options: StopOptions, abort: AbortSignal): Promise<ExitStatus | undefined> {
    return stopContainer(this.#deps, this.#require(id), options, abort);
  }

  async kill(id: string, signal: string): Promise<void> {
    await killContainer(this.#deps, this.#require(id), signal);
  }

  async wait(id: string, abort: AbortSignal): Promise<ExitStatus> {
    return waitContainer(this.#require(id), abort);
  }

  async remove(id: string, volumes: "kept" | "removed" = "removed"): Promise<void> {
    const container = this.#containers.get(id);
    if (container === undefined) return;
    if (container.activity !== undefined) {
      throw new ClusterError("conflict", `cannot remove container ${id}: it is ${container.activity}`);
    }
    await removeContainer(this.#deps, container, volumes === "kept");
    this.#containers.delete(id);
    const { name, image, labels } = container.stored;
    const atMs = this.#deps.clock.now();
    this.#events.send({ kind: "container", action: "destroy", atMs, id, name, image, labels });
  }

  whenIdle<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
    return this.#deps.idle.whenIdle(work, signal).done;
  }

  async commit(id: string, request: CommitRequest, signal: AbortSignal): Promise<LoadedImage> {
    const { connection } = this.#deps;
    const { imageId } = this.#require(id).stored;
    const image = await this.#images.find(imageId);
    if (image === undefined) throw new ClusterError("not-found", `No such image: ${imageId}`);
    const content = await this.#images.content(image);
    const { names, layers } = this.#images;
    return commitContainer({ connection, names, layers }, id, content, request, signal);
  }

  async rename(id: string, name: string): Promise<void> {
    const container = this.#require(id);
    const stored = { ...container.stored, name };
    await this.#deps.records.create(stored);
    container.stored = stored;
  }

  async pause(id: string): Promise<void> {
    await pauseContainer(this.#deps, this.#require(id), "pause");
  }

  async resume(id: string): Promise<void> {
    await pauseContainer(this.#deps, this.#require(id), "resume");
  }

  async update(id: string, resources: OciResources): Promise<void> {
    try {
      await this.#deps.tasks.update(this.#require(id).id, resources);
    } catch (error) {
      throw toEngineError(error, `cannot update container ${id}`);
    }
  }

  async resize(id: string, size: TerminalSize): Promise<void> {
    const { status } = this.#require(id);
    if (status.state !== "running") throw new ClusterError("conflict", `container ${id} is not running`);
    try {
      await this.#deps.tasks.resize(id, size);
    } catch (error) {
      throw toEngineError(error, `cannot resize the terminal of ${id}`);
    }
  }

  async attach(id: string, options: RawOptions, signal: AbortSignal): Promise<AsyncGenerator<OutputChunk>> {
    const { output } = this.#require(id);
    if (output === undefined)
      throw new ClusterError("failed-precondition", `container ${id} keeps no output`);
    return openRaw(output, options, signal);
  }

  stdin(id: string): Input | undefined {
    return this.#require(id).stdin;
  }

  openSession(id: string, request: SessionRequest): Promise<ExecSession> {
    return openSession(this.#deps, this.#require(id), request);
  }

  async exec(id: string, request: ExecRequest, abort: AbortSignal): Promise<ExecResult> {
    return execInContainer(this.#deps, this.#require(id), request, abort);
  }

  async list(): Promise<readonly ContainerRecord[]> {
    // The same order for every process of ours, also of those that were made in one moment.
    return [...this.#containers.values()]
      .map(({ record }) => record)
      .toSorted((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  async inspect(id: string): Promise<ContainerRecord | undefined> {
    return this.#containers.get(id)?.record;
  }

  logs(id: string): LogReader {
    const container = this.#require(id);
    const { output, stored } = container;
    if (output !== undefined) return outputReader(output, () => container.cleaned());
    throw new ClusterError(
      "failed-precondition",
      `configured logging driver does not support reading: container ${id} has ${stored.logDriver}`,
    );
  }

  events(abort: AbortSignal): AsyncIterable<EngineEvent> {
    return this.#events.subscribe(abort);
  }

  async info(): Promise<EngineInfo> {
    const { cgroupVersion, kernelVersion, operatingSystem, machine, cpuCount, memoryBytes } = this.#host;
    const { binary } = this.#deps.runtime;
    const said = await this.#runtimeSays(binary);
    return {
      connected: this.#connected,
      ...this.#version,
      runtime: binary,
      runtimeVersion: parseRuntimeVersion(said)?.version ?? "",
      warnings: [...runtimeWarnings(said), ...(await this.#attributeWarnings())],
      storageDriver: snapshotter,
      cgroupVersion,
      kernelVersion,
      operatingSystem,
      architecture: machine,
      cpuCount,
      memoryBytes,
      rootDir: this.#rootDir,
      lastCapability: this.#host.lastCapability,
      swapLimit: this.#host.swapLimit,
      blockWeight: this.#host.blockWeight,
      memoryNodes: this.#host.memoryNodes,
      limits: this.#host.limits,
    };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#deps.idle.close();
    this.#images.close();
    this.#deps.connection.close();
    await this.#monitor;
    for (const { output } of this.#containers.values()) output?.close();
  }

  /** Asked once of each; one that is missing is told of where it is needed. */
  #runtimeSays(binary: string): Promise<string> {
    const known = this.#runtimeTexts.get(binary) ?? runTool(binary, ["--version"]).catch(() => "");
    this.#runtimeTexts.set(binary, known);
    return known;
  }

  /** Asked once. */
  async #attributeWarnings(): Promise<readonly string[]> {
    this.#readsAttributes ??= canReadAttributes();
    if (await this.#readsAttributes) return [];
    return [
      "No getfattr on this host: docker cp leaves out what files may do beyond others (security.capability); install the Debian package attr",
    ];
  }

  #usersOf(imageId: string): { id: string; running: boolean }[] {
    const creating = [...this.#creating].filter(([, used]) => used === imageId);
    const made = [...this.#containers.values()]
      .filter(
        ({ stored }) =>
          stored.imageId === imageId || stored.mounts.some((mount) => mount.imageId === imageId),
      )
      .map(({ id, status }) => ({ id, running: status.state === "running" }));
    return [...creating.map(([id]) => ({ id, running: false })), ...made];
  }

  #require(id: string): Container {
    const container = this.#containers.get(id);
    if (container === undefined) throw new ClusterError("not-found", `No such container: ${id}`);
    return container;
  }

  /** What an earlier process left on disk; half-made containers are removed with all that belongs to them. */
  async #load(): Promise<void> {
    const { clock, records, volumes, payloads, runDirectory, shims, warn } = this.#deps;
    await clearFills(fillDirectory(runDirectory)).catch((error: unknown) =>
      warn("cannot clear what filling a volume left", error),
    );
    await clearSubpaths(subpathDirectory(runDirectory)).catch((error: unknown) =>
      warn("cannot clear parts of volumes that a start left", error),
    );
    await this.files.clear().catch((error: unknown) => warn("cannot clear views of containers", error));
    const { containers, remains } = await records.load();
    shims.adopt(containers.map(({ container }) => container));
    for (const { container: stored, state } of containers) {
      const container = new Container(stored, statusOfStored(state));
      if (stored.log.kept) {
        container.output = await OutputFile.open({ clock, warn }, records.path(stored.id), stored.log);
        if (container.status.state === "running") container.output.watch();
      }
      container.stdin = stdinOf(
        this.#deps,
        stored,
        container.status.state === "running" ? "running" : "waiting",
      );
      this.#containers.set(stored.id, container);
      for (const { type, name } of stored.mounts)
        if (type === "volume" && name !== undefined) volumes.claim(name, stored.id);
      if (container.status.state !== "running") continue;
      for (const { type, name } of stored.mounts) {
        if (type !== "volume" || name === undefined) continue;
        await volumes
          .hold(name, stored.id)
          .catch((error: unknown) => warn(`cannot look at volume ${name}`, error));
      }
    }
    await volumes
      .releaseUnused()
      .catch((error: unknown) => warn("cannot unmount volumes that nobody uses", error));
    for (const id of remains) {
      await payloads.remove(id);
      this.#deps.remains.add(id);
    }
    const used = new Set(containers.flatMap(({ container }) => container.mounts.map(({ name }) => name)));
    for (const { name, anonymous } of await volumes.list()) {
      if (anonymous && !used.has(name)) await volumes.remove(name);
    }
  }
}
