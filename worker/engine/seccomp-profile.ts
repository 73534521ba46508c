/**
 * A user's own system call filter. Docker writes conditions into its profiles (capabilities, architectures, versions of the kernel)
 * that no runtime knows: they are judged here, and what a runtime is given has none. Pure.
 */
import { ClusterError } from "../../model/errors.ts";
import type { OciSeccomp } from "./oci.ts";

/** What the conditions of a profile are about. */
export interface SeccompFacts {
  /** As `uname -m` prints it. */
  readonly machine: string;
  /** As `uname -r` prints it. */
  readonly kernelVersion: string;
  /** Those that the container may ever have, such as `CAP_SYS_ADMIN`. */
  readonly capabilities: readonly string[];
}

type Fields = Readonly<Record<string, unknown>>;

/** Of `uname -m`: as profiles name it in their conditions, and in their map of architectures. */
const architectureNames: Readonly<Record<string, readonly [condition: string, map: string]>> = {
  x86_64: ["amd64", "SCMP_ARCH_X86_64"],
  aarch64: ["arm64", "SCMP_ARCH_AARCH64"],
  riscv64: ["riscv64", "SCMP_ARCH_RISCV64"],
  s390x: ["s390x", "SCMP_ARCH_S390X"],
  ppc64le: ["ppc64le", "SCMP_ARCH_PPC64LE"],
  loong64: ["loong64", "SCMP_ARCH_LOONGARCH64"],
};

/**
 * @param profile - JSON, in Docker's form or in that of the OCI specification.
 * @throws {ClusterError} `invalid-argument` for what is neither.
 */
export function customSeccomp(profile: string, facts: SeccompFacts): OciSeccomp {
  let json: unknown;
  try {
    json = JSON.parse(profile);
  } catch (cause) {
    throw refused("it is not JSON", { cause });
  }
  const { archMap, architectures, syscalls, ...rest } = fieldsOf(json, "the profile");
  if (typeof rest["defaultAction"] !== "string") throw refused("it has no defaultAction");
  const given = textsOf(architectures, "architectures");
  const mapped = listOf(archMap, "archMap");
  if (given.length > 0 && mapped.length > 0) {
    const both = "both 'architectures' and 'archMap' are specified in the seccomp profile";
    throw refused(`${both}, use either 'architectures' or 'archMap'`);
  }
  return {
    ...rest,
    defaultAction: rest["defaultAction"],
    architectures: [...given, ...architecturesOf(mapped, facts.machine)],
    syscalls: listOf(syscalls, "syscalls").flatMap((rule) => ruleOf(rule, facts)),
  };
}

function architecturesOf(map: readonly unknown[], machine: string): string[] {
  return map.flatMap((entry) => {
    const { architecture, subArchitectures } = fieldsOf(entry, "archMap");
    if (typeof architecture !== "string" || architecture !== architectureNames[machine]?.[1]) return [];
    return [architecture, ...textsOf(subArchitectures, "subArchitectures")];
  });
}

/** The rule without its conditions, if they hold. */
function ruleOf(rule: unknown, facts: SeccompFacts): OciSeccomp["syscalls"] {
  // A comment is for readers; older profiles have one name a rule.
  const { includes, excludes, name, names, comment: _, action, ...rest } = fieldsOf(rule, "syscalls");
  if (!holds(fieldsOf(includes ?? {}, "includes"), fieldsOf(excludes ?? {}, "excludes"), facts)) return [];
  const several = textsOf(names, "names");
  if (name !== undefined && several.length > 0) {
    const both = "both 'name' and 'names' are specified in the seccomp profile";
    throw refused(`${both}, use either 'name' or 'names'`);
  }
  if (typeof action !== "string") throw refused("a rule has no action");
  const all = name === undefined ? several : textsOf([name], "name");
  return [{ ...rest, names: all, action }]; // The runtime judges what is left.
}

/** All that `includes` asks for, and nothing of `excludes`. */
function holds(
  includes: Fields,
  excludes: Fields,
  { machine, kernelVersion, capabilities }: SeccompFacts,
): boolean {
  const here = (fields: Fields): string[] => textsOf(fields["arches"], "arches");
  const [architecture = machine] = architectureNames[machine] ?? [];
  if (here(excludes).includes(architecture)) return false;
  if (here(includes).length > 0 && !here(includes).includes(architecture)) return false;
  if (textsOf(excludes["caps"], "caps").some((capability) => capabilities.includes(capability))) return false;
  if (!textsOf(includes["caps"], "caps").every((capability) => capabilities.includes(capability)))
    return false;
  if (excludes["minKernel"] !== undefined && isAtLeast(kernelVersion, excludes["minKernel"])) return false;
  return includes["minKernel"] === undefined || isAtLeast(kernelVersion, includes["minKernel"]);
}

/** @param least - Two numbers, such as "4.8". */
function isAtLeast(kernelVersion: string, least: unknown): boolean {
  const [, wantedMajor, wantedMinor] = /^(\d+)\.(\d+)$/.exec(typeof least === "string" ? least : "") ?? [];
  if (wantedMajor === undefined)
    throw refused(`minKernel is not a version such as "4.8": ${JSON.stringify(least)}`);
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(kernelVersion) ?? [];
  const ahead = Number(major) - Number(wantedMajor);
  return ahead === 0 ? Number(minor) >= Number(wantedMinor) : ahead > 0;
}

function fieldsOf(value: unknown, where: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw refused(`${where}: not an object`);
  return value as Fields;
}

function listOf(value: unknown, where: string): readonly unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw refused(`${where}: not a list`);
  return value as readonly unknown[];
}

function textsOf(value: unknown, where: string): string[] {
  return listOf(value, where).map((text) => {
    if (typeof text !== "string") throw refused(`${where}: not a list of texts`);
    return text;
  });
}

function refused(reason: string, options?: ErrorOptions): ClusterError {
  return new ClusterError("invalid-argument", `opening seccomp profile failed: ${reason}`, options);
}
