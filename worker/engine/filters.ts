import { createHash } from "node:crypto";

import type { OciSeccomp, OciSpec } from "./oci.ts";

/** crun takes the compiled filter from it, in base64, and compiles nothing (crun.1, `run.oci.seccomp_bpf_data`). */
export const filterAnnotation = "run.oci.seccomp_bpf_data";

/** Profiles whose filter is kept; few hosts see more than three. */
const profileLimit = 32;
/** What the kernel takes: 4,096 instructions of 8 bytes (BPF_MAXINSNS). */
const instructionBytes = 8;
const filterLimitBytes = 4_096 * instructionBytes;

/**
 * Compiled seccomp filters, by profile. libseccomp takes longer to compile Docker's profile than everything else that
 * crun does at a start, so what it made for the first container of a profile is given to the next ones.
 */
export class SeccompFilters {
  readonly #filters = new Map<string, string>();
  readonly #read: (containerId: string) => Promise<Buffer>;

  /** @param read - The filter that crun has compiled for a container; rejects where there is none. */
  constructor(read: (containerId: string) => Promise<Buffer>) {
    this.#read = read;
  }

  /** Undefined until one was learnt for that profile. */
  of(seccomp: OciSeccomp): string | undefined {
    return this.#filters.get(keyOf(seccomp));
  }

  /** Looks at a container whose task crun has just made. Never rejects. */
  async learn(containerId: string, seccomp: OciSeccomp): Promise<void> {
    const key = keyOf(seccomp);
    if (this.#filters.has(key) || this.#filters.size >= profileLimit) return;
    if (JSON.stringify(seccomp).includes("SCMP_ACT_NOTIFY")) return; // Bound to who listens.
    const filter = await this.#read(containerId).catch(() => undefined); // Another runtime, or an older one: compiled each time.
    if (filter === undefined || filter.length === 0 || filter.length > filterLimitBytes) return;
    if (filter.length % instructionBytes === 0) this.#filters.set(key, filter.toString("base64"));
  }
}

/** Replaces whatever a user has put there: a filter of hers would go past the profile. */
export function withFilter(spec: OciSpec, filters: SeccompFilters): OciSpec {
  const { [filterAnnotation]: _given, ...annotations } = spec.annotations ?? {};
  const { seccomp } = spec.linux;
  const filter = seccomp && filters.of(seccomp);
  return {
    ...spec,
    annotations: filter === undefined ? annotations : { ...annotations, [filterAnnotation]: filter },
  };
}

function keyOf(seccomp: OciSeccomp): string {
  return createHash("sha256").update(JSON.stringify(seccomp)).digest("base64");
}
