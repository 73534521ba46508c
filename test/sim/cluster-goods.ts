import type { StoreView, Transaction } from "../../manager/store/transaction.ts";
import { virtualNetworks } from "../../manager/allocator/endpoint.ts";
import { withoutPrefix } from "../../model/address.ts";
import type { ConfigId, NetworkId, SecretId } from "../../model/ids.ts";
import { subnetsOf } from "../../model/network.ts";
import type { Service } from "../../model/service.ts";
import { isTerminal, portKey, type Task } from "../../model/task.ts";
import type { ContainerCreate } from "../../worker/engine/engine.ts";
import type { Day } from "./cluster-plan.ts";
import { networkObject } from "./objects.ts";
import type { SimRandom } from "./raft-schedule.ts";

/** What services use beside nodes: networks, ports of the whole cluster, secrets and configs. */
type Kind = "secret" | "config";

export const wide = "wide";
/** Has fewer addresses than services may want. */
export const narrow = "narrow";
const narrowAddresses = 13;

/** What is there before the first request. */
export function writeGoods(tx: Transaction): void {
  tx.networks.create(networkObject("ingress", { ingress: true }));
  tx.networks.create(networkObject(wide, { attachable: true, ipv6: true }));
  tx.networks.create(networkObject(narrow, { attachable: true, ipam: [{ subnet: "10.77.0.0/28" }] }));
  for (const name of ["key", "word"]) {
    const spec = { name, labels: {}, data: dataOf(name) };
    tx.secrets.create({ id: name.padEnd(25, "0") as SecretId, spec });
    tx.configs.create({ id: name.padEnd(25, "1") as ConfigId, spec });
  }
}

/** The payload of a secret or config says its name. */
function dataOf(name: string): string {
  return Buffer.from(`of ${name}`).toString("base64");
}

/** A request that makes or removes a secret or config. */
export function drawPayloadRequest(
  random: SimRandom,
  view: StoreView,
  number: number,
): {
  readonly method: "POST" | "DELETE";
  readonly path: string;
  readonly id?: string;
  readonly body?: Record<string, unknown>;
} {
  const kind: Kind = random.chance(0.5) ? "secret" : "config";
  const known = random.pick(payloads(view, kind));
  if (known !== undefined && random.chance(0.4))
    return { method: "DELETE", path: `/${kind}s/:id`, id: known.id };
  const name = `p${number}`;
  return { method: "POST", path: `/${kind}s/create`, body: { Name: name, Data: dataOf(name) } };
}

function payloads(
  view: StoreView,
  kind: Kind,
): readonly { readonly id: string; readonly spec: { readonly name: string } }[] {
  return kind === "secret" ? view.secrets.list() : view.configs.list();
}

/** Adds to a service as clients send it what it uses. Services of calm days ask for nothing that may run out. */
export function withGoods(
  random: SimRandom,
  view: StoreView,
  day: Day,
  body: Record<string, unknown>,
): Record<string, unknown> {
  const template = body["TaskTemplate"] as Record<string, unknown>;
  const container = template["ContainerSpec"] as Record<string, unknown>;
  const networks = random.chance(0.5)
    ? [{ Target: day === "rough" && random.chance(0.4) ? narrow : wide }]
    : [];
  const references = (kind: Kind, title: string): unknown[] => {
    const picked = random.chance(0.3) ? random.pick(payloads(view, kind)) : undefined;
    if (picked === undefined) return [];
    const { id, spec } = picked;
    return [
      {
        [`${title}ID`]: id,
        [`${title}Name`]: spec.name,
        File: { Name: `/run/${spec.name}`, UID: "0", GID: "0", Mode: 292 },
      },
    ];
  };
  const chosenPort = day === "rough" && random.chance(0.5) ? 8_100 + random.integer(3) : 0;
  const ports = random.chance(0.25)
    ? [{ Protocol: "tcp", TargetPort: 80, PublishedPort: chosenPort, PublishMode: "ingress" }]
    : [];
  return {
    ...body,
    TaskTemplate: {
      ...template,
      ContainerSpec: {
        ...container,
        Secrets: references("secret", "Secret"),
        Configs: references("config", "Config"),
      },
      Networks: networks,
    },
    ...(body["EndpointSpec"] === undefined && {
      EndpointSpec: { Mode: random.chance(0.9) || ports.length > 0 ? "vip" : "dnsrr", Ports: ports },
    }),
  };
}

/** What may not be in any state that a committed entry leaves; undefined when all is well. */
export function goodsProblem(view: StoreView): { readonly rule: string; readonly text: string } | undefined {
  const owners = new Map<string, string>();
  for (const [key, owner] of given(view)) {
    const other = owners.get(key);
    if (other !== undefined && other !== owner)
      return { rule: "given twice", text: `${key} to ${other} and ${owner}` };
    owners.set(key, owner);
  }
  for (const { spec } of view.services.list()) {
    const { container, networks } = spec.task;
    const missing = [
      ...networks.filter(({ networkId }) => !view.networks.has(networkId)).map(({ networkId }) => networkId),
      ...container.secrets
        .filter(({ secretId }) => !view.secrets.has(secretId))
        .map(({ secretName }) => secretName),
      ...container.configs
        .filter(({ configId }) => !view.configs.has(configId))
        .map(({ configName }) => configName),
    ];
    if (missing.length > 0)
      return { rule: "references", text: `service ${spec.name} names ${missing.join(", ")}, which is gone` };
  }
  return undefined;
}

/** Addresses and ports with who has them. */
function* given(view: StoreView): Iterable<readonly [key: string, owner: string]> {
  for (const { id, state } of view.networks.list()) {
    for (const { gateway } of state === undefined ? [] : subnetsOf(state))
      yield [`${id} ${gateway}`, "the gateway"];
  }
  for (const { id, endpoint } of view.services.list()) {
    for (const place of endpoint?.virtualIps ?? []) for (const key of keysOf(place)) yield [key, id];
    for (const port of endpoint?.ports ?? [])
      if (port.publishMode === "ingress") yield [`port ${portKey(port)}`, id];
  }
  for (const task of view.tasks.list()) {
    if (isTerminal(task)) continue;
    for (const place of task.networks) for (const key of keysOf(place)) yield [key, task.id];
  }
  for (const { id, ...place } of view.attachments.list()) for (const key of keysOf(place)) yield [key, id];
}

/** Of a place that nothing is given for yet there are none. */
function keysOf({
  networkId,
  address,
  ipv6,
}: {
  readonly networkId: NetworkId;
  readonly address?: string;
  readonly ipv6?: string;
}): string[] {
  return [address ?? [], ipv6 ?? []].flat().map((each) => `${networkId} ${withoutPrefix(each)}`);
}

/** It waits for what others have, says so, and they have it indeed. */
export function waitsForGoods(view: StoreView, service: Service, { status }: Task): boolean {
  if (status.state !== "new" || status.error === "") return false;
  if (status.error.includes("no address is left")) {
    const network = view.networks.byName(narrow);
    const used = [...given(view)].filter(
      ([key, owner]) => key.startsWith(`${network?.id} `) && owner !== "the gateway",
    );
    return used.length >= narrowAddresses - 1; // One that wants two, for itself and its service, takes none of a last one.
  }
  const asked = new Set(service.spec.endpoint.ports.map(portKey));
  return view.services
    .list()
    .some(
      ({ id, endpoint }) =>
        id !== service.id && (endpoint?.ports ?? []).some((port) => asked.has(portKey(port))),
    );
}

/** Why what runs is not as its revision wants it; undefined when it is. */
export function equipmentProblem(view: StoreView, service: Service, task: Task): string | undefined {
  const revision = view.revisions
    .list()
    .find((each) => each.serviceId === task.serviceId && each.specVersion === task.specVersion);
  if (revision === undefined) return "it has no revision";
  const on = new Set<NetworkId>(task.networks.map(({ networkId }) => networkId));
  const missing = revision.task.networks.find(({ networkId }) => !on.has(networkId));
  if (missing !== undefined) return `it is not on network ${missing.networkId}`;
  if (task.specVersion !== service.specVersion) return undefined;
  const wanted = virtualNetworks(service.spec, view.networks) ?? [];
  const without = wanted.find(
    (id) => !(service.endpoint?.virtualIps ?? []).some(({ networkId }) => networkId === id),
  );
  return without === undefined ? undefined : `its service has no address on ${without}`;
}

/** Why a container does not hold what its task's revision names. */
export function filesProblem(view: StoreView, task: Task, request: ContainerCreate): string | undefined {
  const revision = view.revisions
    .list()
    .find((each) => each.serviceId === task.serviceId && each.specVersion === task.specVersion);
  const container = revision?.task.container;
  const wanted = [
    ...(container?.secrets ?? []).map(({ secretName, file }) => [file.name, secretName]),
    ...(container?.configs ?? []).map(({ configName, file }) => [file?.name, configName]),
  ].map(([path, name]) => `${path}=of ${name}`);
  const found = [...request.secrets, ...request.configs].map(
    ({ target, data }) => `${target.name}=${Buffer.from(data).toString()}`,
  );
  return wanted.join() === found.join() ? undefined : `its files are ${found.join()}, not ${wanted.join()}`;
}
