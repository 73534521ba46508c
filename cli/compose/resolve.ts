import { isAbsolute, join, resolve } from "node:path";
import type { Environment } from "./interpolate.ts";
import { namedRecord } from "./names.ts";
import { parseShortMount } from "./short-forms.ts";
import type { ComposeFile, ComposeMount, ComposeService } from "./types.ts";

/** Where a file's relative paths start, and what its variables without a value are. */
export interface Surroundings {
  readonly folder: string;
  readonly environment: Environment;
}

/** Services without anything that only this host knows: sources of binds are absolute, variables that are only named have their value. */
export function resolveServices(file: ComposeFile, surroundings: Surroundings): ComposeFile {
  const services = Object.entries(file.services ?? {}).map(([name, service]) => [
    name,
    resolveService(service, surroundings),
  ]);
  return { ...file, services: Object.fromEntries(services) as Record<string, ComposeService> };
}

function resolveService(service: ComposeService, surroundings: Surroundings): ComposeService {
  const { environment, volumes } = service;
  return {
    ...service,
    ...(environment !== undefined && { environment: resolveVariables(environment, surroundings) }),
    ...(volumes !== undefined && { volumes: volumes.map((mount) => resolveMount(mount, surroundings)) }),
  };
}

/** One that is not set here either stays a name, which takes an image's variable away. */
function resolveVariables(
  list: NonNullable<ComposeService["environment"]>,
  { environment }: Surroundings,
): NonNullable<ComposeService["environment"]> {
  const variables = Object.entries(namedRecord(list));
  return Object.fromEntries(variables.map(([name, value]) => [name, value ?? environment[name] ?? null]));
}

function resolveMount(
  given: string | ComposeMount,
  { folder, environment }: Surroundings,
): string | ComposeMount {
  const mount = typeof given === "string" ? parseShortMount(given) : given;
  const { type, source } = mount;
  if (type !== "bind" || source === undefined || isAbsolute(source)) return given;
  const home = environment["HOME"];
  if (!/^~(?:\/|$)/.test(source)) return { ...mount, source: resolve(folder, source) };
  if (home === undefined) throw new Error(`${source}: HOME is not set, so what ~ means is not known`);
  return { ...mount, source: join(home, source.slice(1)) };
}
