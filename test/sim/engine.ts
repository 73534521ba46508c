/**
 * An engine in memory on an injected clock: what containers do is scripted per image, so that tests of
 * the agent decide what fails, how long it takes and when a container ends.
 */
import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import type { Clock } from "../../runtime/clock.ts";
import type {
  ContainerCreate,
  ContainerRecord,
  ContainerState,
  Distribution,
  Engine,
  EngineEvent,
  EngineInfo,
  ExecRequest,
  ExecResult,
  ExitStatus,
  Image,
  ImageConfig,
  PullOptions,
  Started,
  StopOptions,
} from "../../worker/engine/engine.ts";
import type { LogLine, LogOptions, LogReader } from "../../worker/logs/reader.ts";
import { FakeImageStore } from "./image-store.ts";
import { FakeVolumes } from "./volumes.ts";

/** What an image and its containers do; everything absent works at once and for ever. */
export interface ImageScript {
  readonly config?: Partial<ImageConfig>;
  readonly pullError?: ClusterError;
  readonly pullMs?: number;
  readonly createError?: ClusterError;
  readonly startError?: ClusterError;
  readonly startMs?: number;
  /** Ends by itself after this long. */
  readonly exitAfterMs?: number;
  readonly exitCode?: number;
  /** Time from the stop signal to the end, exit code 143; "ignores" needs SIGKILL. */
  readonly stopMs?: number | "ignores";
  readonly output?: readonly string[];
  /** Health checks and other commands. */
  readonly exec?: (request: ExecRequest) => ExecResult | ClusterError;
}

interface FakeContainer {
  readonly request: ContainerCreate;
  readonly script: ImageScript;
  record: ContainerRecord;
  readonly lines: LogLine[];
}

export interface FakeEngineOptions {
  /** By reference; an image that is not here cannot be pulled. */
  readonly registry: Readonly<Record<string, ImageScript>>;
  /** References that are present from the start. */
  readonly present?: readonly string[];
}

const noConfig: ImageConfig = {
  env: [],
  entrypoint: [],
  cmd: ["true"],
  user: "",
  workingDir: "",
  labels: {},
  exposedPorts: [],
  volumes: [],
};

export class FakeEngine implements Engine {
  /** Every call in order, such as "start 1f…"; for tests that assert what was done. */
  readonly calls: string[] = [];
  /** The host starts and stops so much that what waits for it to be idle waits for ever. */
  isBusy = false;
  readonly #clock: Clock;
  readonly #registry: Record<string, ImageScript>;
  readonly #images = new Map<string, Image>();
  readonly imageStore = new FakeImageStore(this.#images);
  readonly volumes = new FakeVolumes();
  readonly #containers = new Map<string, FakeContainer>();
  readonly #listeners = new Set<(event: EngineEvent) => void>();
  readonly #changed = new Set<() => void>();
  #nextPid = 1000;

  constructor(clock: Clock, options: FakeEngineOptions) {
    this.#clock = clock;
    this.#registry = { ...options.registry };
    for (const reference of options.present ?? []) this.#keepImage(reference);
  }

  /** Changes what an image does from now on. */
  setImage(reference: string, script: ImageScript): void {
    this.#registry[reference] = script;
  }

  /** Ends a running container as if its process had ended. */
  exit(id: string, exitCode: number, oomKilled = false): void {
    const container = this.#require(id);
    if (container.record.status.state !== "running") return;
    const exit: ExitStatus = { exitCode, atMs: this.#clock.now(), oomKilled, error: "" };
    this.#setState(container, { state: "stopped", startedAtMs: container.record.status.startedAtMs, exit });
    this.#emitContainer(container, "die", { exit });
  }

  /** Adds a line of output. */
  write(id: string, text: string, stream: "stdout" | "stderr" = "stdout"): void {
    const line = new TextEncoder().encode(text);
    this.#require(id).lines.push({ stream, timeMs: this.#clock.now(), line, partial: false });
    this.#wake();
  }

  /** Every container, as `list` gives them. */
  records(): readonly ContainerRecord[] {
    return [...this.#containers.values()].map(({ record }) => record);
  }

  /** What `create` was given. */
  request(id: string): ContainerCreate {
    return this.#require(id).request;
  }

  async pull(reference: string, options: PullOptions, signal: AbortSignal): Promise<Image> {
    this.calls.push(`pull ${reference}`);
    const script = this.#registry[reference];
    if (script?.pullMs !== undefined) await this.#clock.sleep(script.pullMs, signal);
    if (script === undefined) {
      throw new ClusterError("not-found", `manifest for ${reference} not found: manifest unknown`);
    }
    if (script.pullError !== undefined) throw script.pullError;
    const image = this.#keepImage(reference);
    options.onProgress?.({ kind: "done", changed: true });
    return image;
  }

  async image(reference: string): Promise<Image | undefined> {
    return this.#images.get(reference);
  }

  async images(): Promise<readonly Image[]> {
    return [...this.#images.values()];
  }

  async resolve(
    reference: string,
    _auth: RegistryAuth | undefined,
    _signal: AbortSignal,
  ): Promise<Distribution> {
    if (this.#registry[reference] === undefined) {
      throw new ClusterError("not-found", `manifest unknown: ${reference}`);
    }
    return {
      descriptor: {
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        digest: fakeDigest(reference),
        size: 1,
      },
      platforms: [{ architecture: "amd64", os: "linux" }],
    };
  }

  async create(request: ContainerCreate, _signal: AbortSignal): Promise<void> {
    this.calls.push(`create ${request.name}`);
    if (this.#containers.has(request.id)) {
      throw new ClusterError("conflict", `container ${request.id} already exists`);
    }
    const image = this.#images.get(request.image);
    if (image === undefined) throw new ClusterError("not-found", `No such image: ${request.image}`);
    const script = this.#registry[request.image] ?? {};
    if (script.createError !== undefined) throw script.createError;
    const container: FakeContainer = {
      request,
      script,
      record: recordOf(request, image, this.#clock.now()),
      lines: [],
    };
    this.#containers.set(request.id, container);
    this.#emitContainer(container, "create");
  }

  async start(id: string, signal: AbortSignal): Promise<Started> {
    this.calls.push(`start ${id}`);
    const container = this.#require(id);
    const { script } = container;
    if (container.record.status.state !== "created") {
      throw new ClusterError("conflict", `container ${id} was started before`);
    }
    if (script.startMs !== undefined) await this.#clock.sleep(script.startMs, signal);
    const startedAtMs = this.#clock.now();
    if (script.startError !== undefined) {
      const exit = { exitCode: 127, atMs: startedAtMs, oomKilled: false, error: script.startError.message };
      this.#setState(container, { state: "stopped", exit });
      throw script.startError;
    }
    const pid = this.#nextPid++;
    this.#setState(container, { state: "running", pid, startedAtMs, oomKilled: false });
    this.#emitContainer(container, "start");
    for (const text of script.output ?? []) this.write(id, text);
    if (script.exitAfterMs !== undefined) {
      this.#clock.after(script.exitAfterMs, () => this.#exitIfThere(id, script.exitCode ?? 0));
    }
    return { pid, startedAtMs };
  }

  async stop(id: string, options: StopOptions, abort: AbortSignal): Promise<ExitStatus | undefined> {
    this.calls.push(`stop ${id} ${options.signal ?? ""}`.trimEnd());
    const container = this.#require(id);
    const { status } = container.record;
    if (status.state === "created") return undefined;
    if (status.state === "stopped") return status.exit;
    this.#emitContainer(container, "kill", { signal: options.signal ?? "SIGTERM" });
    const { stopMs = 0 } = container.script;
    if (stopMs === "ignores" || stopMs > options.graceMs) {
      this.#clock.after(options.graceMs, () => this.#exitIfThere(id, 137));
    } else {
      this.#clock.after(stopMs, () => this.#exitIfThere(id, 143));
    }
    return this.wait(id, abort);
  }

  async kill(id: string, signal: string): Promise<void> {
    this.calls.push(`kill ${id} ${signal}`);
    const container = this.#require(id);
    if (container.record.status.state !== "running") {
      throw new ClusterError("conflict", `container ${id} is not running`);
    }
    this.#emitContainer(container, "kill", { signal });
    if (/^(SIG)?KILL$|^9$/.test(signal)) this.exit(id, 137);
  }

  async wait(id: string, abort: AbortSignal): Promise<ExitStatus> {
    for (;;) {
      const { status } = this.#require(id).record;
      if (status.state === "stopped") return status.exit;
      abort.throwIfAborted();
      await this.#change(abort);
    }
  }

  async remove(id: string): Promise<void> {
    this.calls.push(`remove ${id}`);
    const container = this.#containers.get(id);
    if (container === undefined) return;
    this.#exitIfThere(id, 137);
    this.#containers.delete(id);
    this.#emitContainer(container, "destroy");
  }

  async whenIdle<Result>(work: () => Promise<Result>, signal: AbortSignal): Promise<Result> {
    this.calls.push("when idle");
    while (this.isBusy) {
      signal.throwIfAborted();
      await this.#change(signal);
    }
    return work();
  }

  async exec(id: string, request: ExecRequest, _abort: AbortSignal): Promise<ExecResult> {
    const container = this.#require(id);
    if (container.record.status.state !== "running") {
      throw new ClusterError("conflict", `container ${id} is not running`);
    }
    const result = container.script.exec?.(request) ?? { exitCode: 0, output: "" };
    if (result instanceof ClusterError) throw result;
    return result;
  }

  async list(): Promise<readonly ContainerRecord[]> {
    return this.records();
  }

  async inspect(id: string): Promise<ContainerRecord | undefined> {
    return this.#containers.get(id)?.record;
  }

  logs(id: string): LogReader {
    const container = this.#require(id);
    return { read: (options, signal) => this.#readLines(container, options, signal) };
  }

  async *events(abort: AbortSignal): AsyncGenerator<EngineEvent> {
    const queue: EngineEvent[] = [];
    const listener = (event: EngineEvent): void => void queue.push(event);
    this.#listeners.add(listener);
    try {
      while (!abort.aborted) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else await this.#change(abort);
      }
    } finally {
      this.#listeners.delete(listener);
    }
  }

  async info(): Promise<EngineInfo> {
    return {
      connected: true,
      version: "fake",
      revision: "",
      runtime: "fake",
      runtimeVersion: "",
      warnings: [],
      storageDriver: "memory",
      cgroupVersion: 2,
      kernelVersion: "6.0",
      operatingSystem: "Fake Linux",
      architecture: "x86_64",
      cpuCount: 4,
      blockWeight: true,
      memoryNodes: 1,
      memoryBytes: 8 * 2 ** 30,
      rootDir: "/fake",
      lastCapability: 40,
      swapLimit: false,
      limits: {
        memory: true,
        swap: false,
        oomKillDisable: false,
        cpuPeriod: true,
        cpuQuota: true,
        cpuShares: true,
        cpuset: true,
        pids: true,
      },
    };
  }

  async close(): Promise<void> {
    this.#wake();
  }

  async *#readLines(
    container: FakeContainer,
    options: LogOptions,
    signal: AbortSignal,
  ): AsyncGenerator<LogLine> {
    const start = options.tail === undefined ? 0 : Math.max(0, container.lines.length - options.tail);
    for (let index = start; !signal.aborted;) {
      const line = container.lines[index];
      if (line !== undefined) {
        index++;
        if (line.timeMs < (options.sinceMs ?? 0) || line.timeMs >= (options.untilMs ?? Infinity)) continue;
        if (options[line.stream]) yield line;
      } else if (options.follow && container.record.status.state !== "stopped") {
        await this.#change(signal);
      } else return;
    }
  }

  #keepImage(reference: string): Image {
    const image: Image = {
      id: fakeDigest(`config of ${reference}`),
      reference,
      digest: fakeDigest(reference),
      config: { ...noConfig, ...this.#registry[reference]?.config },
      sizeBytes: 1_000_000,
      chainId: fakeDigest(`chain of ${reference}`),
      createdAtMs: 0,
      architecture: "amd64",
      os: "linux",
    };
    this.#images.set(reference, image);
    return image;
  }

  #require(id: string): FakeContainer {
    const container = this.#containers.get(id);
    if (container === undefined) throw new ClusterError("not-found", `No such container: ${id}`);
    return container;
  }

  #exitIfThere(id: string, exitCode: number): void {
    if (this.#containers.has(id)) this.exit(id, exitCode);
  }

  #setState(container: FakeContainer, status: ContainerState): void {
    container.record = { ...container.record, status };
    this.#wake();
  }

  #emitContainer(
    container: FakeContainer,
    action: Extract<EngineEvent, { kind: "container" }>["action"],
    extra: { exit?: ExitStatus; signal?: string } = {},
  ): void {
    const { id, name, image, labels } = container.record;
    const atMs = this.#clock.now();
    const event: EngineEvent = { kind: "container", action, atMs, id, name, image, labels, ...extra };
    for (const listener of this.#listeners) listener(event);
    this.#wake();
  }

  #wake(): void {
    const waiting = [...this.#changed];
    this.#changed.clear();
    for (const resolve of waiting) resolve();
  }

  /** Settles at the next change of anything, or when the signal aborts. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        signal.removeEventListener("abort", done);
        this.#changed.delete(done);
        resolve();
      };
      this.#changed.add(done);
      signal.addEventListener("abort", done, { once: true });
    });
  }
}

function recordOf(request: ContainerCreate, image: Image, createdAtMs: number): ContainerRecord {
  const { spec } = request;
  const healthcheck = spec.healthcheck ?? image.config.healthcheck;
  return {
    id: request.id,
    name: request.name,
    image: request.image,
    imageId: image.id,
    labels: { ...image.config.labels, ...request.labels },
    createdAtMs,
    status: { state: "created" },
    args: [...spec.command, ...spec.args],
    env: [...image.config.env, ...spec.env],
    user: spec.user ?? image.config.user,
    workingDir: spec.workingDir ?? "/",
    hostname: spec.hostname ?? request.id.slice(0, 12),
    tty: spec.tty,
    stopSignal: spec.stopSignal ?? "SIGTERM",
    ...(healthcheck !== undefined && { healthcheck }),
    network: request.network,
    mounts: [],
    resources: request.resources,
    logDriver: request.log?.name ?? "json-file",
  };
}

/** Looks like a digest and is stable; not one. */
function fakeDigest(text: string): string {
  let hex = "";
  for (let round = 0; hex.length < 64; round++) {
    let hash = 0x811c9dc5 ^ round;
    for (const character of text) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
    hex += hash.toString(16).padStart(8, "0");
  }
  return `sha256:${hex.slice(0, 64)}`;
}
