/** Secrets and configs: Engine API JSON to model and back. */
import { ClusterError } from "../../model/errors.ts";
import {
  type Config,
  configLimitBytes,
  type PayloadSpec,
  type Secret,
  secretLimitBytes,
} from "../../model/payload.ts";
import { payloadTemplateProblem } from "../../model/template-syntax.ts";
import { payloadNameProblems } from "../../model/validate.ts";
import type { JsonObject } from "./json-reader.ts";
import { type Json, printMeta } from "./json-writer.ts";
import { parseNamedOptions, present } from "./parse.ts";

export type PayloadKind = "secret" | "config";

/** `data` undefined: the request left it out, which an update may. */
export interface ParsedPayload {
  readonly spec: Omit<PayloadSpec, "data">;
  readonly data: string | undefined;
}

export function parsePayload(kind: PayloadKind, json: JsonObject): ParsedPayload {
  if (kind === "secret" && json.object("Driver").text("Name") !== "") {
    throw new ClusterError("unimplemented", "secret drivers are not available; send the secret's data");
  }
  const name = json.text("Name");
  const given = json.optionalText("Data");
  const data = given === undefined ? undefined : canonicalBase64(given);
  const templating = parseNamedOptions(json.object("Templating"));
  checkTemplate(kind, templating?.name ?? "", data ?? "");
  return {
    spec: {
      name,
      labels: json.labels("Labels"),
      ...present({ templating }),
    },
    data,
  };
}

/** @throws {ClusterError} `invalid-argument` for a name that a new object cannot have. */
export function checkPayloadName(name: string): void {
  const problem = payloadNameProblems(name)[0];
  if (problem !== undefined) throw new ClusterError("invalid-argument", problem);
}

/** A template that nothing can read would only fail in its tasks. */
function checkTemplate(kind: PayloadKind, driver: string, data: string): void {
  if (driver === "") return;
  if (driver !== "golang") {
    throw new ClusterError(
      "invalid-argument",
      `unrecognized template type ${JSON.stringify(driver)}: golang is accepted`,
    );
  }
  const problem = payloadTemplateProblem(Buffer.from(data, "base64").toString("utf8"));
  if (problem !== undefined) throw new ClusterError("invalid-argument", `invalid ${kind}: ${problem}`);
}

/** @throws {ClusterError} `invalid-argument` when the payload is empty or too large. */
export function checkPayloadSize(kind: PayloadKind, data: string | undefined): asserts data is string {
  const limit = kind === "secret" ? secretLimitBytes : configLimitBytes;
  const bytes = data === undefined ? 0 : Buffer.byteLength(data, "base64");
  if (bytes < 1 || bytes >= limit) {
    throw new ClusterError(
      "invalid-argument",
      `${kind} data must be larger than 0 and less than ${limit} bytes`,
    );
  }
}

const base64Pattern = /^[A-Za-z0-9+/_\-\r\n]*={0,2}$/;

function canonicalBase64(text: string): string {
  if (!base64Pattern.test(text)) {
    throw new ClusterError("invalid-argument", "invalid JSON: Data must be base64, standard or URL-safe");
  }
  return Buffer.from(text, "base64").toString("base64");
}

/** Data of a secret never leaves through the API. */
export function printPayload(
  kind: PayloadKind,
  object: Omit<Secret | Config, "id"> & { readonly id: string },
): Json {
  const { name, labels, data, templating } = object.spec;
  return {
    ...printMeta(object),
    Spec: {
      Name: name,
      Labels: labels,
      Data: kind === "config" ? data : undefined,
      Templating:
        templating === undefined ? undefined : { Name: templating.name, Options: templating.options },
    },
  };
}
