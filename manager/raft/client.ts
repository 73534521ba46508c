import { Worker } from "node:worker_threads";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { NodeId } from "../../model/ids.ts";
import type { Log, LogLevel } from "../../runtime/log.ts";
import { programFile } from "../../runtime/programs.ts";
import { EventQueue } from "./event-queue.ts";
import {
  type GroupStatus,
  type LogLimits,
  type MembershipChange,
  type PeerIdentity,
  type RaftEvent,
  type RaftGroup,
  type RaftGroupOptions,
  type SnapshotSource,
  maxProposalBytes,
} from "./group.ts";
import { pack, unpack } from "./pack.ts";
import {
  type ThreadCommand,
  type ThreadFailure,
  type ThreadOutput,
  type ThreadStart,
  noProposal,
  snapshotPart,
} from "./port.ts";

const stopBoundMs = 5_000;
/** Requests that wait for an answer; more are refused. */
const maxPending = 65_536;

/** Where the member runs, as its client sees it: a thread of its own, or whatever a simulation puts in its place. */
export interface RaftThread {
  post(command: ThreadCommand, transfers: readonly ArrayBuffer[]): void;
  /** Called once, before anything else; the thread may have spoken before. */
  listen(ears: {
    readonly onOutput: (output: ThreadOutput) => void;
    /** It broke; `onExit` follows. */
    readonly onError: (error: Error) => void;
    readonly onExit: () => void;
  }): void;
  /** Asks it to stop and settles when it has; ends it by force when it takes too long. */
  stop(): Promise<void>;
}

interface Pending {
  readonly resolve: (value: number) => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Starts the raft thread and settles once its listener is up.
 *
 * @param snapshotSource - Asked for the state of the store when the log has grown.
 * @throws {ClusterError} what recovery found, or `unavailable` when the address cannot be bound.
 */
export async function openRaftGroup(
  deps: { readonly log: Log; readonly logLevel?: LogLevel },
  options: RaftGroupOptions,
  snapshotSource: SnapshotSource,
): Promise<RaftGroup> {
  const start: ThreadStart = { options, logLevel: deps.logLevel ?? "info" };
  const worker = new Worker(programFile("raft-thread"), { workerData: start });
  return connectRaftGroup(threadOf(worker, deps.log), snapshotSource);
}

/** As {@link openRaftGroup}, for a thread that was started already. */
export async function connectRaftGroup(
  thread: RaftThread,
  snapshotSource: SnapshotSource,
): Promise<RaftGroup> {
  const group = new GroupClient(thread, snapshotSource);
  await group.started;
  return group;
}

function threadOf(worker: Worker, log: Log): RaftThread {
  const exited = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  return {
    post: (command, transfers) => worker.postMessage(command, [...transfers]),
    listen({ onOutput, onError, onExit }) {
      worker.on("message", onOutput);
      worker.on("error", onError);
      worker.once("exit", onExit);
    },
    async stop() {
      const stop: ThreadCommand = { kind: "stop" };
      worker.postMessage(stop, []);
      const timer = setTimeout(() => {
        log.warn({}, "the raft thread did not stop in time");
        void worker.terminate();
      }, stopBoundMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

class GroupClient implements RaftGroup {
  readonly #thread: RaftThread;
  readonly #snapshotSource: SnapshotSource;
  readonly #queue = new EventQueue<RaftEvent>();
  readonly #pending = new Map<number, Pending>();
  readonly started: Promise<void>;
  #onStarted: { resolve: () => void; reject: (reason: unknown) => void } | undefined;
  #nextId = 1;
  #memberId = "";
  #status: GroupStatus | undefined;
  #outbox: { id: number; data: Uint8Array }[] = [];
  #failure: ClusterError | undefined;
  /** A snapshot of which more is to come. */
  #arriving: EventQueue<Uint8Array> | undefined;
  /** Parts of the store's state that the thread has room for. */
  #credits = 0;
  #onCredit: () => void = () => {};

  constructor(thread: RaftThread, snapshotSource: SnapshotSource) {
    this.#thread = thread;
    this.#snapshotSource = snapshotSource;
    this.started = new Promise((resolve, reject) => (this.#onStarted = { resolve, reject }));
    thread.listen({
      onOutput: (output) => this.#receive(output),
      onError: (error) => this.#fail(crashed(errorText(error)), "failed"),
      onExit: () => this.#fail(crashed("it ended"), "stopped"),
    });
  }

  get memberId(): string {
    return this.#memberId;
  }

  get events(): AsyncIterable<RaftEvent> {
    return this.#queue;
  }

  nextProposalId(): number {
    const id = this.#nextId;
    this.#nextId += 1;
    return id;
  }

  async propose(
    data: Uint8Array,
    signal?: AbortSignal,
    proposalId = this.nextProposalId(),
  ): Promise<{ readonly index: number }> {
    if (data.byteLength > maxProposalBytes) {
      throw new ClusterError(
        "resource-exhausted",
        `raft message is too large: ${data.byteLength} bytes, at most ${maxProposalBytes} are accepted`,
      );
    }
    const index = this.#request(proposalId, signal);
    if (!this.#pending.has(proposalId)) return { index: await index }; // Refused, so it must not be proposed either.
    if (this.#outbox.length === 0) queueMicrotask(() => this.#flushProposals());
    this.#outbox.push({ id: proposalId, data });
    return { index: await index };
  }

  readIndex(signal?: AbortSignal): Promise<number> {
    return this.#ask((id) => ({ kind: "read", id }), signal);
  }

  status(): GroupStatus {
    return (
      this.#status ?? {
        memberId: this.#memberId,
        role: "follower",
        term: 0,
        leaderId: undefined,
        commitIndex: 0,
        appliedIndex: 0,
        logSyncs: 0,
        members: [],
      }
    );
  }

  async changeMembership(change: MembershipChange, signal?: AbortSignal): Promise<void> {
    await this.#ask((id) => ({ kind: "change", id, change }), signal);
  }

  async transferLeadership(to?: NodeId, signal?: AbortSignal): Promise<void> {
    await this.#ask((id) => ({ kind: "transfer", id, to }), signal);
  }

  rotateDataKey(signal?: AbortSignal): Promise<number> {
    return this.#ask((id) => ({ kind: "rotate-key", id }), signal);
  }

  updateIdentity(identity: PeerIdentity): void {
    this.#post({ kind: "identity", identity });
  }

  updateLogLimits(limits: Required<LogLimits>): void {
    this.#post({ kind: "log-limits", limits });
  }

  stop(): Promise<void> {
    return this.#thread.stop();
  }

  /** What is refused here, as when its asker has gone already, must not be done either. */
  #ask(command: (id: number) => ThreadCommand, signal: AbortSignal | undefined): Promise<number> {
    const id = this.nextProposalId();
    const answer = this.#request(id, signal);
    if (this.#pending.has(id)) this.#post(command(id));
    return answer;
  }

  #request(id: number, signal: AbortSignal | undefined): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      if (signal?.aborted === true) {
        reject(signal.reason as Error);
        return;
      }
      if (this.#pending.size >= maxPending) {
        reject(new ClusterError("resource-exhausted", `${maxPending} requests wait for consensus already`));
        return;
      }
      const onAbort = (): void => {
        this.#pending.delete(id);
        reject(signal?.reason as Error);
      };
      const settled = (): void => signal?.removeEventListener("abort", onAbort);
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#pending.set(id, {
        resolve: (value) => {
          settled();
          resolve(value);
        },
        reject: (reason) => {
          settled();
          reject(reason);
        },
      });
    });
  }

  /** Everything proposed in one turn of the event loop goes over together. */
  #flushProposals(): void {
    const proposals = this.#outbox;
    this.#outbox = [];
    const ids = proposals.map(({ id }) => id);
    const [first, second] = proposals;
    const alone = second === undefined && first !== undefined && isWhole(first.data) ? first.data : undefined;
    const packed =
      alone === undefined
        ? pack(proposals.map(({ data }) => data))
        : { data: alone, ends: [alone.byteLength] };
    const { buffer } = packed.data;
    this.#post({ kind: "propose", ids, ...packed }, buffer instanceof ArrayBuffer ? [buffer] : []);
  }

  #receive(output: ThreadOutput): void {
    switch (output.kind) {
      case "started":
        this.#memberId = output.memberId;
        this.#onStarted?.resolve();
        return;
      case "committed":
        this.#onCommitted(output);
        return;
      case "snapshot":
        this.#onSnapshotPart(output);
        return;
      case "snapshot-more":
        this.#onSnapshotMore();
        return;
      case "membership":
      case "leader":
        this.#queue.push(output);
        return;
      case "status":
        this.#status = output.status;
        return;
      case "reply":
        this.#take(output.id)?.resolve(output.value);
        return;
      case "refused":
        this.#take(output.id)?.reject(toError(output.failure));
        return;
      case "snapshot-wanted":
        void this.#giveSnapshot(output.id, output.atLeast);
        return;
      case "failed":
        this.#fail(toError(output.failure), output.removed ? "removed" : "failed");
        return;
    }
  }

  #onCommitted(output: ThreadOutput & { kind: "committed" }): void {
    const { index, indexes, terms, proposalIds, acknowledge } = output;
    const entries = unpack(output).map((data, at) => {
      const proposalId = proposalIds[at] ?? noProposal;
      const place = { index: indexes[at] ?? 0, term: terms[at] ?? 0 };
      return { ...place, data, ...(proposalId === noProposal ? {} : { proposalId }) };
    });
    const onTaken = acknowledge ? (): void => this.#post({ kind: "applied", index }) : undefined;
    this.#queue.push({ kind: "committed", index, entries }, onTaken);
    for (const entry of entries) {
      if (entry.proposalId !== undefined) this.#take(entry.proposalId)?.resolve(entry.index);
    }
  }

  /** Parts become one event, whose data is read as they come. */
  #onSnapshotPart({ index, data, isLast }: ThreadOutput & { kind: "snapshot" }): void {
    if (this.#arriving === undefined) {
      this.#arriving = new EventQueue<Uint8Array>();
      this.#queue.push({ kind: "snapshot", index, data: this.#arriving });
    }
    this.#arriving.push(data, () => this.#post({ kind: "snapshot-taken" })); // The thread sends the next.
    if (!isLast) return;
    this.#arriving.end();
    this.#arriving = undefined;
  }

  async #giveSnapshot(id: number, atLeast: number): Promise<void> {
    this.#credits = snapshotPart.window;
    try {
      const { index, data } = await this.#snapshotSource(atLeast);
      let previous: Uint8Array | undefined;
      for await (const piece of data) {
        for (let at = 0; at < piece.byteLength; at += snapshotPart.bytes) {
          if (previous !== undefined) await this.#givePart(id, { index, data: previous, isLast: false });
          previous = new Uint8Array(piece.subarray(at, at + snapshotPart.bytes));
        }
      }
      await this.#givePart(id, { index, data: previous ?? new Uint8Array(), isLast: true });
    } catch (error) {
      this.#post({ kind: "no-snapshot", id, text: errorText(error) });
    }
  }

  async #givePart(id: number, part: { index: number; data: Uint8Array; isLast: boolean }): Promise<void> {
    while (this.#credits === 0 && this.#failure === undefined) {
      await new Promise<void>((resolve) => (this.#onCredit = resolve));
    }
    if (this.#failure !== undefined) throw this.#failure;
    this.#credits -= 1;
    const { buffer, byteLength } = part.data;
    this.#post({ kind: "snapshot", id, ...part }, byteLength > 0 ? [buffer as ArrayBuffer] : []); // Made above.
  }

  #onSnapshotMore(): void {
    this.#credits += 1;
    this.#onCredit();
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #fail(error: ClusterError, how: "failed" | "removed" | "stopped"): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#onStarted?.reject(error);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.#onCredit();
    this.#arriving?.fail(error);
    if (how !== "stopped") this.#queue.push({ kind: "failed", error, removed: how === "removed" });
    this.#queue.end();
  }

  #post(command: ThreadCommand, transfers: readonly ArrayBuffer[] = []): void {
    this.#thread.post(command, transfers);
  }
}

/** Whether it has a buffer to itself: what shares one must not drag its neighbours along. */
function isWhole({ buffer, byteLength }: Uint8Array): boolean {
  return byteLength > 0 && buffer.byteLength === byteLength;
}

function toError({ code, message }: ThreadFailure): ClusterError {
  return new ClusterError(code, message);
}

function crashed(how: string): ClusterError {
  return new ClusterError("unavailable", `the raft thread is not running: ${how}`);
}
