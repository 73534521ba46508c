/** `POST /build` by the classic protocol, and `POST /build/prune`. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import type { RegistryAuth } from "../../model/service.ts";
import { sendJson } from "../../runtime/api-server.ts";
import { parseFilters, queryFlag } from "../../runtime/http.ts";
import type { Builder } from "../builder/builder.ts";
import type { BuildLimits, BuildNetwork, BuildRequest } from "../builder/request.ts";
import { familiarName, parseReference, printReference } from "../engine/reference.ts";
import { ownBridge } from "../network/bridges.ts";
import { findContainer } from "./container.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { parseAuthFields, registryOf } from "./image.ts";
import { progressPrinter } from "./image-pull.ts";
import { streamProgress } from "./progress.ts";
import { parseTime } from "./time.ts";
import { headerOf, lifeOf, queryOf, type RouteContext } from "./request.ts";

/** What a quiet build prints is kept up to here, for the case that it fails. */
const quietLimit = 1 << 20;

export const noBuildKit =
  "this host builds with the classic builder: set DOCKER_BUILDKIT=0 (docker without the buildx plugin does so by itself)";

export function buildRoutes(app: FastifyInstance, deps: FrontDoorDeps, { ending }: RouteContext): void {
  const { builder } = deps;
  if (builder === undefined) return;
  app.post("/build", (request, reply) => build({ ...deps, builder }, request, reply, ending));
  // Of BuildKit's builds alone, of which there are none: those of here end when their client hangs up.
  app.post("/build/cancel", (_request, reply) => reply.code(200).send());
  app.post("/build/prune", async (request, reply) => {
    const filters = parseFilters(queryOf(request).get("filters"), ["label", "label!", "until"]);
    const [until] = filters.get("until") ?? [];
    const beforeMs = until === undefined ? undefined : parseTime(until, deps.clock.now());
    // 'system prune' passes its filters on: nothing of the cache has labels.
    if (filters.has("label")) return sendJson(reply, 200, { CachesDeleted: null, SpaceReclaimed: 0 });
    const { ids, reclaimedBytes } = await builder.prune(beforeMs, lifeOf(reply, ending));
    return sendJson(reply, 200, {
      CachesDeleted: ids.length > 0 ? ids : null,
      SpaceReclaimed: reclaimedBytes,
    });
  });
}

async function build(
  deps: FrontDoorDeps & { readonly builder: Builder },
  request: FastifyRequest,
  reply: FastifyReply,
  ending: AbortSignal,
): Promise<FastifyReply> {
  const query = queryOf(request);
  const { gateway } = ownBridge(deps.settings.bridgeSubnet);
  const wanted = {
    ...parseBuild(query, headerOf(request, "x-registry-config"), gateway),
    network: await networkOf(deps, query.get("networkmode") ?? ""),
  };
  const isQuiet = queryFlag(query.get("q"));
  const life = lifeOf(reply, ending);
  return streamProgress(reply, async (say, behind) => {
    let kept = "";
    const listener = {
      onText: (text: string) => {
        if (isQuiet) kept = `${kept}${text}`.slice(-quietLimit);
        else say({ stream: text });
      },
      behind,
      onPull: (reference: string) => (isQuiet ? () => undefined : progressPrinter(reference, say)),
      onImage: (id: string) => {
        if (!isQuiet) say({ aux: { ID: id } });
      },
    };
    if (wanted.cacheFrom.length > 0) {
      const images = wanted.cacheFrom.join(", ");
      listener.onText(
        `[Warning] --cache-from is without effect (${images}): steps are taken from this host's own build cache alone\n`,
      );
    }
    try {
      const id = await deps.builder.build(wanted, request.raw, listener, life);
      if (isQuiet) return say({ stream: `${id}\n` });
      say({ stream: `Successfully built ${id.slice("sha256:".length, "sha256:".length + 12)}\n` });
      for (const name of wanted.names) say({ stream: `Successfully tagged ${familiarName(name)}\n` });
    } catch (error) {
      if (kept !== "") say({ stream: kept });
      // The client is told once it has sent everything, as it reads no answer before.
      if (!request.raw.readableEnded) request.raw.resume();
      throw error;
    }
  });
}

/**
 * All but the network, which other things of the host decide.
 *
 * @throws {ClusterError} `invalid-argument` for values that cannot be; `unimplemented` for what this host does not do.
 */
export function parseBuild(
  query: URLSearchParams,
  registryConfig: string | undefined,
  gateway: string,
): Omit<BuildRequest, "network"> {
  const remote = query.get("remote") ?? "";
  if (remote !== "") {
    throw new ClusterError(
      "invalid-argument",
      `cannot build from ${JSON.stringify(remote)}: no remote context is accepted; fetch it and send it, as 'docker build .' does`,
    );
  }
  if (query.get("version") === "2")
    throw new ClusterError("unimplemented", `BuildKit is not available: ${noBuildKit}`);
  if (queryFlag(query.get("squash")))
    throw new ClusterError("invalid-argument", "squash is only supported with experimental mode");
  for (const name of ["cgroupparent", "outputs", "securityopt"]) {
    const value = query.get(name) ?? "";
    if (!["", "null", "[]"].includes(value))
      throw new ClusterError("invalid-argument", `${name} is not accepted for a build: ${value}`);
  }
  const isolation = query.get("isolation") ?? "";
  if (isolation !== "" && isolation !== "default")
    throw new ClusterError("invalid-argument", `Unsupported isolation: ${JSON.stringify(isolation)}`);
  const dockerfile = query.get("dockerfile") ?? "";
  if (dockerfile.split("/").includes(".."))
    throw new ClusterError("invalid-argument", `forbidden path outside the build context: ${dockerfile} ()`);
  const auths = parseAuths(registryConfig);
  return {
    dockerfile: dockerfile === "Dockerfile" ? "" : dockerfile,
    names: [
      ...new Set(
        query
          .getAll("t")
          .filter((name) => name !== "")
          .map(nameOf),
      ),
    ],
    target: query.get("target") ?? "",
    args: new Map(Object.entries(texts(query, "buildargs"))),
    labels: texts(query, "labels"),
    cache: queryFlag(query.get("nocache")) ? "ignored" : "used",
    cacheFrom: cacheSources(query),
    pull: queryFlag(query.get("pull")) ? "always" : "missing",
    platform: query.get("platform") ?? "",
    limits: limitsOf(query),
    extraHosts: hostsOf(query, gateway),
    authOf: (domain) => auths.get(domain),
  };
}

/** Of the clients' `X-Registry-Config`, by the domain that references have. What cannot be read counts as none. */
function parseAuths(header: string | undefined): Map<string, RegistryAuth> {
  const auths = new Map<string, RegistryAuth>();
  for (const [key, value] of Object.entries(
    parseJson(Buffer.from(header ?? "", "base64").toString("utf8")),
  )) {
    const auth = parseAuthFields(value);
    if (auth !== undefined) auths.set(registryOf(key), auth);
  }
  return auths;
}

async function networkOf(deps: FrontDoorDeps, mode: string): Promise<BuildNetwork> {
  if (mode === "" || mode === "default" || mode === "bridge") return { kind: "bridge" };
  if (mode === "host" || mode === "none") return { kind: mode };
  if (!mode.startsWith("container:")) {
    const network = deps.networks.resolve(mode);
    if (network === undefined) throw new ClusterError("not-found", `network ${mode} not found`);
    // Found by its id as well: the host's own.
    if (network.name !== "bridge" && network.driver === "bridge")
      return { kind: "bridge", networkId: network.id as NetworkId };
    return networkOf(deps, network.name);
  }
  const { id } = await findContainer(deps, mode.slice("container:".length));
  const joined = (await deps.network.list()).find(({ containerId }) => containerId === id);
  if (joined === undefined)
    throw new ClusterError("conflict", `cannot join network of a non running container: ${id}`);
  const { attached } = joined;
  return attached.kind === "host" ? { kind: "host" } : { kind: "namespace", path: attached.path };
}

function nameOf(text: string): string {
  const reference = parseReference(text);
  if (reference.digest !== undefined)
    throw new ClusterError("invalid-argument", "refusing to create a tag with a digest reference");
  return printReference(reference);
}

function limitsOf(query: URLSearchParams): BuildLimits {
  const number = (name: string): number | undefined => {
    const text = query.get(name) ?? "";
    const value = Number(text === "" ? 0 : text);
    if (!Number.isSafeInteger(value))
      throw new ClusterError("invalid-argument", `invalid value of ${name}: ${JSON.stringify(text)}`);
    return value === 0 ? undefined : value;
  };
  const text = (name: string): string | undefined => query.get(name) || undefined;
  const limits = {
    memoryBytes: number("memory"),
    memorySwapBytes: number("memswap"),
    cpuShares: number("cpushares"),
    cpuPeriodUs: number("cpuperiod"),
    cpuQuotaUs: number("cpuquota"),
    cpusetCpus: text("cpusetcpus"),
    cpusetMems: text("cpusetmems"),
    shmBytes: number("shmsize"),
  };
  const set = Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
  return { ...(set as Partial<BuildLimits>), ulimits: ulimitsOf(query) };
}

function ulimitsOf(query: URLSearchParams): BuildLimits["ulimits"] {
  const listed: unknown = jsonOf(query, "ulimits") ?? [];
  if (!Array.isArray(listed))
    throw new ClusterError("invalid-argument", "invalid ulimits: a list is accepted");
  return listed.map((item: unknown) => {
    const { Name, Soft, Hard } = { ...(item as Record<string, unknown> | null) };
    if (
      typeof Name !== "string" ||
      !/^[a-z]+$/.test(Name) ||
      !Number.isSafeInteger(Soft) ||
      !Number.isSafeInteger(Hard)
    )
      throw new ClusterError("invalid-argument", `invalid ulimit: ${JSON.stringify(item)}`);
    return { name: Name, soft: Soft as number, hard: Hard as number };
  });
}

function cacheSources(query: URLSearchParams): string[] {
  const listed: unknown = jsonOf(query, "cachefrom") ?? [];
  const isList = Array.isArray(listed) && listed.every((image) => typeof image === "string");
  if (!isList) throw new ClusterError("invalid-argument", "invalid cachefrom: a list of images is accepted");
  return listed;
}

/** "name:address", given once for each or together. @param gateway - What stands for the host. */
function hostsOf(query: URLSearchParams, gateway: string): string[] {
  const hosts = query
    .getAll("extrahosts")
    .flatMap((text) => text.split(","))
    .filter((text) => text !== "")
    .map((text) => text.replace(/:host-gateway$/, `:${gateway}`));
  const wrong = hosts.find((host) => !/^[^\s:]+:[0-9a-fA-F.:[\]]+$/.test(host));
  if (wrong !== undefined)
    throw new ClusterError("invalid-argument", `invalid IP address in add-host: ${JSON.stringify(wrong)}`);
  return hosts;
}

/** An object of texts; what is null was not given. */
function texts(query: URLSearchParams, name: string): Record<string, string> {
  const value = jsonOf(query, name) ?? {};
  if (typeof value !== "object" || Array.isArray(value))
    throw new ClusterError("invalid-argument", `invalid ${name}: an object is accepted`);
  const entries = Object.entries(value as Record<string, unknown>).filter(([, text]) => text !== null);
  for (const [key, text] of entries) {
    if (typeof text !== "string" || key === "" || /[=\0]/.test(key) || text.includes("\0"))
      throw new ClusterError("invalid-argument", `invalid ${name}: ${JSON.stringify(key)}`);
  }
  return Object.fromEntries(entries as [string, string][]);
}

function jsonOf(query: URLSearchParams, name: string): unknown {
  const text = query.get(name) ?? "";
  if (text === "") return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new ClusterError("invalid-argument", `invalid ${name}: it is no JSON`, { cause });
  }
}

function parseJson(text: string): Readonly<Record<string, unknown>> {
  try {
    return { ...(JSON.parse(text) as Record<string, unknown> | null) };
  } catch {
    return {};
  }
}
