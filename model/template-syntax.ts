/** Whether a template can be expanded, asked before any task is. */
import { errorText } from "./errors.ts";
import type { Labels } from "./meta.ts";
import { expandTemplate } from "./template.ts";
import { parseTemplate } from "./template-parse.ts";

/**
 * What is wrong with a hostname, an environment line or a mount of a service, in words; undefined when nothing is.
 * It is expanded with made-up values, so that unknown fields show.
 */
export function templateProblem(text: string, labels: Labels): string | undefined {
  return problemOf(() => expandTemplate(text, { ...sample, service: { ...sample.service, labels } }));
}

/** What is wrong with a secret or config that is a template; what it refers to is known only in a task. */
export function payloadTemplateProblem(text: string): string | undefined {
  return problemOf(() => parseTemplate(text));
}

const sample = {
  service: { id: "id", name: "name", labels: {} },
  node: { id: "id", hostname: "host", platform: { architecture: "x86_64", os: "linux" } },
  task: { id: "id", name: "name.1.id", slot: "1" },
};

function problemOf(expand: () => unknown): string | undefined {
  try {
    expand();
    return undefined;
  } catch (reason) {
    return errorText(reason);
  }
}
