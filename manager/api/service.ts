/** `/services` */
import { ClusterError } from "../../model/errors.ts";
import type { ServiceId } from "../../model/ids.ts";
import type { RegistryAuth, Service, ServiceSpec } from "../../model/service.ts";
import { taskStates } from "../../model/task.ts";
import { serviceWarnings } from "../../model/warnings.ts";
import { parseFilters } from "../../runtime/http.ts";
import { newId } from "../../runtime/random.ts";
import { isOnDownNode, nodesOf } from "../orchestrator/plan.ts";
import { givenAuth, jobOf, replaceSpec, rollbackService } from "../orchestrator/spec.ts";
import { requireSeen, type StoreView } from "../store/transaction.ts";
import { type Call, empty, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { present } from "./parse.ts";
import { anyOf, hasPrefix, requireVersion, strictFlag, swarmLabelsMatch } from "./query.ts";
import { resolve } from "./resolve.ts";
import { checkService, refuseTakenPorts } from "./service-check.ts";
import { parseServiceSpec } from "./service-json.ts";
import { freeServiceName } from "./service-name.ts";
import { printService, type ServiceCounts } from "./service-print.ts";

export const serviceRoutes: readonly Route[] = [
  { method: "GET", path: "/services", handle: listServices },
  { method: "GET", path: "/services/:id", handle: inspectService },
  { method: "POST", path: "/services/create", handle: createService },
  { method: "POST", path: "/services/:id/update", handle: updateService },
  { method: "DELETE", path: "/services/:id", handle: removeService },
];

const filterKeys = ["id", "name", "label", "mode", "runtime"];
const modes = ["replicated", "global", "replicated-job", "global-job"];

/** Tasks that are counted in one go; all other work of the main thread gets its turn before the next ones. */
const countedLimit = 20_000;

/** `GET /services`: an array; with `status=true` each one carries its `ServiceStatus`. */
async function listServices({ store, clock }: ApiDeps, call: Call): Promise<Reply> {
  const filters = parseFilters(call.query.get("filters"), filterKeys);
  for (const mode of filters.get("mode") ?? []) {
    if (!modes.includes(mode)) throw new ClusterError("invalid-argument", `invalid mode filter: '${mode}'`);
  }
  const withStatus = strictFlag(call.query, "status");
  const services = store.view((view) =>
    view.services
      .list()
      .filter(
        ({ id, spec }) =>
          anyOf(filters, "id", hasPrefix(id)) &&
          anyOf(filters, "name", hasPrefix(spec.name)) &&
          anyOf(filters, "mode", (wanted) => wanted === spec.mode.kind) &&
          anyOf(filters, "runtime", (wanted) => wanted === "container") &&
          swarmLabelsMatch(spec.labels, filters.get("label")),
      ),
  );
  const printed: unknown[] = [];
  let counted = 0;
  for (const service of services) {
    if (counted >= countedLimit) {
      await clock.sleep(0, call.signal);
      counted = 0;
    }
    const counts = withStatus ? store.view((view) => countTasks(view, service)) : undefined;
    if (withStatus) counted += store.view((view) => view.tasks.countByService(service.id));
    printed.push(printService(service, present({ counts })));
  }
  return json(printed);
}

/** `GET /services/{id}` */
function inspectService({ store }: ApiDeps, call: Call): Reply {
  const insertDefaults = strictFlag(call.query, "insertDefaults");
  return json(store.view((view) => printService(findService(view, call), { insertDefaults })));
}

/** `POST /services/create` → 201 with the id. */
async function createService({ store, random }: ApiDeps, call: Call): Promise<Reply> {
  const given = parseServiceSpec(call.body());
  const registryAuth = parseRegistryAuth(call.header("x-registry-auth"));
  const id = await store.update((tx) => {
    const name =
      given.name === ""
        ? freeServiceName(random, (each) => tx.services.byName(each) === undefined)
        : given.name;
    const spec = checkService(tx, { ...given, name });
    return tx.services.create({
      id: newId<ServiceId>(random),
      spec,
      specVersion: 0,
      ...jobOf(spec, undefined, tx.nowMs),
      ...givenAuth(registryAuth),
    }).id;
  }, call.life);
  return json({ ID: id, Warnings: printWarnings(given) }, 201);
}

/** `POST /services/{id}/update`: the whole new spec, or back to the previous one. */
async function updateService({ store }: ApiDeps, call: Call): Promise<Reply> {
  const version = requireVersion(call.query, "service");
  const rollback = call.query.get("rollback") ?? "";
  if (rollback !== "" && rollback !== "previous" && rollback !== "none") {
    throw new ClusterError("invalid-argument", `unrecognized rollback option ${rollback}`);
  }
  if (rollback === "previous") {
    await store.update((tx) => {
      const service = findService(tx, call);
      if (service.previous !== undefined) refuseTakenPorts(tx, service.previous.spec, service);
      requireSeen(service, version);
      rollbackService(tx, service);
    }, call.life);
    return json({ Warnings: null });
  }
  const given = parseServiceSpec(call.body());
  const sentAuth = parseRegistryAuth(call.header("x-registry-auth"));
  const authFrom = call.query.get("registryAuthFrom") ?? "";
  if (!["", "spec", "previous-spec"].includes(authFrom)) {
    throw new ClusterError("invalid-argument", `unsupported registryAuthFrom value "${authFrom}"`);
  }
  await store.update((tx) => {
    const service = findService(tx, call);
    refuseForbiddenChange(service.spec, given);
    const spec = checkService(tx, given, service);
    const registryAuth =
      sentAuth ?? (authFrom === "previous-spec" ? service.previousRegistryAuth : undefined);
    return replaceSpec(tx, service, spec, version, registryAuth);
  }, call.life);
  return json({ Warnings: printWarnings(given) });
}

function printWarnings(spec: ServiceSpec): readonly string[] | null {
  const warnings = serviceWarnings(spec);
  return warnings.length === 0 ? null : warnings;
}

function refuseForbiddenChange(old: ServiceSpec, given: ServiceSpec): void {
  if (given.name !== old.name) throw new ClusterError("unimplemented", "renaming services is not supported");
  if (given.mode.kind !== old.mode.kind)
    throw new ClusterError("unimplemented", "service mode change is not allowed");
}

/** `DELETE /services/{id}`: gone at once; its tasks are shut down afterwards. */
async function removeService({ store }: ApiDeps, call: Call): Promise<Reply> {
  await store.update((tx) => tx.services.remove(findService(tx, call).id), call.life);
  return empty();
}

function findService(view: StoreView, call: Call): Service {
  return resolve("service", param(call, "id"), view.services);
}

/**
 * `ServiceStatus`, as `docker service ls` prints it. What a node that is down was running serves nobody, and where every node has one
 * it is not missed there: who waits for all to run does not wait for that node.
 */
export function countTasks(view: StoreView, service: Service): ServiceCounts {
  const { mode } = service.spec;
  const iteration = service.job?.iteration;
  const nodes = nodesOf(view);
  let running = 0;
  let completed = 0;
  let wanted = 0;
  for (const task of view.tasks.byService(service.id)) {
    if (iteration !== undefined && task.jobIteration !== iteration) continue;
    const isAway = isOnDownNode(nodes, task);
    if (task.status.state === "running" && !isAway) running += 1;
    if (task.status.state === "complete") completed += 1;
    if (mode.kind === "global" && task.desiredState === "running" && !isAway) wanted += 1;
    if (
      mode.kind === "global-job" &&
      !isAway &&
      task.desiredState === "complete" &&
      taskStates[task.status.state] < taskStates.complete
    )
      wanted += 1;
  }
  switch (mode.kind) {
    case "replicated":
      return { running, desired: mode.replicas, completed };
    case "replicated-job":
      return { running, desired: mode.maxConcurrent, completed };
    case "global":
    case "global-job":
      return { running, desired: wanted, completed };
  }
}

const authLimitBytes = 64 * 1024;

/**
 * `X-Registry-Auth`: base64 of JSON, URL-safe or not. What cannot be read is ignored, as it always was. A client that has no
 * credentials (any more) sends an empty object.
 */
function parseRegistryAuth(header: string | undefined): RegistryAuth | undefined {
  if (header === undefined || header.length > authLimitBytes) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(header, "base64").toString("utf8"));
  } catch {
    return undefined;
  }
  if (typeof parsed !== "object" || parsed === null) return undefined;
  const fields = new Map(
    Object.entries(parsed).map(([name, value]) => [name.toLowerCase(), value as unknown]),
  );
  const text = (name: string): string | undefined => {
    const value = fields.get(name);
    return typeof value === "string" && value !== "" ? value : undefined;
  };
  return present({
    username: text("username"),
    password: text("password"),
    serverAddress: text("serveraddress"),
    identityToken: text("identitytoken"),
    registryToken: text("registrytoken"),
  });
}
