/**
 * What a user's own containers need of the engine beyond what tasks do: to be started again, written
 * to, attached to, paused and changed. Implemented by `containerd.ts`.
 */
import type { OutputChunk, RawOptions } from "../logs/raw.ts";
import type { CommitRequest } from "./commit.ts";
import type { ContainerFiles } from "./container-files.ts";
import type { Engine, Started } from "./engine.ts";
import type { ExecSession, SessionRequest } from "./exec-session.ts";
import type { OciResources, OciSpec } from "./oci.ts";
import type { LoadedImage } from "./store-image.ts";
import type { TerminalSize } from "./task.ts";

export interface LocalEngine extends Engine {
  readonly files: ContainerFiles;
  /**
   * Its image with one more layer, of what it has written; running or not.
   *
   * @throws {ClusterError} `not-found` for an image that is there no more.
   */
  commit(id: string, request: CommitRequest, signal: AbortSignal): Promise<LoadedImage>;
  /** @param adjust - Changes the specification for this start and those that follow. Pure. */
  start(id: string, signal: AbortSignal, adjust?: (spec: OciSpec) => OciSpec): Promise<Started>;
  /** @param volumes - What becomes of those made for this container alone; default: removed. */
  remove(id: string, volumes?: "kept" | "removed"): Promise<void>;
  rename(id: string, name: string): Promise<void>;
  /** `conflict` when it does not run. */
  pause(id: string): Promise<void>;
  resume(id: string): Promise<void>;
  /** Limits of the running process; those of the next start are `adjust`'s. */
  update(id: string, resources: OciResources): Promise<void>;
  resize(id: string, size: TerminalSize): Promise<void>;
  /** Bytes of its output, from when this settles. Ends with the container's next end. */
  attach(id: string, options: RawOptions, signal: AbortSignal): Promise<AsyncGenerator<OutputChunk>>;
  /** Undefined for a container without an open standard input. */
  stdin(id: string): Input | undefined;
  /** @throws {ClusterError} `conflict` when it does not run; `ExecRefused`. */
  openSession(id: string, request: SessionRequest): Promise<ExecSession>;
}

export interface Input {
  /** Settles once it was taken; a process that does not read holds its writers up. */
  write(bytes: Uint8Array): Promise<void>;
  /** The process reads an end of input. */
  end(): Promise<void>;
}
