import type { MemberId, RaftNode } from "raft-ts";
import type { CoreLimits, MembershipChange, RaftGroupOptions } from "../../manager/raft/group.ts";
import { Member } from "../../manager/raft/member.ts";
import { pack, unpack } from "../../manager/raft/pack.ts";
import {
  type ThreadCommand,
  type ThreadFailure,
  type ThreadOutput,
  noProposal,
} from "../../manager/raft/port.ts";
import { type Recovered, recover } from "../../manager/raft/recover.ts";
import { ClusterError, outcomeUnknownText } from "../../model/errors.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import { silentLog } from "../../runtime/log.ts";
import type { Checkers } from "./raft-checkers.ts";
import { type CrashLoss, type DiskCall, type DiskFault, SimDisk } from "./disk.ts";
import { Ledger } from "./raft-ledger.ts";
import { Machine, type Outcome, type Request, encodeRequest } from "./raft-machine.ts";
import type { SimNetwork, Station } from "./raft-network.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import { SimThread, clockOf } from "./raft-thread.ts";
import type { Trace } from "./raft-trace.ts";

export const tickMs = 50;
/** Small, so that the main thread is waited for. */
const maxHandedBytes = 1024;
const stateDirectory = "/raft";
const restartMs = 200;

export interface HostPlan {
  readonly snapshotEntries: number;
  readonly keepEntries: number;
  /** States beyond it are written only once as much has changed. */
  readonly smallSnapshotBytes: number;
  readonly segmentBytes: number;
  /** Small, so that a state of a few kilobytes takes several. */
  readonly snapshotPartBytes: number;
  /** However far a peer is behind. */
  readonly maxKeepEntries: number;
  /** At most this much is read from the log at once, so that messages and applied batches are cut in pieces. */
  readonly readBytes: number;
  /** Of a write that has to reach the disk. */
  readonly syncMs: readonly [number, number];
  readonly coreLimits: CoreLimits;
}

export interface HostDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly network: SimNetwork;
  readonly checkers: Checkers;
  readonly ledgers: Map<MemberId, Ledger>;
  readonly violate: (rule: string, text: string) => void;
  /** Told of a request that was certainly not carried out. */
  refused(request: Request): void;
  /** Told of every entry that reaches a state machine. */
  applied(request: Request, index: number): void;
}

export type ProposeAnswer =
  | { readonly kind: "done"; readonly outcome: Outcome; readonly index: number }
  | { readonly kind: "refused" }
  | { readonly kind: "unknown" };

/** `damaged` waits to be replaced, `removed` was taken out of the group, `unused` was never in it. */
export type HostState = "unused" | "starting" | "up" | "down" | "damaged" | "removed";

interface Life {
  readonly raft: SimThread;
  readonly main: SimThread;
  readonly number: number;
  member: Member | undefined;
  detach: (how: "process" | "power") => void;
  readonly pending: Map<
    number,
    (answer: { value?: number; outcome?: Outcome; failure?: ThreadFailure }) => void
  >;
  readonly requests: Map<number, Request>;
  /** Parts of a snapshot of which more is to come. */
  readonly restoring: Uint8Array[];
  readonly waitingReads: { readonly index: number; readonly answer: () => void }[];
}

/** One manager: its disk, its process with the two threads, and the state machine. */
export class SimHost {
  readonly name: string;
  readonly nodeId: NodeId;
  state: HostState = "unused";
  disk: SimDisk;
  memberId: MemberId | undefined;
  machine = new Machine();
  /** As the main thread was told. */
  isLeader = false;
  leaderId: NodeId | undefined;
  node: RaftNode | undefined;
  /** Times the member's own clock, which may run slow or fast. */
  clockRate = 1;
  /** A call after which the process or the machine stops. */
  stopInCalls: { left: number; readonly how: "process" | "power" } | undefined;
  /** The next time that the log goes on in a new segment, it stops in one of the calls around that. */
  stopAtNewSegment: "process" | "power" | undefined;
  failNextSync = false;
  slowDisk = 1;
  /** A fault of the disk has struck this process, so that it may stop. */
  excused = false;
  /** Its disk was changed behind its back. */
  tampered = false;
  readonly #deps: HostDeps;
  readonly #plan: HostPlan;
  #life: Life;
  #nextId = 1;

  constructor(deps: HostDeps, plan: HostPlan, name: string, image: SimDisk | undefined) {
    this.#deps = deps;
    this.#plan = plan;
    this.#life = newLife(0, deps.schedule);
    this.name = name;
    this.nodeId = name as NodeId;
    const options = {
      clock: this.#diskClock(),
      whenStopped: "hang" as const,
      onCall: (call: DiskCall) => this.#onCall(call),
    };
    this.disk = image === undefined ? new SimDisk(options) : image.clone(options);
  }

  get isUp(): boolean {
    return this.state === "up";
  }

  get address(): string {
    return `${this.name}:1`;
  }

  /** Begins a life; a failure on the way ends it like any other. */
  start(how: RaftGroupOptions["start"]): void {
    const life = this.#nextLife();
    this.state = "starting";
    this.excused = false;
    this.machine = new Machine();
    this.isLeader = false;
    this.node = undefined;
    this.#deps.trace.note(this.name, "starts", how);
    void this.#begin(life, how);
  }

  /** Ends the process, or the machine with it: of what was not synced, `loss` says what stays. */
  crash(how: "process" | "power", loss?: CrashLoss): void {
    this.#deps.trace.note(this.name, "crashes", how);
    this.#end(how);
    if (loss !== undefined) this.disk.losePower(loss);
    else this.disk.killProcess();
    this.state = "down";
  }

  /** A new disk, as for a manager that joins again. */
  wipe(): void {
    this.#end("process");
    this.disk.killProcess();
    this.disk = new SimDisk({
      clock: this.#diskClock(),
      whenStopped: "hang",
      onCall: (call) => this.#onCall(call),
    });
    this.state = "unused";
    this.memberId = undefined;
    this.tampered = false;
  }

  pause(thread: "raft" | "main" | "both", ms: number): void {
    const until = Math.ceil((this.#deps.schedule.nowMs + ms) * 1000) / 1000; // Moments are whole microseconds.
    this.#deps.trace.note(this.name, "pauses", thread, Math.round(ms));
    const { raft, main } = this.#life;
    if (thread !== "main") raft.pauseUntil(until);
    if (thread !== "raft") main.pauseUntil(until);
  }

  propose(request: Request, answer: (answer: ProposeAnswer) => void): void {
    if (!this.isUp) return answer({ kind: "refused" });
    const life = this.#life;
    const id = this.#newId();
    life.requests.set(id, request);
    life.pending.set(id, ({ value, outcome, failure }) => {
      if (value !== undefined) answer({ kind: "done", outcome, index: value });
      else if (failure === undefined || !isCertain(failure)) answer({ kind: "unknown" });
      else {
        this.#deps.refused(request);
        answer({ kind: "refused" });
      }
    });
    this.#command(life, { kind: "propose", ids: [id], ...pack([encodeRequest(request)]) });
  }

  /** Calls back with the index once the state machine here includes it. */
  read(answer: (index: number | undefined) => void): void {
    if (!this.isUp) return answer(undefined);
    const life = this.#life;
    const id = this.#newId();
    life.pending.set(id, ({ value }) => {
      if (value === undefined) answer(undefined);
      else if (this.machine.index >= value) answer(value);
      else life.waitingReads.push({ index: value, answer: () => answer(value) });
    });
    this.#command(life, { kind: "read", id });
  }

  change(change: MembershipChange, answer: (failure: ThreadFailure | undefined | "lost") => void): void {
    this.#request(answer, (id) => ({ kind: "change", id, change }));
  }

  transfer(to: NodeId | undefined, answer: (failure: ThreadFailure | undefined | "lost") => void): void {
    this.#request(answer, (id) => ({ kind: "transfer", id, to }));
  }

  /** Asks the core for something that the member has no command for. */
  onCore(action: (node: RaftNode) => void): void {
    const life = this.#life;
    if (!this.isUp) return;
    const wake = { kind: "read", id: this.#newId() } as const; // Makes the member look at its core.
    life.raft.run(() => {
      if (this.node !== undefined) action(this.node);
      life.member?.command(wake);
    });
  }

  #request(
    answer: (failure: ThreadFailure | undefined | "lost") => void,
    command: (id: number) => Parameters<Member["command"]>[0],
  ): void {
    if (!this.isUp) return answer("lost");
    const id = this.#newId();
    this.#life.pending.set(id, ({ value, failure }) =>
      answer(value === undefined ? (failure ?? "lost") : undefined),
    );
    this.#command(this.#life, command(id));
  }

  async #begin(life: Life, how: RaftGroupOptions["start"]): Promise<void> {
    const { random, network, ledgers } = this.#deps;
    const options: RaftGroupOptions & { segmentBytes: number; snapshotPartBytes: number } = {
      directory: stateDirectory,
      nodeId: this.nodeId,
      clusterId: "sim" as ClusterId,
      identity: { certificatePem: "", keyPem: "", rootPem: "" },
      listenHost: "",
      listenPort: 0,
      raftAddress: this.address,
      start: how,
      tickMs,
      maxHandedBytes,
      ...this.#plan,
    };
    let recovered: Recovered;
    try {
      recovered = await recover({ disk: this.disk, log: silentLog, random }, options);
    } catch (error) {
      if (this.#life === life) this.#couldNotStart(error, how);
      return;
    }
    if (this.#life !== life) return;
    this.#compare(recovered);
    this.memberId = recovered.memberId;
    const ledger = ledgers.get(recovered.memberId);
    if (ledger !== undefined) this.#watchDisk(life, recovered, ledger);
    const station: Omit<Station, "handler"> = {
      name: this.name,
      memberId: recovered.memberId,
      run: (action) => life.raft.run(action),
    };
    life.member = new Member(
      {
        clock: this.#memberClock(life),
        random,
        log: silentLog,
        wire: (handler) => {
          const wire = network.attach({ ...station, handler });
          life.detach = (how) => wire.detach(how);
          return wire;
        },
        emit: (output) => this.#emit(life, output),
      },
      options,
      recovered,
    );
    this.state = "up";
    life.member.start();
  }

  #compare({ memberId, storage }: Recovered): void {
    const { ledgers, trace, checkers } = this.#deps;
    const { term, vote, commit } = storage.initialState();
    trace.note(this.name, "recovered", term, vote, commit, storage.firstIndex(), storage.lastIndex());
    const ledger = ledgers.get(memberId);
    if (ledger !== undefined) {
      const problem = ledger.isEmpty ? undefined : ledger.recovered(storage);
      if (ledger.isEmpty) ledger.founded(storage);
      if (problem !== undefined) this.#deps.violate("durability", `${memberId}: ${problem}`);
      return;
    }
    const fresh = new Ledger();
    ledgers.set(memberId, fresh);
    fresh.founded(storage);
    if (storage.lastIndex() === 0) return;
    const entries = storage.entries(storage.firstIndex(), storage.lastIndex() + 1, Number.MAX_SAFE_INTEGER);
    checkers.onFounded(entries, { term, commit: storage.lastIndex() });
  }

  #watchDisk(life: Life, { memberId, wal, snapshots, storage }: Recovered, ledger: Ledger): void {
    const entries = storage.entries.bind(storage);
    const { readBytes } = this.#plan;
    storage.entries = (from, to, maxBytes) =>
      entries(from, to, maxBytes === Number.MAX_SAFE_INTEGER ? maxBytes : Math.min(maxBytes, readBytes));
    const append = wal.append.bind(wal);
    wal.append = async (batch) => {
      ledger.begin(batch);
      await append(batch);
      if (this.#life !== life) return;
      ledger.settled(batch);
      this.#deps.checkers.onDurable(memberId, batch);
    };
    const keep = snapshots.keep.bind(snapshots);
    snapshots.keep = (writer) => {
      ledger.snapshotBegun(writer.meta);
      return keep(writer);
    };
  }

  #couldNotStart(error: unknown, how: RaftGroupOptions["start"]): void {
    const text = error instanceof Error ? error.message : String(error);
    this.#deps.trace.note(this.name, "could not start", text);
    this.#end("process");
    this.disk.killProcess();
    this.state = "down";
    if (this.tampered && error instanceof ClusterError && error.code === "data-loss") {
      this.state = "damaged";
    } else if (this.excused) {
      const { schedule } = this.#deps;
      const life = this.#life;
      schedule.after(restartMs, () => {
        if (this.#life === life && this.state === "down") this.start(how);
      });
    } else this.#deps.violate("a sound disk was refused", `${this.name}: ${text}`);
  }

  #end(how: "process" | "power"): void {
    const life = this.#life;
    this.#nextLife();
    this.stopInCalls = undefined;
    this.stopAtNewSegment = undefined;
    this.failNextSync = false;
    this.isLeader = false;
    this.node = undefined;
    life.detach(how);
    for (const answer of life.pending.values()) answer({});
    life.pending.clear();
    life.member = undefined;
  }

  /** The threads of the one before end with it. */
  #nextLife(): Life {
    const { raft, main, number } = this.#life;
    raft.end();
    main.end();
    this.#life = newLife(number + 1, this.#deps.schedule);
    return this.#life;
  }

  #command(life: Life, command: Exclude<ThreadCommand, { kind: "identity" | "stop" }>): void {
    life.raft.post(() => life.member?.command(command));
  }

  #emit(life: Life, output: ThreadOutput): void {
    if (this.#life === life) life.main.post(() => this.#receive(life, output));
  }

  /** The main thread: what `client.ts` and the store do there. */
  #receive(life: Life, output: ThreadOutput): void {
    const { trace, checkers, violate } = this.#deps;
    const { machine } = this;
    const memberId = this.memberId ?? "";
    switch (output.kind) {
      case "committed": {
        if (output.index <= machine.index)
          violate("state-machine safety", `${this.name} went back to ${output.index} from ${machine.index}`);
        trace.note(this.name, "applies", output.index, `+${output.indexes.length}`);
        for (const [at, data] of unpack(output).entries()) {
          const index = output.indexes[at] ?? 0;
          const proposalId = output.proposalIds[at] ?? noProposal;
          const { request, outcome } = machine.apply(index, data);
          checkers.onApplied(memberId, index, machine.chain);
          this.#deps.applied(request, index);
          if (proposalId === noProposal) continue;
          const own = life.requests.get(proposalId);
          if (own !== undefined && (own.request !== request.request || own.attempt !== request.attempt)) {
            violate(
              "an answer to another request",
              `${this.name} took entry ${index} for its proposal ${proposalId}`,
            );
          }
          this.#answer(life, proposalId, { value: index, outcome });
        }
        machine.index = output.index;
        if (output.acknowledge) this.#command(life, { kind: "applied", index: output.index });
        this.#serveReads(life);
        return;
      }
      case "snapshot":
        life.restoring.push(output.data);
        this.#command(life, { kind: "snapshot-taken" });
        if (!output.isLast) return;
        trace.note(this.name, "restores", output.index);
        machine.restore(Buffer.concat(life.restoring.splice(0)));
        if (machine.index !== output.index)
          violate(
            "snapshot index",
            `${this.name} was given the state at ${machine.index} as that at ${output.index}`,
          );
        this.#serveReads(life);
        return;
      case "leader":
        this.isLeader = output.isSelf;
        this.leaderId = output.leaderId;
        trace.note(this.name, "follows", output.leaderId, `t${output.term}`, output.isSelf ? "self" : "");
        return;
      case "reply":
        this.#answer(life, output.id, { value: output.value });
        return;
      case "refused":
        trace.note(this.name, "refuses", output.id, output.failure.code);
        this.#answer(life, output.id, { failure: output.failure });
        return;
      case "snapshot-wanted": {
        const { id } = output;
        const { index } = machine;
        const data = machine.snapshot();
        const cut = data.byteLength >> 1;
        this.#command(life, { kind: "snapshot", id, index, data: data.subarray(0, cut), isLast: false });
        this.#command(life, { kind: "snapshot", id, index, data: data.subarray(cut), isLast: true });
        return;
      }
      case "snapshot-more":
        return;
      case "failed":
        this.#failed(output);
        return;
      case "membership":
      case "status":
      case "started":
        return;
    }
  }

  #failed({ failure, removed }: ThreadOutput & { kind: "failed" }): void {
    const { trace, schedule, violate, checkers } = this.#deps;
    trace.note(this.name, removed ? "was removed" : "failed", failure.message);
    const { memberId } = this;
    this.#end("process");
    this.disk.killProcess();
    this.state = removed ? "removed" : "down";
    if (removed) {
      if (memberId !== undefined) checkers.onRemoved(memberId);
      return;
    }
    if (!this.excused)
      violate("a member stopped without a fault of its disk", `${this.name}: ${failure.message}`);
    const life = this.#life;
    schedule.after(restartMs, () => {
      if (this.#life === life && this.state === "down") this.start("join"); // It may have failed before it had a log.
    });
  }

  #serveReads(life: Life): void {
    const ready = life.waitingReads.filter(({ index }) => index <= this.machine.index);
    if (ready.length === 0) return;
    const rest = life.waitingReads.filter(({ index }) => index > this.machine.index);
    life.waitingReads.splice(0, life.waitingReads.length, ...rest);
    for (const { answer } of ready) answer();
  }

  #answer(
    life: Life,
    id: number,
    answer: { value?: number; outcome?: Outcome; failure?: ThreadFailure },
  ): void {
    const pending = life.pending.get(id);
    life.pending.delete(id);
    pending?.(answer);
  }

  #newId(): number {
    this.#nextId += 1;
    return this.#nextId;
  }

  #onCall(call: DiskCall): DiskFault | undefined {
    const { random, trace, schedule } = this.#deps;
    trace.note(this.name, "disk", call.kind, call.path.slice(call.path.lastIndexOf("/") + 1), call.bytes);
    // A segment has begun once the log has said durably how far it reaches.
    if (
      this.stopAtNewSegment !== undefined &&
      call.kind === "write-synced" &&
      call.path.endsWith("/watermark")
    ) {
      this.stopInCalls = { left: 1 + random.integer(3), how: this.stopAtNewSegment };
      this.stopAtNewSegment = undefined;
    }
    if (this.stopInCalls !== undefined) {
      this.stopInCalls.left -= 1;
      if (this.stopInCalls.left <= 0) {
        const { how } = this.stopInCalls;
        this.stopInCalls = undefined;
        schedule.after(0, () => this.onStopped(how));
        // The kernel's copy is not cut within a page, and the disk's not within a sector: see `loseSome`.
        return { kind: "stop", writtenBytes: random.chance(0.5) ? call.bytes : 0 };
      }
    }
    const durable = call.kind === "sync" || call.kind === "write-synced" || call.kind === "sync-directory";
    if (durable && this.failNextSync) {
      this.failNextSync = false;
      this.excused = true;
      trace.note(this.name, "sync fails");
      return { kind: "fail", code: "EIO" };
    }
    if (this.disk.usedBytes + call.bytes > this.disk.capacityBytes) this.excused = true;
    if (!durable && call.kind !== "write") return undefined;
    const [least, most] = this.#plan.syncMs;
    const ms = (least + random.next() * (most - least)) * this.slowDisk;
    return durable ? { kind: "delay", ms } : undefined;
  }

  /** The world decides what a stopped disk loses. */
  onStopped: (how: "process" | "power") => void = (how) => this.crash(how);

  /** Calls of the disk return while the process is paused; it just does not hear of it. */
  #diskClock(): Clock {
    const { schedule } = this.#deps;
    return clockOf({
      now: () => schedule.nowMs,
      after: (ms, callback) => {
        const life = this.#life;
        return schedule.after(ms, () => life.raft.run(callback));
      },
    });
  }

  #memberClock(life: Life): Clock {
    const { schedule } = this.#deps;
    return clockOf({
      now: () => schedule.nowMs,
      after: (ms, callback) => schedule.after(ms * this.clockRate, () => life.raft.run(callback)),
    });
  }
}

function isCertain({ code, message }: ThreadFailure): boolean {
  return (code === "no-leader" && message !== outcomeUnknownText) || code === "resource-exhausted";
}

function newLife(number: number, schedule: Schedule): Life {
  return {
    number,
    member: undefined,
    detach: () => {},
    pending: new Map(),
    requests: new Map(),
    restoring: [],
    waitingReads: [],
    raft: new SimThread(schedule),
    main: new SimThread(schedule),
  };
}
