import { isKnownKey, parseConstraint } from "./constraint.ts";
import { extensionLabels, extensionsOf, soundStopAfterMs, unknownExtensions } from "./extensions.ts";
import type { ServiceSpec } from "./service.ts";

/** What is accepted but will hardly do what was meant; for the `Warnings` of an answer. */
export function serviceWarnings(spec: ServiceSpec): string[] {
  const {
    labels,
    task: { placement },
  } = spec;
  return [
    ...placement.constraints.flatMap(constraintWarnings),
    ...placement.spread.flatMap(spreadWarnings),
    ...unknownExtensions(labels).map(
      (label) => `label ${label} is not known and does nothing; known are ${extensionLabels.join(", ")}`,
    ),
    ...idleExtensions(spec),
  ];
}

/** Labels that are understood but cannot act on a service of this mode or with these settings. */
function idleExtensions({ labels, mode, update, endpoint }: ServiceSpec): string[] {
  const has = (name: string): boolean => labels[`shoal.${name}`] !== undefined;
  const { onUnreachable, updateSettleMs } = extensionsOf(labels);
  const warnings: string[] = [];
  const idle = (name: string, why: string): void => {
    if (has(name)) warnings.push(`label shoal.${name} does nothing here: ${why}`);
  };
  if (!endpoint.ports.some(({ publishMode }) => publishMode === "ingress")) {
    idle("mesh", "the service publishes no port in ingress mode");
    idle("publish.address", "the service publishes no port in ingress mode");
  }
  const isGlobal = mode.kind === "global" || mode.kind === "global-job";
  const isJob = mode.kind === "replicated-job" || mode.kind === "global-job";
  if (isGlobal && onUnreachable.kind !== "stop") {
    idle(
      "on-unreachable",
      "tasks of a global service belong to their node and run nowhere else; stop can act",
    );
  }
  if (isGlobal) idle("prefer", "a global service runs on every node that may have it");
  if (mode.kind !== "replicated") idle("rebalance", "only replicated services are rebalanced");
  if (isJob) {
    idle("update.deadline", "jobs have no updates, each begins a new iteration");
    idle("update.settle", "jobs have no updates, each begins a new iteration");
  } else if (updateSettleMs > 0 && update?.order !== "start-first") {
    idle("update.settle", "with the update order stop-first the old task has ended before the new one runs");
  }
  if (has("on-unreachable") && onUnreachable.kind === "stop" && onUnreachable.afterMs < soundStopAfterMs) {
    warnings.push(
      `label shoal.on-unreachable: after less than ${soundStopAfterMs / 1_000}s without a manager an ordinary change of leader may stop tasks`,
    );
  }
  return warnings;
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
