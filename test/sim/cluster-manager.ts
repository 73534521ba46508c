import { connectRaftGroup, type RaftThread } from "../../manager/raft/client.ts";
import type { RaftGroupOptions } from "../../manager/raft/group.ts";
import { Member } from "../../manager/raft/member.ts";
import type { ThreadCommand, ThreadOutput } from "../../manager/raft/port.ts";
import { recover } from "../../manager/raft/recover.ts";
import { serveSession } from "../../manager/dispatcher/service.ts";
import { Replica } from "../../manager/replica.ts";
import { errorText } from "../../model/errors.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import type { Log } from "../../runtime/log.ts";
import type { ClusterWire } from "./cluster-wire.ts";
import { type CrashLoss, type DiskCall, type DiskFault, SimDisk } from "./disk.ts";
import { Lane } from "./lane.ts";
import type { SimNetwork } from "./raft-network.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

const tickMs = 100;
const segmentBytes = 64 * 1024;
const stateDirectory = "/raft";
/** From the main thread to the raft thread or back. */
const handoverMs = 0.05;

export interface ManagerPlan {
  /** Of a write that has to reach the disk. */
  readonly syncMs: readonly [number, number];
  /** How far wall clocks are apart at most, either way. */
  readonly skewMs: number;
}

export interface ManagerDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly network: SimNetwork;
  readonly wire: ClusterWire;
  readonly log: (who: string) => Log;
  readonly violate: (rule: string, text: string) => void;
  /** Told of everything a member calls committed, at that moment. */
  readonly committed: (output: ThreadOutput & { kind: "committed" }) => void;
}

interface Life {
  readonly raft: Lane;
  readonly main: Lane;
  readonly replica: Replica;
  detach: (how: "process" | "power") => void;
  toRaftMs: number;
  toMainMs: number;
  isUp: boolean;
}

/** The manager of one host: its disk and its process, with the real replica in one thread and the real member in the other. */
export class SimManager {
  readonly name: string;
  readonly nodeId: NodeId;
  readonly #deps: ManagerDeps;
  readonly #plan: ManagerPlan;
  readonly disk: SimDisk;
  readonly #skewMs: number;
  #life: Life | undefined;

  constructor(deps: ManagerDeps, plan: ManagerPlan, name: string, image: SimDisk) {
    this.#deps = deps;
    this.#plan = plan;
    this.name = name;
    this.nodeId = name as NodeId;
    this.#skewMs = (deps.random.next() * 2 - 1) * plan.skewMs;
    const lane = new Lane(deps.schedule, 0); // The disk's own time never stops.
    this.disk = image.clone({
      clock: lane.clock,
      whenStopped: "hang",
      onCall: (call) => this.#onCall(call),
    });
  }

  get isRunning(): boolean {
    return this.#life !== undefined;
  }

  /** While it serves. */
  get replica(): Replica | undefined {
    return this.#life?.isUp === true ? this.#life.replica : undefined;
  }

  get main(): Lane | undefined {
    return this.#life?.main;
  }

  /**
   * A first life without a replica: a leader puts this entry into the log. The objects that a cluster begins with have to
   * be there before anybody's loops look at the group.
   */
  async found(entry: Uint8Array): Promise<void> {
    const life = this.#begin();
    const group = await connectRaftGroup(this.#thread(life), () =>
      Promise.reject(new Error("nothing to keep yet")),
    );
    for await (const event of group.events) {
      if (event.kind === "leader" && event.isSelf) await group.propose(entry);
    }
  }

  start(): void {
    const { wire } = this.#deps;
    const life = this.#begin();
    const { main, replica } = life;
    const failed = (error: unknown): void => {
      if (this.#life !== life) return;
      this.#deps.violate("a manager stopped by itself", `${this.name}: ${errorText(error)}`);
      this.crash("process");
    };
    replica.failure.catch(failed);
    replica
      .start((source) => connectRaftGroup(this.#thread(life), source))
      .then(() => {
        if (this.#life !== life) return;
        life.isUp = true;
        wire.listen(this.name, {
          lane: main,
          serve: (stream, peer, signal) => this.#serve(life, stream, { peer, signal }),
        });
      }, failed);
  }

  #begin(): Life {
    const { schedule, trace, random, log } = this.#deps;
    const raft = new Lane(schedule, this.#skewMs);
    const main = new Lane(schedule, this.#skewMs);
    trace.note(this.name, "starts");
    const replica = new Replica({ clock: main.clock, random, log: log(this.name), nodeId: this.nodeId });
    this.#life = { raft, main, replica, detach: () => {}, toRaftMs: 0, toMainMs: 0, isUp: false };
    return this.#life;
  }

  /** Ends the process, or the machine with it: of what was not synced, `loss` says what stays. */
  crash(how: "process" | "power", loss?: CrashLoss): void {
    const life = this.#life;
    if (life === undefined) return;
    this.#deps.trace.note(this.name, "crashes", how);
    this.#life = undefined;
    life.raft.end();
    life.main.end();
    life.detach(how);
    this.#deps.wire.ended(life.main, this.name, how);
    if (loss !== undefined) this.disk.losePower(loss);
    else this.disk.killProcess();
  }

  pause(thread: "raft" | "main" | "both", ms: number): void {
    this.#deps.trace.note(this.name, "pauses", thread, Math.round(ms));
    if (thread !== "main") this.#life?.raft.pause(ms);
    if (thread !== "raft") this.#life?.main.pause(ms);
  }

  #serve(
    { replica }: Life,
    stream: Parameters<typeof serveSession>[1],
    { peer, signal }: { readonly peer: string; readonly signal: AbortSignal },
  ): Promise<void> {
    const door = {
      dispatcher: () => replica.dispatcher,
      leaderAddress: () => (replica.isLeader ? `${this.name}:0` : replica.leaderAddress),
    };
    return serveSession(door, stream, { nodeId: peer as NodeId, address: "10.9.0.1" }, signal);
  }

  /** The raft thread: the real member on this disk and wire. */
  #thread(life: Life): RaftThread {
    let member: Member | undefined;
    let listener: Parameters<RaftThread["listen"]>[0] | undefined;
    const emit = (output: ThreadOutput): void => {
      if (this.#life !== life) return;
      if (output.kind === "committed") this.#deps.committed(output);
      this.#trace(output);
      life.toMainMs = this.#pass(life.toMainMs, () => life.main.run(() => listener?.onOutput(output)));
    };
    const options = {
      directory: stateDirectory,
      nodeId: this.nodeId,
      clusterId: "sim" as ClusterId,
      identity: { certificatePem: "", keyPem: "", rootPem: "" },
      listenHost: "",
      listenPort: 0,
      raftAddress: `${this.name}:1`,
      start: "join",
      tickMs,
      segmentBytes,
    } satisfies RaftGroupOptions & { readonly segmentBytes: number };
    const { random, network, log } = this.#deps;
    const begin = async (): Promise<void> => {
      const recovered = await recover({ disk: this.disk, log: log(this.name), random }, options);
      if (this.#life !== life) return;
      member = new Member(
        {
          clock: life.raft.clock,
          random,
          log: log(this.name),
          wire: (handler) => {
            const { memberId } = recovered;
            const run = (action: () => void): void => life.raft.run(action);
            const wire = network.attach({ name: this.name, memberId, run, handler });
            life.detach = (how) => wire.detach(how);
            return wire;
          },
          emit,
        },
        options,
        recovered,
      );
      emit({ kind: "started", memberId: recovered.memberId, port: 1 });
      member.start();
    };
    return {
      listen(ears) {
        listener = ears;
        begin().catch((error: unknown) => life.main.run(() => ears.onError(error as Error)));
      },
      post: (command: ThreadCommand) => {
        if (command.kind === "identity" || command.kind === "stop") return;
        life.toRaftMs = this.#pass(life.toRaftMs, () => life.raft.run(() => member?.command(command)));
      },
      stop: () => Promise.resolve(), // Processes here are killed.
    };
  }

  /** From one thread to the other, in order. @returns When it is there. */
  #pass(lastMs: number, arrive: () => void): number {
    const { schedule } = this.#deps;
    const atMs = Math.max(schedule.nowMs + handoverMs, lastMs);
    schedule.after(atMs - schedule.nowMs, arrive);
    return atMs;
  }

  #trace(output: ThreadOutput): void {
    const { trace } = this.#deps;
    if (output.kind === "committed") trace.note(this.name, "commits", output.index, output.indexes.length);
    if (output.kind === "leader")
      trace.note(this.name, "follows", output.leaderId, `t${output.term}`, output.isSelf ? "self" : "");
    if (output.kind === "failed") trace.note(this.name, "failed", output.failure.message);
  }

  #onCall({ kind }: DiskCall): DiskFault | undefined {
    if (kind !== "sync" && kind !== "write-synced" && kind !== "sync-directory") return undefined;
    const [least, most] = this.#plan.syncMs;
    return { kind: "delay", ms: least + this.#deps.random.next() * (most - least) };
  }
}
