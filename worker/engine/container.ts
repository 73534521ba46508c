/** One container as this process knows it; `lifecycle.ts` changes it, `monitor.ts` compares it with containerd. */
import type { Mount } from "../../proto/gen/containerd/types.ts";
import type { OutputFile } from "../logs/file.ts";
import type { ContainerRecord, ContainerState, ExitStatus } from "./engine.ts";
import type { Deferred } from "./idle-queue.ts";
import type { OciProcess, OciSeccomp, OciSpec } from "./oci.ts";
import type { StoredContainer, StoredState } from "./records.ts";
import type { StdinPipe } from "./stdin.ts";

/** What somebody is doing with it right now; containerd's view is not compared meanwhile. */
export type Activity = "creating" | "starting" | "removing" | undefined;

export class Container {
  readonly id: string;
  stored: StoredContainer;
  status: ContainerState;
  activity: Activity;
  output: OutputFile | undefined;
  /** Mounts of its snapshot, while they are known. */
  rootfs: readonly Mount[] | undefined;
  /** For commands run inside; read back from containerd after a restart. */
  process: OciProcess | undefined;
  /** Of one that this process has made, until its first start. */
  spec: OciSpec | undefined;
  /** The profile whose filter the runtime compiles at the next start, nobody having it yet. */
  uncompiled: OciSeccomp | undefined;
  /** Exits that came while it was being started, by process: those of former runs may be told late. */
  readonly earlyExits = new Map<number, ExitStatus>();
  /** Its last start failed, but may have gone through in containerd, which could not be asked. */
  hasDoubtfulStart = false;
  /** What may run of that start is being removed. */
  undoing: Promise<void> | undefined;
  oomKilled = false;
  /** Of containers that keep their standard input open. */
  stdin: StdinPipe | undefined;
  /** Removal of the ended task and the last of its output; never rejects. Who waits for it calls `cleaned`. */
  cleanup: Promise<void> = Promise.resolve();
  /** That removal, while it waits for an idle host. */
  putOff: Deferred<void> | undefined;
  /** Whoever ended it has no use for that removal. */
  clearsUpLater = false;
  /** Settles once nobody writes to its files from outside; never rejects. */
  written: Promise<void> = Promise.resolve();
  #waiting: (() => void)[] = [];

  constructor(stored: StoredContainer, status: ContainerState) {
    this.id = stored.id;
    this.stored = stored;
    this.status = status;
  }

  get record(): ContainerRecord {
    const { chainId: _chain, log: _log, shimGroup: _group, groups: _groups, ...fixed } = this.stored;
    return { ...fixed, status: this.status };
  }

  /** Settles once it is cleaned up after its end, which is not put off any more; never rejects. */
  cleaned(): Promise<void> {
    this.putOff?.hurry();
    return this.cleanup;
  }

  setStatus(status: ContainerState): void {
    this.status = status;
    this.wake();
  }

  wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** Settles at the next change of status, at removal, or when the signal aborts. */
  async change(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const stop = new AbortController();
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
      signal.addEventListener("abort", () => resolve(), { once: true, signal: stop.signal });
    });
    stop.abort();
  }
}

export function statusOfStored({ startedAtMs, pid, oomKilled = false, exit }: StoredState): ContainerState {
  if (exit !== undefined)
    return { state: "stopped", ...(startedAtMs !== undefined && { startedAtMs }), exit };
  if (startedAtMs !== undefined && pid !== undefined)
    return { state: "running", pid, startedAtMs, oomKilled };
  return { state: "created" };
}

export function storedState(status: ContainerState): StoredState {
  switch (status.state) {
    case "created":
      return {};
    case "running":
      return { startedAtMs: status.startedAtMs, pid: status.pid, oomKilled: status.oomKilled };
    case "stopped":
      return {
        ...(status.startedAtMs !== undefined && { startedAtMs: status.startedAtMs }),
        exit: status.exit,
      };
  }
}
