/** `/secrets` and `/configs`, which differ in little more than their name. */
import { isDeepStrictEqual } from "node:util";
import { ClusterError } from "../../model/errors.ts";
import type { Config, PayloadSpec, Secret } from "../../model/payload.ts";
import type { Service } from "../../model/service.ts";
import { type Filters, parseFilters } from "../../runtime/http.ts";
import { newId } from "../../runtime/random.ts";
import {
  requireSeen,
  type NamedTableView,
  type StoreView,
  type TableWrites,
  type Transaction,
} from "../store/transaction.ts";
import { type Call, empty, json, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import {
  checkPayloadName,
  checkPayloadSize,
  type ParsedPayload,
  parsePayload,
  type PayloadKind,
  printPayload,
} from "./payload-json.ts";
import { hasPrefix, requireVersion, swarmLabelsMatch } from "./query.ts";
import { resolve } from "./resolve.ts";

/** What both tables hold, but for the brand of the id. */
type Payload = Omit<Secret | Config, "id"> & { readonly id: string };

interface Kind {
  readonly kind: PayloadKind;
  readonly filterKeys: readonly string[];
  readonly objects: (view: StoreView) => NamedTableView<string, Payload>;
  readonly writes: (tx: Transaction) => TableWrites<string, Payload>;
  readonly usedBy: (service: Service, id: string) => boolean;
}

const secrets: Kind = {
  kind: "secret",
  filterKeys: ["id", "name", "names", "label"],
  objects: (view) => view.secrets,
  writes: (tx) => tx.secrets,
  usedBy: ({ spec }, id) => spec.task.container.secrets.some((each) => each.secretId === id),
};

const configs: Kind = {
  kind: "config",
  filterKeys: ["id", "name", "names", "label"],
  objects: (view) => view.configs,
  writes: (tx) => tx.configs,
  usedBy: ({ spec }, id) => spec.task.container.configs.some((each) => each.configId === id),
};

export const payloadRoutes: readonly Route[] = [secrets, configs].flatMap((kind): Route[] => {
  const base = `/${kind.kind}s`;
  return [
    { method: "GET", path: base, handle: (deps, call) => list(kind, deps, call) },
    { method: "GET", path: `${base}/:id`, handle: (deps, call) => inspect(kind, deps, call) },
    { method: "POST", path: `${base}/create`, handle: (deps, call) => create(kind, deps, call) },
    { method: "POST", path: `${base}/:id/update`, handle: (deps, call) => update(kind, deps, call) },
    { method: "DELETE", path: `${base}/:id`, handle: (deps, call) => remove(kind, deps, call) },
  ];
});

/** `GET /secrets`, `GET /configs` */
function list({ kind, filterKeys, objects }: Kind, { store }: ApiDeps, call: Call): Reply {
  const filters = parseFilters(call.query.get("filters"), filterKeys);
  return store.view((view) =>
    json(
      objects(view)
        .list()
        .filter(
          ({ id, spec }) =>
            isNamed(filters, { id, name: spec.name }) && swarmLabelsMatch(spec.labels, filters.get("label")),
        )
        .map((object) => printPayload(kind, object)),
    ),
  );
}

/** One of all the ids and names that are asked for is enough. */
function isNamed(filters: Filters, { id, name }: { readonly id: string; readonly name: string }): boolean {
  const ids = filters.get("id") ?? [];
  const prefixes = filters.get("name") ?? [];
  const names = filters.get("names") ?? [];
  if (ids.length + prefixes.length + names.length === 0) return true;
  return ids.some(hasPrefix(id)) || prefixes.some(hasPrefix(name)) || names.includes(name);
}

/** `GET /secrets/{id}`, `GET /configs/{id}` */
function inspect(kind: Kind, { store }: ApiDeps, call: Call): Reply {
  return store.view((view) => json(printPayload(kind.kind, find(kind, view, call))));
}

/** `POST /secrets/create`, `POST /configs/create` → 201 with the id. */
async function create(
  { kind, objects, writes }: Kind,
  { store, random }: ApiDeps,
  call: Call,
): Promise<Reply> {
  const { spec, data } = parsePayload(kind, call.body());
  checkPayloadName(spec.name);
  checkPayloadSize(kind, data);
  const id = await store.update((tx) => {
    if (objects(tx).byName(spec.name) !== undefined) {
      throw new ClusterError("name-conflict", `${kind} ${spec.name} already exists`);
    }
    return writes(tx).create({ id: newId(random), spec: { ...spec, data } }).id;
  }, call.life);
  return json({ ID: id }, 201);
}

/** `POST /secrets/{id}/update`, `POST /configs/{id}/update`: labels only. */
async function update(kind: Kind, { store }: ApiDeps, call: Call): Promise<Reply> {
  const version = requireVersion(call.query, kind.kind);
  const given = parsePayload(kind.kind, call.body());
  await store.update((tx) => {
    const object = find(kind, tx, call);
    if (!onlyLabelsDiffer(object.spec, given)) {
      throw new ClusterError("invalid-argument", "only updates to Labels are allowed");
    }
    requireSeen(object, version);
    kind.writes(tx).update({ ...object, spec: { ...object.spec, labels: given.spec.labels } });
  }, call.life);
  return empty();
}

function onlyLabelsDiffer(stored: PayloadSpec, { spec, data }: ParsedPayload): boolean {
  const { labels: _, templating, ...old } = stored;
  const { labels: __, templating: given = templating, ...rest } = spec;
  return (
    isDeepStrictEqual(given, templating) && isDeepStrictEqual(old, { ...rest, data: data ?? stored.data })
  );
}

/** `DELETE /secrets/{id}`, `DELETE /configs/{id}`: refused while a service refers to it. */
async function remove(kind: Kind, { store }: ApiDeps, call: Call): Promise<Reply> {
  await store.update((tx) => {
    const { id, spec } = find(kind, tx, call);
    const users = tx.services.list().filter((service) => kind.usedBy(service, id));
    if (users.length > 0) {
      const names = users.map((service) => service.spec.name).toSorted();
      throw new ClusterError(
        "invalid-argument",
        `${kind.kind} '${spec.name}' is in use by the following service${names.length > 1 ? "s" : ""}: ${names.join(", ")}`,
      );
    }
    kind.writes(tx).remove(id);
  }, call.life);
  return empty(204);
}

function find({ kind, objects }: Kind, view: StoreView, call: Call): Payload {
  return resolve(kind, param(call, "id"), objects(view));
}
