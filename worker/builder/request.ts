/** What a build is asked for, and whom it tells. */
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import type { RegistryAuth } from "../../model/service.ts";
import type { PullProgress } from "../engine/engine.ts";

export type BuildNetwork =
  /** A bridge network of this host by its id; without one the host's own, as containers have by default. */
  | { readonly kind: "bridge"; readonly networkId?: NetworkId }
  | { readonly kind: "host" }
  | { readonly kind: "none" }
  /** Somebody else's namespace. */
  | { readonly kind: "namespace"; readonly path: string };

export interface BuildRequest {
  /** In the context; empty for "Dockerfile", or "dockerfile". */
  readonly dockerfile: string;
  /** Full names that the image gets. */
  readonly names: readonly string[];
  readonly target: string;
  readonly args: ReadonlyMap<string, string>;
  readonly labels: Readonly<Record<string, string>>;
  readonly cache: "used" | "ignored";
  /** Images whose steps the client would like to be taken: buildah compares with its own cache alone, so none is looked at. */
  readonly cacheFrom: readonly string[];
  /** "always": base images are asked for at their registry even when they are here. */
  readonly pull: "missing" | "always";
  /** Empty for the host's own. */
  readonly platform: string;
  readonly network: BuildNetwork;
  readonly limits: BuildLimits;
  /** "name:address" */
  readonly extraHosts: readonly string[];
  readonly authOf: (domain: string) => RegistryAuth | undefined;
}

export interface BuildListener {
  readonly onText: (text: string) => void;
  /** Undefined while the reader of the text keeps up; else settles once it has caught up or is gone. */
  readonly behind: () => Promise<void> | undefined;
  readonly onPull: (reference: string) => (progress: PullProgress) => void;
  readonly onImage: (id: string) => void;
}

/** A command of the Dockerfile ended with a code; the message is what Docker says of it. */
export class CommandFailed extends ClusterError {
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super("failed-precondition", message);
    this.exitCode = exitCode;
  }
}

export interface BuildLimits {
  readonly memoryBytes?: number;
  /** Memory and swap together; -1 for no limit. */
  readonly memorySwapBytes?: number;
  readonly cpuShares?: number;
  readonly cpuPeriodUs?: number;
  readonly cpuQuotaUs?: number;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly shmBytes?: number;
  readonly ulimits: readonly { readonly name: string; readonly soft: number; readonly hard: number }[];
}
