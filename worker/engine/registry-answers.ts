/** What registries answer: bodies up to a limit, and refusals in the words that Docker's clients know. */
import type { IncomingMessage } from "node:http";

import { ClusterError } from "../../model/errors.ts";
import { printReference, type Reference } from "./reference.ts";

const errorLimitBytes = 64 << 10;

/** The whole body, refused as soon as it is larger than the limit. */
export async function readBody(response: IncomingMessage, limitBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limitBytes) {
      response.destroy();
      throw new ClusterError(
        "failed-precondition",
        `the registry sent more than ${limitBytes} bytes where less is accepted`,
      );
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/** Docker's texts, since clients match on them. */
export async function refuse(
  response: IncomingMessage,
  reference: Reference,
  doing: "pull" | "push" | "login" = "pull",
): Promise<never> {
  const code = response.statusCode ?? 0;
  const said = await registryMessage(response);
  const name = printReference(reference);
  if (doing === "login" && (code === 401 || code === 403)) {
    throw new ClusterError(
      "unauthenticated",
      `Get "https://${reference.domain}/v2/": ${said || "unauthorized: incorrect username or password"}`,
    );
  }
  if (doing === "push") {
    if (code === 401)
      throw new ClusterError("unauthenticated", said || "unauthorized: authentication required");
    if (code === 403)
      throw new ClusterError(
        "permission-denied",
        said || "denied: requested access to the resource is denied",
      );
    if (code < 500 && code !== 429)
      throw new ClusterError(
        "failed-precondition",
        `the registry ${reference.domain} refused ${name} with ${code}: ${said}`,
      );
  }
  switch (code) {
    case 401:
      throw new ClusterError(
        "unauthenticated",
        `pull access denied for ${reference.path}, repository does not exist or may require 'docker login': ${said || "no basic auth credentials"}`,
      );
    case 403:
      throw new ClusterError(
        "permission-denied",
        `pull access denied for ${reference.path}: ${said || "denied"}`,
      );
    case 404:
      throw new ClusterError("not-found", `manifest for ${name} not found: ${said || "manifest unknown"}`);
    case 429:
      throw new ClusterError(
        "resource-exhausted",
        `toomanyrequests: ${said || `${reference.domain} limits the rate of pulls`}`,
      );
    default:
      throw new ClusterError(
        "unavailable",
        `the registry ${reference.domain} answered ${code} for ${name}: ${said}`,
      );
  }
}

async function registryMessage(response: IncomingMessage): Promise<string> {
  const text = await readBody(response, errorLimitBytes).then(
    (body) => body.toString("utf8"),
    () => "",
  );
  try {
    const body = JSON.parse(text) as { errors?: { code?: string; message?: string }[]; details?: string };
    const first = body.errors?.[0];
    if (first === undefined) return typeof body.details === "string" ? body.details : "";
    return `${String(first.code).toLowerCase().replaceAll("_", " ")}: ${String(first.message)}`;
  } catch {
    return text.slice(0, 200).trim();
  }
}
