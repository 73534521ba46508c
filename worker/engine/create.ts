/** Makes a container: record, snapshot, files, mounts, specification. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import type { HealthCheck } from "../../model/service.ts";
import type { Random } from "../../runtime/random.ts";
import { defaultOutputLimits, OutputFile } from "../logs/file.ts";
import { bindMount, type PlannedMount, planMounts } from "../mounts/plan.ts";
import { resolveMount, type ResolvedMount } from "../mounts/resolve.ts";
import { subpathPlace } from "../mounts/subpath.ts";
import { isNotFound, toEngineError } from "./connection.ts";
import { Container } from "./container.ts";
import type { ContainerCreate, Image } from "./engine.ts";
import { hostsText, resolvConfText } from "./files.ts";
import { apparmorProfile, type HostDescription } from "./host.ts";
import {
  emitContainer,
  type LifecycleDeps,
  prepared,
  releaseVolumes,
  removeFromContainerd,
  subpathDirectory,
} from "./lifecycle.ts";
import type { OciMount, OciSpec } from "./oci.ts";
import type { LogLimits, StoredContainer } from "./records.ts";
import { readInLayers } from "./rootfs.ts";
import { runtimeName, specType } from "./runtime.ts";
import { hostnameOf, initTarget, ociSpec } from "./spec.ts";
import { StdinPipe } from "./stdin.ts";
import { lowerDirectories, prepareSnapshot, snapshotter } from "./snapshots.ts";
import { type ProcessUser, resolveUser } from "./user.ts";

const userCacheLimit = 256;
const logDrivers = ["json-file", "local", "journald", ""];

export interface CreateDeps extends LifecycleDeps {
  readonly random: Random;
  readonly host: HostDescription;
  /** What the engine mounts is below these. */
  readonly ownDirectories: readonly string[];
  /** User and groups per image; an image never changes. */
  readonly users: Map<string, ProcessUser>;
}

/** Everything that `createContainer` will have to undo when it fails. */
export async function createContainer(
  deps: CreateDeps,
  request: ContainerCreate,
  image: Image,
  signal: AbortSignal,
): Promise<Container> {
  const { records, payloads, volumes, connection, tasks, warn } = deps;
  const { id } = request;
  const made: ResolvedMount[] = [];
  try {
    const container = await make(deps, request, image, made, signal);
    await releaseVolumes(deps, container); // Until it starts.
    return container;
  } catch (error) {
    await releaseAll(deps, id, made);
    const undo = [
      removeFromContainerd(connection, tasks, id),
      deps.imageMounts.remove(id),
      payloads.remove(id),
      records.remove(id),
      rm(join(deps.runDirectory, id), { recursive: true, force: true }),
      ...made.flatMap(({ record: { type, name } }) =>
        type === "volume" && name !== undefined ? [volumes.abandon(name, id, "removed")] : [],
      ),
    ];
    for (const result of await Promise.allSettled(undo)) {
      if (result.status === "rejected") warn(`cannot undo the creation of ${id}`, result.reason);
    }
    deps.shims.forget(id);
    if (isNotFound(error))
      throw new ClusterError("not-found", `No such image: ${request.image}`, { cause: error });
    throw toEngineError(error, `cannot create container ${request.name}`);
  }
}

async function releaseAll(
  { volumes }: CreateDeps,
  id: string,
  made: readonly ResolvedMount[],
): Promise<void> {
  for (const { record } of made)
    if (record.type === "volume" && record.name !== undefined) await volumes.release(record.name, id);
}

async function make(
  deps: CreateDeps,
  request: ContainerCreate,
  image: Image,
  made: ResolvedMount[],
  signal: AbortSignal,
): Promise<Container> {
  const { records, clock, host, connection, runtime, payloads } = deps;
  const { id, spec } = request;
  requirePossible(deps, request);
  const planned = request.mounts ?? planMounts(spec, image.config.volumes);
  const log = logLimitsOf(request);
  // A directory without a record is what a crash leaves to be swept.
  mkdirSync(records.path(id), { recursive: true, mode: 0o700 });
  const files = writeFiles(deps, request);
  const snapshot = prepareSnapshot(connection, id, image.chainId);
  const layers = async (): Promise<string[]> => lowerDirectories(await snapshot);
  // Each part may fail while another is under way; all are awaited before anything is undone.
  const parts = await settled([
    snapshot,
    userOf(deps, request, image, layers),
    resolveAll({ ...deps, signal }, id, planned, layers, made),
    payloads.write(id, request),
  ] as const);
  const [rootfs, user, mounts, payloadMounts] = parts;
  const plain = ociSpec({
    id,
    spec,
    image: image.config,
    resources: request.resources,
    network: request.network,
    user,
    mounts: [...mounts.map((mount) => mount.oci), ...uncovered(files, mounts), ...payloadMounts],
    cgroupPath: deps.cgroupPath(id),
    host,
    ...(host.apparmor && { apparmorProfile }),
  });
  const adjusted = request.adjust?.(plain) ?? plain;
  const stored: StoredContainer = {
    ...storedOf(deps, request, image, adjusted, mounts, log),
    shimGroup: deps.shims.assign(id),
  };
  const container = new Container(stored, { state: "created" });
  const oci = prepared(deps, container, adjusted);
  await records.create(stored);
  const { containers } = connection;
  const [, output] = await settled([
    connection.call(containers, "create", {
      container: {
        id,
        labels: {},
        image: image.reference,
        runtime: { name: runtimeName, options: runtime.options },
        spec: { typeUrl: specType, value: Buffer.from(JSON.stringify(oci)) },
        snapshotter,
        snapshotKey: id,
      },
    }),
    log.kept ? OutputFile.create({ clock, warn: deps.warn }, records.path(id), log) : undefined,
  ] as const);
  container.output = output;
  container.rootfs = rootfs;
  container.process = oci.process;
  container.spec = oci;
  container.stdin = stdinOf(deps, stored, "waiting");
  await container.stdin?.ensure();
  emitContainer(deps, container, "create");
  return container;
}

/** The input of a container whose record says that it has one. */
export function stdinOf(
  { tasks, runDirectory }: Pick<CreateDeps, "tasks" | "runDirectory">,
  { id, openStdin }: StoredContainer,
  process: "waiting" | "running",
): StdinPipe | undefined {
  if (openStdin !== true) return undefined;
  return new StdinPipe(join(runDirectory, id, "stdin"), process === "running", () => tasks.closeStdin(id));
}

function requirePossible({ host }: CreateDeps, { id, spec }: ContainerCreate): void {
  if (!/^[0-9a-f]{64}$/.test(id)) {
    throw new ClusterError(
      "invalid-argument",
      `invalid container id ${JSON.stringify(id)}: 64 hexadecimal digits are accepted`,
    );
  }
  if (spec.init === true && host.initPath === undefined) {
    throw new ClusterError(
      "invalid-argument", // Waiting does not bring one.
      "an init process was asked for and this host has none: install the Debian package tini, or leave out --init",
    );
  }
}

/** @throws {ClusterError} `invalid-argument` for options that json-file would refuse. */
export function logLimitsOf({
  log,
  keepsUnread = false,
}: Pick<ContainerCreate, "log" | "keepsUnread">): LogLimits {
  const { name = "json-file", options = {} } = log ?? {};
  if (name === "none") return { ...defaultOutputLimits, kept: keepsUnread };
  if (!logDrivers.includes(name)) {
    throw new ClusterError("invalid-argument", `logger: no log driver named '${name}' is registered`);
  }
  const size = options["max-size"];
  const files = options["max-file"];
  const maxBytes = size === undefined ? defaultOutputLimits.maxBytes : bytesOf(size);
  const maxFiles = files === undefined ? defaultOutputLimits.maxFiles : Number(files);
  if (!Number.isInteger(maxFiles) || maxFiles < 1) {
    throw new ClusterError("invalid-argument", `invalid max-file: ${files}: a number from 1 on is accepted`);
  }
  return { maxBytes, maxFiles, kept: true };
}

/** "10m", "1g", "512k", "100". */
function bytesOf(text: string): number {
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)b?$/i.exec(text) ?? [];
  const factor = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }[unit.toLowerCase()];
  if (digits === undefined || factor === undefined || Number(digits) <= 0) {
    throw new ClusterError("invalid-argument", `invalid size: '${text}'`);
  }
  return Math.floor(Number(digits) * factor);
}

async function userOf(
  { users }: CreateDeps,
  { spec }: ContainerCreate,
  image: Image,
  layers: () => Promise<string[]>,
): Promise<ProcessUser> {
  const user = spec.user ?? image.config.user;
  const key = JSON.stringify([image.chainId, user, spec.groups]);
  const known = users.get(key);
  if (known !== undefined) return known;
  const directories = await layers();
  const [passwd, group] = await Promise.all([
    readInLayers(directories, "/etc/passwd"),
    readInLayers(directories, "/etc/group"),
  ]);
  const found = resolveUser(user, spec.groups, passwd, group);
  if (users.size >= userCacheLimit) users.clear();
  users.set(key, found);
  return found;
}

/** Where an image is mounted while its content is copied. */
export function fillDirectory(runDirectory: string): string {
  return join(runDirectory, "fill");
}

async function resolveAll(
  {
    random,
    volumes,
    imageMounts,
    runDirectory,
    ownDirectories,
    signal,
  }: CreateDeps & { readonly signal: AbortSignal },
  user: string,
  planned: readonly PlannedMount[],
  layers: () => Promise<string[]>,
  made: ResolvedMount[],
): Promise<readonly ResolvedMount[]> {
  let imageCount = 0;
  const mountImage = (reference: string): ReturnType<typeof imageMounts.make> =>
    imageMounts.make(user, imageCount++, reference);
  const temporaryDirectory = fillDirectory(runDirectory);
  const deps = { random, volumes, user, mountImage, temporaryDirectory, ownDirectories, signal };
  // One after the other: two may name the same fresh volume.
  for (const [index, mount] of planned.entries()) {
    const place = subpathPlace(subpathDirectory(runDirectory), user, index);
    made.push(await resolveMount({ ...deps, subpathPlace: place }, mount, layers));
  }
  return made;
}

/** What the user mounts at the target of one of our files is what the container sees. */
function uncovered(files: readonly OciMount[], mounts: readonly ResolvedMount[]): OciMount[] {
  const taken = new Set(mounts.map(({ record }) => record.target));
  return files.filter(({ destination }) => !taken.has(destination));
}

/** /etc/hosts, /etc/hostname and /etc/resolv.conf, those of the caller or our own. */
function writeFiles(deps: CreateDeps, request: ContainerCreate): OciMount[] {
  const { id, spec, network, files = {} } = request;
  const onHost = network.kind === "host";
  const directory = join(deps.runDirectory, id);
  const hostname = hostnameOf({ id, spec, network, host: deps.host });
  const texts = {
    "/etc/hosts": () =>
      hostsText({
        base: onHost ? textOf("/etc/hosts") : "",
        lines: spec.hosts,
        entries: request.hosts ?? [],
      }),
    "/etc/hostname": () => `${hostname}\n`,
    "/etc/resolv.conf": () => resolvConfText(spec.dns, request.resolver, textOf("/etc/resolv.conf"), onHost),
  };
  const given: Readonly<Record<string, string | undefined>> = {
    "/etc/hosts": files.hosts,
    "/etc/hostname": files.hostname,
    "/etc/resolv.conf": files.resolvConf,
  };
  mkdirSync(directory, { recursive: true, mode: 0o711 });
  return Object.entries(texts).map(([target, text]) => {
    const own = given[target];
    if (own !== undefined) return bindMount(own, target, spec.readOnly);
    const path = join(directory, target.slice("/etc/".length));
    writeFileSync(path, text(), { mode: 0o644 });
    return bindMount(path, target, spec.readOnly);
  });
}

function storedOf(
  { clock, cgroupPath, host }: CreateDeps,
  request: ContainerCreate,
  image: Image,
  oci: OciSpec,
  mounts: readonly ResolvedMount[],
  log: LogLimits,
): StoredContainer {
  const { spec } = request;
  const healthcheck = healthcheckOf(spec.healthcheck, image.config.healthcheck);
  return {
    id: request.id,
    name: request.name,
    image: request.image,
    imageId: image.id,
    labels: { ...image.config.labels, ...request.labels },
    createdAtMs: clock.now(),
    ...(spec.groups.length > 0 && { groups: spec.groups }),
    args: withoutInit(oci.process.args),
    env: oci.process.env,
    user: spec.user ?? image.config.user,
    workingDir: oci.process.cwd,
    hostname: oci.hostname === "" ? host.hostname : oci.hostname, // Without a name it has the host's.
    tty: spec.tty,
    ...(spec.openStdin && { openStdin: true }),
    stopSignal: spec.stopSignal ?? image.config.stopSignal ?? "SIGTERM",
    ...(healthcheck !== undefined && { healthcheck }),
    network: request.network,
    mounts: mounts.map(({ record }) => record),
    resources: request.resources,
    logDriver: request.log?.name ?? "json-file",
    ...(oci.linux.cgroupsPath !== cgroupPath(request.id) && { cgroupPath: oci.linux.cgroupsPath }),
    chainId: image.chainId,
    log,
  };
}

/** What was asked to be run, as it is shown. */
function withoutInit(args: readonly string[]): readonly string[] {
  return args[0] === initTarget && args[1] === "--" ? args.slice(2) : args;
}

/** The spec's check, with what it leaves open from the image; "NONE" switches both off. */
export function healthcheckOf(
  own: HealthCheck | undefined,
  image: HealthCheck | undefined,
): HealthCheck | undefined {
  const test = own !== undefined && own.test.length > 0 ? own.test : (image?.test ?? []);
  if (test.length === 0 || test[0] === "NONE") return undefined;
  const pick = (key: "intervalMs" | "timeoutMs" | "startPeriodMs" | "startIntervalMs" | "retries"): number =>
    own?.[key] || image?.[key] || 0;
  return {
    test,
    intervalMs: pick("intervalMs"),
    timeoutMs: pick("timeoutMs"),
    startPeriodMs: pick("startPeriodMs"),
    startIntervalMs: pick("startIntervalMs"),
    retries: pick("retries"),
  };
}

/** All of them, or the first failure once none is under way any more. */
async function settled<const Parts extends readonly unknown[]>(
  parts: Parts,
): Promise<{ -readonly [Index in keyof Parts]: Awaited<Parts[Index]> }> {
  await Promise.allSettled(parts);
  return Promise.all(parts);
}

/** Empty if there is none. */
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
