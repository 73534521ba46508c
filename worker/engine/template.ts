/**
 * Templates of task specs: `{{.Task.Slot}}` and the like in environment, hostname and mounts, as
 * `docker service create` takes them. Pure.
 */
import { ClusterError } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { ContainerSpec, Mount, Platform } from "../../model/service.ts";

export interface TemplateContext {
  readonly service: { readonly id: string; readonly name: string; readonly labels: Labels };
  readonly node: { readonly id: string; readonly hostname: string; readonly platform: Platform };
  readonly task: { readonly id: string; readonly name: string; readonly slot: string };
}

/** Expands what Docker expands: environment, hostname, and source and target of mounts. */
export function expandSpec(spec: ContainerSpec, context: TemplateContext): ContainerSpec {
  return {
    ...spec,
    env: spec.env.map((line) => expandTemplate(line, context)),
    ...(spec.hostname !== undefined && { hostname: expandTemplate(spec.hostname, context) }),
    mounts: spec.mounts.map((mount) => expandMount(mount, context)),
  };
}

/** @throws {ClusterError} `invalid-argument` naming the expression that is not known. */
export function expandTemplate(text: string, context: TemplateContext): string {
  if (!text.includes("{{")) return text;
  return text.replaceAll(/\{\{-?\s*(.*?)\s*-?\}\}/gs, (_whole, expression: string) =>
    evaluate(expression, context),
  );
}

function expandMount(mount: Mount, context: TemplateContext): Mount {
  const target = expandTemplate(mount.target, context);
  switch (mount.type) {
    case "tmpfs":
      return { ...mount, target };
    case "bind":
    case "volume":
      return { ...mount, target, source: expandTemplate(mount.source, context) };
  }
}

function evaluate(expression: string, { service, node, task }: TemplateContext): string {
  switch (expression) {
    case ".Service.ID":
      return service.id;
    case ".Service.Name":
      return service.name;
    case ".Node.ID":
      return node.id;
    case ".Node.Hostname":
      return node.hostname;
    case ".Node.Platform.OS":
      return node.platform.os;
    case ".Node.Platform.Architecture":
      return node.platform.architecture;
    case ".Node.Platform":
      return `{${node.platform.architecture} ${node.platform.os}}`;
    case ".Task.ID":
      return task.id;
    case ".Task.Name":
      return task.name;
    case ".Task.Slot":
      return task.slot;
    default:
      return label(expression, service.labels);
  }
}

/** `index .Service.Labels "key"` and `.Service.Labels.key`; a missing label is empty, as with Go's maps. */
function label(expression: string, labels: Labels): string {
  const key =
    /^index\s+\.Service\.Labels\s+(?:"([^"]*)"|`([^`]*)`)$/
      .exec(expression)
      ?.slice(1)
      .find((part) => part !== undefined) ??
    /^\.Service\.Labels\.([A-Za-z_][A-Za-z0-9_]*)$/.exec(expression)?.[1];
  if (key === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `expanding template failed: unknown expression {{${expression}}}: .Service.ID, .Service.Name, .Service.Labels, .Node.ID, .Node.Hostname, .Node.Platform, .Task.ID, .Task.Name and .Task.Slot are known`,
    );
  }
  return labels[key] ?? "";
}
