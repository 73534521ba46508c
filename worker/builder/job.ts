/** One build: its base images into buildah, the steps, and the result among the host's images. */
import { createWriteStream } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import type { ProxySettings } from "../../proto/host.ts";
import { ClusterError } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import type { Engine } from "../engine/engine.ts";
import type { StoredImage } from "../engine/image-store.ts";
import { parsePlatform } from "../engine/manifest.ts";
import { parseReference } from "../engine/reference.ts";
import type { AttachRequest, HostNetwork } from "../network/network.ts";
import { buildArguments, resolverArguments } from "./arguments.ts";
import { type Buildah, lastWords, removeCgroup } from "./buildah.ts";
import { parseInstruction } from "./dockerfile.ts";
import { BuildErrors } from "./errors.ts";
import { exportImage } from "./export.ts";
import { BuildOutput } from "./output.ts";
import { type BuildPlan, failureText, type NeededImage, shellOf, type Step } from "./plan.ts";
import { type BuildListener, type BuildRequest, CommandFailed } from "./request.ts";

export interface JobDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly engine: Engine;
  readonly network: HostNetwork;
  readonly warn: (message: string, error: unknown) => void;
  readonly settings: {
    readonly stateDir: string;
    readonly runDir: string;
    readonly cgroupParent: string;
    readonly proxies?: ProxySettings;
  };
}

export interface Job {
  /** 64 hexadecimal digits. */
  readonly id: string;
  /** A directory of its own, with the files to be built from in "context". */
  readonly work: string;
  readonly request: BuildRequest;
  readonly plan: BuildPlan;
  /** The Dockerfile's. */
  readonly escape: string;
}

export interface JobTools extends JobDeps {
  readonly buildah: Buildah;
  /** Base images on their way into buildah, by id. */
  readonly imports: Map<string, Promise<void>>;
}

/** @returns The image's id. */
export async function runJob(
  tools: JobTools,
  job: Job,
  listener: BuildListener,
  signal: AbortSignal,
): Promise<string> {
  const { engine, network } = tools;
  const { id, work, request, plan } = job;
  const bases = new Map<string, StoredImage>();
  for (const needed of plan.images) {
    const base = await resolveBase(tools, job, needed, listener, signal);
    bases.set(needed.key, base);
    await importBase(tools, work, base, signal);
  }
  const file = join(work, "Dockerfile");
  await writeFile(
    file,
    plan.print((key) => hexOf(bases.get(key)?.id ?? "")),
  );
  let built: string;
  try {
    built = await carryOut(tools, job, bases, listener, signal);
  } finally {
    if (request.network.kind === "bridge") await network.detach(id as TaskId, new AbortController().signal);
    await removeCgroup(tools.clock, cgroupOf(tools, job.id));
  }
  const image = await exportImage(
    { buildah: tools.buildah, imageStore: engine.imageStore },
    { work, built, names: request.names, bases: [...bases.values()] },
    signal,
  );
  listener.onImage(image.id);
  return image.id;
}

/** @returns Buildah's id of the image. */
async function carryOut(
  tools: JobTools,
  job: Job,
  bases: ReadonlyMap<string, StoredImage>,
  { onText, behind }: BuildListener,
  signal: AbortSignal,
): Promise<string> {
  const { buildah, engine } = tools;
  const { work, request, plan } = job;
  const { runtime } = await engine.info();
  const isolated = await enterNetwork(tools, job, signal);
  const args = buildArguments(request, {
    runtime,
    work,
    cgroup: cgroupOf(tools, job.id),
    policyFile: buildah.policyFile,
    ...isolated,
  });
  const output = new BuildOutput(plan.steps, baseOf, onText);
  const errors = new BuildErrors(onText);
  const run = {
    args,
    temporary: work,
    onOutput: (text: string) => output.write(text),
    onError: (text: string) => errors.write(text),
    behind,
  };
  const { code, err } = await buildah.run(run, signal);
  const failure = errors.end(code === 0 ? "built" : "failed");
  const built = output.end();
  if (code === 0 && built !== undefined) return built;
  const step = plan.steps[output.current];
  const exit = /while running runtime: exit status (\d+)/.exec(failure ?? "");
  if (step?.keyword === "RUN" && exit !== null) {
    const exitCode = Number(exit[1]);
    throw new CommandFailed(failureText(step, shellOf(plan.steps, output.current), exitCode), exitCode);
  }
  const [, absent] = /copier: stat: \[?"\/?([^"]+)"\]?: no such file or directory$/.exec(failure ?? "") ?? [];
  if (absent !== undefined && (step?.keyword === "COPY" || step?.keyword === "ADD")) {
    throw new ClusterError(
      "failed-precondition",
      `${step.keyword} failed: file not found in build context or excluded by .dockerignore: stat ${absent}: file does not exist`,
    );
  }
  const said = lastWords(failure ?? err)
    .replace(/^building at STEP ".*": /s, "")
    .replace(/^parsing main Dockerfile: \S+: /, "failed to parse Dockerfile: ");
  throw new ClusterError("failed-precondition", said || `buildah ended with ${code}`);

  function baseOf(step: Step): string {
    return hexOf(bases.get(step.base ?? "")?.id ?? "");
  }
}

/** From the host's own images; pulled there where it is missing. */
async function resolveBase(
  { engine }: JobTools,
  { request, escape }: Job,
  { reference, platform, isBase }: NeededImage,
  listener: BuildListener,
  signal: AbortSignal,
): Promise<StoredImage> {
  const { architecture } = await engine.info();
  const asked = platform || request.platform;
  const wanted = asked === "" ? undefined : parsePlatform(asked, { os: "linux", architecture });
  const isId = /^(?:sha256:)?[0-9a-f]{64}$/.test(reference);
  const { domain } = parseReference(isId ? "id" : reference);
  let found = request.pull === "always" && !isId ? undefined : await engine.imageStore.find(reference);
  if (found !== undefined && wanted !== undefined && found.image.architecture !== wanted.architecture)
    found = undefined;
  if (found === undefined) {
    const auth = request.authOf(domain);
    const options = {
      onProgress: listener.onPull(reference),
      ...(auth !== undefined && { auth }),
      ...(wanted !== undefined && { platform: wanted }),
    };
    const pulled = await engine.pull(reference, options, signal);
    found = await engine.imageStore.find(pulled.id);
  }
  if (found === undefined) throw new ClusterError("not-found", `No such image: ${reference}`);
  if (isBase) await checkTriggers(engine, found, escape);
  return found;
}

/** What an image has for ONBUILD is carried out as if the Dockerfile had it, and may do no more than that. */
async function checkTriggers(engine: Engine, base: StoredImage, escape: string): Promise<void> {
  const { config } = await engine.imageStore.details(base);
  const triggers = config["OnBuild"];
  for (const trigger of Array.isArray(triggers) ? triggers : []) {
    const instruction = parseInstruction(1, String(trigger), escape);
    if (instruction.flags["from"] !== undefined || /[\r\n]/.test(String(trigger)))
      throw new ClusterError(
        "failed-precondition",
        `cannot build on ${base.image.reference}: its ONBUILD ${String(trigger)} is not accepted`,
      );
  }
}

/** Into buildah's own store, unless an earlier build brought it there. */
async function importBase(
  { buildah, engine, imports }: JobTools,
  work: string,
  base: StoredImage,
  signal: AbortSignal,
): Promise<void> {
  const id = hexOf(base.id);
  for (let other = imports.get(id); other !== undefined; other = imports.get(id)) {
    await other.catch(() => undefined); // If it failed, this one tries.
    signal.throwIfAborted();
  }
  const mine = bring();
  imports.set(id, mine);
  try {
    await mine;
  } finally {
    imports.delete(id);
  }

  async function bring(): Promise<void> {
    const list = await buildah.must(
      "list the build cache",
      { args: ["images", "-a", "-q", "--no-trunc"], temporary: work },
      signal,
    );
    if (list.includes(id)) return;
    const archive = join(work, "base.tar");
    const content = await engine.imageStore.save([base.id], signal);
    await pipeline(Readable.from(content), createWriteStream(archive), { signal });
    await buildah.must(
      `build on ${base.image.reference}`,
      {
        args: ["pull", "-q", "--signature-policy", buildah.policyFile, `docker-archive:${archive}`],
        temporary: work,
      },
      signal,
    );
  }
}

async function enterNetwork(
  { network }: JobTools,
  { id, request }: Job,
  signal: AbortSignal,
): Promise<{ network: string; resolver: readonly string[] }> {
  const wanted = request.network;
  switch (wanted.kind) {
    case "host":
    case "none":
      return { network: wanted.kind, resolver: [] };
    case "namespace":
      return { network: `ns:${wanted.path}`, resolver: [] };
    case "bridge": {
      const attach: AttachRequest = {
        taskId: id as TaskId,
        containerId: id,
        networks:
          wanted.networkId === undefined ? [] : [{ networkId: wanted.networkId, address: "", aliases: [] }],
        host: false,
        none: false,
        ports: [],
        hostname: id.slice(0, 12),
        extraHosts: [],
      };
      const attached = await network.attach(attach, signal);
      if (attached.kind === "host") throw new ClusterError("internal", "a build got the host's own network");
      const resolvConf = await readFile(attached.files.resolvConf, "utf8");
      return { network: `ns:${attached.path}`, resolver: resolverArguments(resolvConf) };
    }
  }
}

/** @param id - The build's. */
export function cgroupOf({ settings }: Pick<JobDeps, "settings">, id: string): string {
  return `${settings.cgroupParent}/build-${id.slice(0, 12)}`;
}

function hexOf(id: string): string {
  return id.replace(/^sha256:/, "");
}
