import { isKnownKey, parseConstraint } from "./constraint.ts";
import { extensionLabels, unknownExtensions } from "./extensions.ts";
import type { ServiceSpec } from "./service.ts";

/** What is accepted but will hardly do what was meant; for the `Warnings` of an answer. */
export function serviceWarnings({ labels, task: { placement } }: ServiceSpec): string[] {
  return [
    ...placement.constraints.flatMap(constraintWarnings),
    ...placement.spread.flatMap(spreadWarnings),
    ...unknownExtensions(labels).map(
      (label) => `label ${label} is not known and does nothing; known are ${extensionLabels.join(", ")}`,
    ),
  ];
}

function constraintWarnings(text: string): string[] {
  const { key } = parseConstraint(text);
  if (isKnownKey(key)) return [];
  return [
    `constraint ${JSON.stringify(text)}: no node has ${key}, so no task will be placed; known are node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.NAME and engine.labels.NAME`,
  ];
}

function spreadWarnings(descriptor: string): string[] {
  if (/^(?:node|engine)\.labels\../i.test(descriptor)) return [];
  return [
    `placement preference ${JSON.stringify(descriptor)} is not known and does nothing; node.labels.NAME and engine.labels.NAME are`,
  ];
}
