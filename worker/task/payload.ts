/** Secrets and configs of one task as its container gets them; those that are templates are expanded. Pure. */
import { ClusterError, errorText } from "../../model/errors.ts";
import { configLimitBytes, secretLimitBytes } from "../../model/payload.ts";
import type { ContainerSpec } from "../../model/service.ts";
import { expandTemplate, type TemplateContext } from "../../model/template.ts";
import type { PayloadFile } from "../engine/engine.ts";

/** What the managers sent of a secret or config. */
export interface TaskPayload {
  readonly data: Uint8Array;
  /** "golang", or empty for content that is taken as it is. */
  readonly templating: string;
}

export interface PayloadSource {
  /** A secret or config by id; `undefined` while it was not assigned. */
  readonly find: (id: string) => TaskPayload | undefined;
  readonly context: TemplateContext;
}

/**
 * Templates may name other secrets and configs by their target in this very task (their content is put in as it
 * is), and variables of the container's environment; one that is not set is empty.
 *
 * @param spec - Its own templates already expanded.
 * @throws {ClusterError} `failed-precondition` when one is missing, `invalid-argument` when a template cannot be expanded.
 */
export function payloadFiles(
  spec: Pick<ContainerSpec, "secrets" | "configs" | "env">,
  source: PayloadSource,
): { readonly secrets: PayloadFile[]; readonly configs: PayloadFile[] } {
  const raw = {
    secret: new Map(
      spec.secrets.map(({ file, secretId, secretName }) => [file.name, { id: secretId, name: secretName }]),
    ),
    config: new Map(
      spec.configs.flatMap(({ file, configId, configName }) =>
        file === undefined ? [] : [[file.name, { id: configId, name: configName }] as const],
      ),
    ),
  };
  const text = (kind: "secret" | "config") => (target: string) => {
    const found = raw[kind].get(target);
    if (found === undefined) throw new Error(`${kind} target ${target} not found`);
    return Buffer.from(required(source.find(found.id), `${kind} ${found.name}`).data).toString("utf8");
  };
  const env = (name: string): string =>
    spec.env.findLast((line) => line.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  const lookups = { secret: text("secret"), config: text("config"), env };

  const content = (kind: "secret" | "config", id: string, name: string): Uint8Array => {
    const payload = required(source.find(id), `${kind} ${name}`);
    if (payload.templating === "") return payload.data;
    if (payload.templating !== "golang") {
      throw new ClusterError("invalid-argument", `${kind} ${name}: unrecognized template type`);
    }
    const limitBytes = kind === "secret" ? secretLimitBytes : configLimitBytes;
    let data: Uint8Array;
    try {
      data = Buffer.from(expandTemplate(Buffer.from(payload.data).toString("utf8"), source.context, lookups));
    } catch (cause) {
      if (cause instanceof ClusterError) throw cause;
      throw new ClusterError("invalid-argument", `expanding ${kind} ${name} failed: ${errorText(cause)}`, {
        cause,
      });
    }
    if (data.length < limitBytes) return data;
    throw new ClusterError(
      "invalid-argument",
      `expanding ${kind} ${name} failed: ${data.length} bytes, less than ${limitBytes} are accepted`,
    );
  };
  return {
    secrets: spec.secrets.map(({ secretId, secretName, file }) => ({
      target: file,
      data: content("secret", secretId, secretName),
    })),
    configs: spec.configs.flatMap(({ configId, configName, file }) =>
      file === undefined ? [] : [{ target: file, data: content("config", configId, configName) }],
    ),
  };
}

function required<T>(payload: T | undefined, what: string): T {
  if (payload !== undefined) return payload;
  throw new ClusterError(
    "failed-precondition",
    `cannot create the container: ${what} was not assigned to this node`,
  );
}
