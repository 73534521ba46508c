/** Image references: "nginx", "host:5000/a/b:tag", "name@sha256:…". Pure. */
import { ClusterError } from "../../model/errors.ts";

export interface Reference {
  /** Host, with a port if given: "docker.io", "10.0.0.1:5000". */
  readonly domain: string;
  /** Repository: "library/nginx". */
  readonly path: string;
  /** Absent when there is a digest, which decides alone. */
  readonly tag?: string;
  readonly digest?: string;
}

const pathPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const domainPattern =
  /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
export const digestPattern = /^sha256:[0-9a-f]{64}$/;
const nameLimit = 255;

/** @throws {ClusterError} `invalid-argument` with Docker's text. */
export function parseReference(text: string): Reference {
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  const named = at < 0 ? text : text.slice(0, at);
  if (digest !== undefined && !digestPattern.test(digest)) throw invalid();
  const slash = named.indexOf("/");
  const first = slash < 0 ? "" : named.slice(0, slash);
  const hasDomain = /[.:]/.test(first) || first === "localhost" || first.toLowerCase() !== first;
  const rest = hasDomain ? named.slice(slash + 1) : named;
  const colon = rest.lastIndexOf(":");
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  const name = colon < 0 ? rest : rest.slice(0, colon);
  const domain = hasDomain ? (first === "index.docker.io" ? "docker.io" : first) : "docker.io";
  const path = domain === "docker.io" && !name.includes("/") ? `library/${name}` : name;
  if (pathPattern.test(path.toLowerCase()) && path !== path.toLowerCase())
    throw invalid(`: repository name (${path}) must be lowercase`);
  if (!pathPattern.test(path) || !domainPattern.test(domain)) throw invalid();
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid();
  if (domain.length + path.length > nameLimit) throw invalid();
  if (digest !== undefined) return { domain, path, digest };
  return { domain, path, tag: tag ?? "latest" };

  function invalid(why = ""): ClusterError {
    return new ClusterError("invalid-argument", `invalid reference format${why}`);
  }
}

/** The full form, which is the image's name in containerd. */
export function printReference({ domain, path, tag, digest }: Reference): string {
  return digest === undefined ? `${domain}/${path}:${tag ?? "latest"}` : `${domain}/${path}@${digest}`;
}

/** A full form as users write it: without Docker Hub's parts. */
export function familiarName(reference: string): string {
  return reference.replace(/^docker\.io\/(library\/)?/, "");
}

/** Where the registry of a domain is reached. */
export function registryHost(domain: string): string {
  return domain === "docker.io" ? "registry-1.docker.io" : domain;
}
