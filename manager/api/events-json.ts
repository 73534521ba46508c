/** Commits of the store → events as `/events` shows them. */
import type { Node } from "../../model/node.ts";
import { isPredefined } from "../../model/network.ts";
import type { Service } from "../../model/service.ts";
import type { Filters } from "../../runtime/http.ts";
import type { StoreEvent } from "../store/change.ts";
import { printState } from "./node-json.ts";
import { labelsMatch } from "./query.ts";

type EventType = "service" | "node" | "network" | "secret" | "config";

export interface SwarmEvent {
  readonly type: EventType;
  readonly action: "create" | "update" | "remove";
  readonly id: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** Unix milliseconds. */
  readonly atMs: number;
}

const actions = { created: "create", updated: "update", removed: "remove" } as const;

/** Undefined for what clients do not see: tasks, revisions, attachments, the cluster, the swarm's own networks. */
export function toSwarmEvent(event: StoreEvent, nowMs: number): SwarmEvent | undefined {
  if (event.kind === "resync") return undefined;
  const action = actions[event.kind];
  const { id, meta } = event.object;
  const atMs = action === "create" ? meta.createdAtMs : action === "update" ? meta.updatedAtMs : nowMs;
  switch (event.table) {
    case "services": {
      const { name } = event.object.spec;
      const changes = event.kind === "updated" ? serviceChanges(event.previous, event.object) : {};
      return { type: "service", action, id, attributes: { name, ...changes }, atMs };
    }
    case "nodes": {
      const name = event.object.description?.hostname ?? event.object.spec.name ?? "";
      const changes = event.kind === "updated" ? nodeChanges(event.previous, event.object) : {};
      return { type: "node", action, id, attributes: { name, ...changes }, atMs };
    }
    case "networks":
      if (isPredefined(event.object)) return undefined;
      return { type: "network", action, id, attributes: { name: event.object.spec.name }, atMs };
    case "secrets":
      return { type: "secret", action, id, attributes: { name: event.object.spec.name }, atMs };
    case "configs":
      return { type: "config", action, id, attributes: { name: event.object.spec.name }, atMs };
    case "tasks":
    case "revisions":
    case "attachments":
    case "cluster":
      return undefined;
  }
}

function serviceChanges(old: Service, now: Service): Record<string, string> {
  const replicas = ({ spec }: Service): string =>
    spec.mode.kind === "replicated" ? String(spec.mode.replicas) : "";
  return {
    ...change("replicas", replicas(old), replicas(now)),
    ...change("image", old.spec.task.container.image, now.spec.task.container.image),
    ...change("updatestate", old.updateStatus?.state ?? "", now.updateStatus?.state ?? ""),
  };
}

function nodeChanges(old: Node, now: Node): Record<string, string> {
  return {
    ...change("availability", old.spec.availability, now.spec.availability),
    ...change("role", old.spec.role, now.spec.role),
    ...change("state", printState(old.status.state), printState(now.status.state)),
  };
}

function change(name: string, old: string, now: string): Record<string, string> {
  return old === now ? {} : { [`${name}.old`]: old, [`${name}.new`]: now };
}

/** One line of the stream. The nanoseconds exceed what a number holds, so they are written as text. */
export function printEvent({ type, action, id, attributes, atMs }: SwarmEvent): string {
  const head = JSON.stringify({
    Type: type,
    Action: action,
    Actor: { ID: id, Attributes: attributes },
    scope: "swarm",
    time: Math.floor(atMs / 1_000),
  });
  return `${head.slice(0, -1)},"timeNano":${Math.floor(atMs)}000000}\n`;
}

export const eventFilterKeys = [
  "config",
  "container",
  "daemon",
  "event",
  "image",
  "label",
  "network",
  "node",
  "plugin",
  "scope",
  "secret",
  "service",
  "type",
  "volume",
] as const;

/** Kinds are filtered by id or name; asking for a container, say, leaves no swarm event. */
export function eventMatches(event: SwarmEvent, filters: Filters): boolean {
  return [...filters].every(([key, wanted]) => {
    if (wanted.length === 0) return true;
    switch (key) {
      case "event":
        return wanted.includes(event.action);
      case "scope":
        return wanted.includes("swarm");
      case "type":
        return wanted.includes(event.type);
      case "label":
        return labelsMatch(event.attributes, wanted);
      default:
        return (
          key === event.type && (wanted.includes(event.id) || wanted.includes(event.attributes["name"] ?? ""))
        );
    }
  });
}
