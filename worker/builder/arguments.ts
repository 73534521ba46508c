/** A build's settings as arguments of buildah. Pure. */
import { defaultCapabilities } from "../engine/process.ts";
import type { BuildLimits, BuildRequest } from "./request.ts";

/** Where the parts of one run are. */
export interface BuildPlaces {
  /** The OCI runtime's name or path. */
  readonly runtime: string;
  /** Holds "context" and "Dockerfile". */
  readonly work: string;
  /** Below the root of every cgroup hierarchy. */
  readonly cgroup: string;
  readonly policyFile: string;
  /** As `--network` takes it. */
  readonly network: string;
  readonly resolver: readonly string[];
}

export function buildArguments(request: BuildRequest, places: BuildPlaces): string[] {
  const { work } = places;
  const fixed = [
    "build --isolation oci --layers --force-rm --pull-never --format docker",
    // The image says what the Dockerfile says, and no more; every stage is carried out, as Docker's builder does.
    "--http-proxy=false --identity-label=false --skip-unused-stages=false --cap-drop all",
  ].flatMap((flags) => flags.split(" "));
  return [
    ...fixed,
    ...defaultCapabilities.map((name) => `--cap-add=${name}`),
    `--runtime=${places.runtime}`,
    `--cgroup-parent=${places.cgroup}`,
    `--signature-policy=${places.policyFile}`,
    `--network=${places.network}`,
    ...places.resolver,
    ...(request.cache === "ignored" ? ["--no-cache"] : []),
    ...(request.platform === "" ? [] : [`--platform=${request.platform}`]),
    ...limitArguments(request.limits),
    ...[...request.args].map(([name, value]) => `--build-arg=${name}=${value}`),
    ...Object.entries(request.labels).map(([name, value]) => `--label=${name}=${value}`),
    ...request.extraHosts.map((host) => `--add-host=${host}`),
    `--file=${work}/Dockerfile`,
    `${work}/context`,
  ];
}

/** What a resolv.conf says; buildah writes one of its own out of it. */
export function resolverArguments(resolvConf: string): string[] {
  return resolvConf.split("\n").flatMap((line) => {
    const [key, ...values] = line.trim().split(/\s+/);
    if (key === "nameserver") return values.slice(0, 1).map((value) => `--dns=${value}`);
    if (key === "search") return values.map((value) => `--dns-search=${value}`);
    return key === "options" ? values.map((value) => `--dns-option=${value}`) : [];
  });
}

function limitArguments(limits: BuildLimits): string[] {
  const { ulimits, memoryBytes, memorySwapBytes, shmBytes } = limits;
  const flags: Readonly<Record<string, string | number | undefined>> = {
    memory: memoryBytes === undefined ? undefined : `${memoryBytes}b`,
    "memory-swap":
      memorySwapBytes === undefined || memorySwapBytes < 0 ? memorySwapBytes : `${memorySwapBytes}b`,
    "cpu-shares": limits.cpuShares,
    "cpu-period": limits.cpuPeriodUs,
    "cpu-quota": limits.cpuQuotaUs,
    "cpuset-cpus": limits.cpusetCpus,
    "cpuset-mems": limits.cpusetMems,
    "shm-size": shmBytes === undefined ? undefined : `${shmBytes}b`,
  };
  return [
    ...Object.entries(flags).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}=${value}`])),
    ...ulimits.map(({ name, soft, hard }) => `--ulimit=${name}=${soft}:${hard}`),
  ];
}
