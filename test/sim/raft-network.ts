import type { MemberId, Message, SnapshotMessage } from "raft-ts";
import { messageFromWire, messageToWire } from "../../manager/raft/codec.ts";
import type { SnapshotFile } from "../../manager/raft/snapshot-file.ts";
import { nodeIdOf } from "../../manager/raft/membership.ts";
import type { MemberWire, TransportHandler } from "../../manager/raft/transport.ts";
import { RaftMessage } from "../../proto/gen/shoal/raft.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

/** How the wire behaves while there are faults. */
export interface NetworkPlan {
  /** `stream`: in order and whole, unless a connection breaks; `datagram`: anything goes. */
  readonly kind: "stream" | "datagram";
  readonly latencyMs: readonly [number, number];
  readonly dropRatio: number;
  readonly duplicateRatio: number;
  /** Messages that take up to `spikeMs`. */
  readonly spikeRatio: number;
  readonly spikeMs: number;
  /** Every message goes through its encoding. */
  readonly encoded: boolean;
}

/** Where messages arrive: one life of a process. */
export interface Station {
  readonly name: string;
  readonly memberId: MemberId;
  readonly handler: TransportHandler;
  /** Runs in the raft thread, later when that is paused; not at all once the process is dead. */
  run(action: () => void): void;
}

interface SnapshotSending {
  readonly message: SnapshotMessage;
  readonly file: SnapshotFile;
  readonly onProgress: (heldBytes: number) => void;
}

const snapshotPartMs = 2;
const snapshotBoundMs = 2_000;
const connectMs = 5;

/** All links of a world. Hosts are known by name; cuts are one-way. */
export class SimNetwork {
  readonly #schedule: Schedule;
  readonly #random: SimRandom;
  readonly #trace: Trace;
  readonly #plan: NetworkPlan;
  readonly #onSend: (from: MemberId, message: Message) => void;
  readonly #stations = new Map<string, Station>();
  readonly #cuts = new Set<string>();
  /** Stream links: when the last frame arrives, so that the next does not overtake it. */
  readonly #lastArrivalMs = new Map<string, number>();
  /** Told apart so that a test can plant a bug between two members; undefined drops the message. */
  filter: (message: Message) => Message | undefined = (message) => message;
  faulty = true;
  /** Told of each part of a snapshot that the host of this name has taken in. */
  onPart: (name: string) => void = () => {};
  /** Transfers of snapshots; those that went on with what another process had received; those that were taken in whole. */
  readonly transfers = { begun: 0, resumed: 0, delivered: 0 };
  /** By receiver and snapshot: the process that was sent a part of it last. */
  readonly #receivers = new Map<string, Station | undefined>();

  constructor(
    deps: {
      schedule: Schedule;
      random: SimRandom;
      trace: Trace;
      onSend: (from: MemberId, message: Message) => void;
    },
    plan: NetworkPlan,
  ) {
    this.#schedule = deps.schedule;
    this.#random = deps.random;
    this.#trace = deps.trace;
    this.#onSend = deps.onSend;
    this.#plan = plan;
  }

  cut(from: string, to: string): void {
    if (from !== to) this.#cuts.add(`${from}>${to}`);
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.has(`${from}>${to}`);
  }

  mend(): void {
    this.#cuts.clear();
  }

  /** The wire of a process that starts. */
  attach(station: Station): MemberWire & { detach(how: "process" | "power"): void } {
    this.#stations.set(station.name, station);
    let peers: ReadonlyMap<MemberId, string> = new Map();
    const wire = {
      send: (messages: readonly Message[]) => this.#send(station, messages),
      sendSnapshot: (message: SnapshotMessage, file: SnapshotFile, onProgress: (heldBytes: number) => void) =>
        this.#sendSnapshot(station, { message, file, onProgress }),
      setPeers: (addresses: ReadonlyMap<MemberId, string>) => {
        peers = addresses;
      },
      isConnected: (id: MemberId) => peers.has(id) && this.#reaches(station, id),
      detach: (how: "process" | "power") => {
        if (this.#stations.get(station.name) !== station) return;
        this.#stations.delete(station.name);
        this.#lost(station, how);
      },
    };
    return wire;
  }

  #reaches(station: Station, id: MemberId): boolean {
    const name = nodeIdOf(id);
    return (
      this.#stations.get(name)?.memberId === id &&
      !this.isCut(station.name, name) &&
      !this.isCut(name, station.name)
    );
  }

  #send(station: Station, messages: readonly Message[]): void {
    const frames = new Map<MemberId, Message[]>();
    for (const sent of messages) {
      this.#onSend(station.memberId, sent);
      const message = this.filter(sent);
      if (message === undefined) continue;
      const frame = frames.get(message.to);
      if (frame === undefined) frames.set(message.to, [message]);
      else frame.push(message);
    }
    for (const [to, frame] of frames) {
      if (this.#plan.kind === "stream") this.#post(station, to, frame);
      else for (const message of frame) this.#post(station, to, [message]);
    }
  }

  #post(station: Station, to: MemberId, frame: readonly Message[]): void {
    const plan = this.#plan;
    const random = this.#random;
    const name = nodeIdOf(to);
    const link = `${station.name}>${name}`;
    const lossy = this.faulty && random.chance(plan.dropRatio);
    if (this.isCut(station.name, name) || lossy || this.#stations.get(name) === undefined) {
      for (const message of frame) this.#note(station.name, "lost", message);
      if (random.chance(0.3)) this.#later(station, connectMs, () => station.handler.onUnreachable(to));
      return;
    }
    const copies = plan.kind === "datagram" && this.faulty && random.chance(plan.duplicateRatio) ? 2 : 1;
    const carried = plan.encoded ? frame.map(overTheWire) : frame;
    for (let copy = 0; copy < copies; copy += 1) {
      let delayMs = this.#latency();
      if (plan.kind === "stream") {
        const arrivalMs = Math.max(this.#schedule.nowMs + delayMs, this.#lastArrivalMs.get(link) ?? 0);
        this.#lastArrivalMs.set(link, arrivalMs);
        delayMs = arrivalMs - this.#schedule.nowMs;
      }
      this.#schedule.after(delayMs, () => this.#arrive(station, to, carried));
    }
  }

  #arrive(from: Station, to: MemberId, frame: readonly Message[]): void {
    const target = this.#stations.get(nodeIdOf(to));
    if (target === undefined || target.memberId !== to || this.isCut(from.name, target.name)) {
      for (const message of frame) this.#note(from.name, "lost", message);
      return;
    }
    target.run(() => {
      if (target.handler.isRemoved(from.memberId)) {
        this.#trace.note(target.name, "removed", from.name);
        this.#later(from, this.#latency(), () => from.handler.onRemoved());
        return;
      }
      for (const message of frame) this.#note(from.name, "arrives", message);
      target.handler.onMessages(frame);
    });
  }

  /** Part by part, each answered by the receiver's disk, and broken off as the wire is. */
  async #sendSnapshot(station: Station, { message, file, onProgress }: SnapshotSending): Promise<void> {
    this.#onSend(station.memberId, message);
    const carried = this.filter(message);
    if (carried?.type !== "snapshot") throw new Error("the connection broke");
    const { index, term } = carried.snapshot;
    const deadlineMs = this.#schedule.nowMs + snapshotBoundMs;
    const answer = <T>(ask: (handler: TransportHandler) => Promise<T>): Promise<T> =>
      this.#ask(station, message, { deadlineMs, ask });
    const intake = await answer((handler) => {
      this.#note(station.name, "arrives", carried);
      return handler.onSnapshotOffer(carried, { ...file.identity, index, term });
    });
    const receiver = (): Station | undefined => this.#stations.get(nodeIdOf(message.to));
    const key = `${message.to} ${file.identity.digest}`;
    this.transfers.begun += 1;
    if (intake.offset > 0 && this.#receivers.get(key) !== receiver()) this.transfers.resumed += 1;
    for await (const { offset, data } of file.parts(intake.offset)) {
      if (this.faulty && this.#random.chance(this.#plan.dropRatio)) throw new Error("the connection broke");
      await answer(() => intake.add({ offset, data }));
      this.#receivers.set(key, receiver());
      onProgress(offset + data.byteLength);
      this.onPart(nodeIdOf(message.to));
    }
    await answer(() => intake.finish());
    this.transfers.delivered += 1;
  }

  /** One question to the receiver's thread, there and back. */
  async #ask<T>(
    station: Station,
    message: SnapshotMessage,
    { deadlineMs, ask }: { deadlineMs: number; ask: (handler: TransportHandler) => Promise<T> },
  ): Promise<T> {
    await this.#pause(station, this.#latency() + snapshotPartMs);
    const name = nodeIdOf(message.to);
    const target = this.#stations.get(name);
    const isBroken = this.isCut(station.name, name) || this.isCut(name, station.name);
    if (isBroken || target?.memberId !== message.to || this.#schedule.nowMs > deadlineMs) {
      this.#note(station.name, "lost", message);
      throw new Error("the connection broke");
    }
    return await new Promise<T>((resolve, reject) => {
      this.#later(station, snapshotBoundMs, () => reject(new Error("no answer in time")));
      target.run(() => {
        ask(target.handler).then(
          (value) => this.#later(station, this.#latency(), () => resolve(value)),
          (error: unknown) => this.#later(station, this.#latency(), () => reject(error)),
        );
      });
    });
  }

  #pause(station: Station, ms: number): Promise<void> {
    return new Promise((resolve) => this.#later(station, ms, resolve));
  }

  /** Its peers notice: a process that died on a living host refuses connections. */
  #lost(station: Station, how: "process" | "power"): void {
    for (const peer of this.#stations.values()) {
      if (this.isCut(station.name, peer.name) || this.isCut(peer.name, station.name)) continue;
      this.#later(peer, this.#latency() + connectMs, () => {
        peer.handler.onUnreachable(station.memberId);
        if (how === "process") peer.handler.onGone(station.memberId);
      });
    }
  }

  #later(station: Station, ms: number, action: () => void): void {
    this.#schedule.after(ms, () => station.run(action));
  }

  #latency(): number {
    const { latencyMs, spikeRatio, spikeMs } = this.#plan;
    if (this.faulty && this.#random.chance(spikeRatio)) return this.#random.next() * spikeMs;
    return latencyMs[0] + this.#random.next() * (latencyMs[1] - latencyMs[0]);
  }

  #note(from: string, what: string, message: Message): void {
    this.#trace.note(from, what, ...describe(message));
  }
}

function overTheWire(message: Message): Message {
  return messageFromWire(RaftMessage.decode(RaftMessage.encode(messageToWire(message)).finish()));
}

function describe(message: Message): (string | number | undefined)[] {
  const head = [message.type, nodeIdOf(message.to), `t${message.term}`];
  switch (message.type) {
    case "pre-vote":
    case "vote":
      return [...head, message.lastIndex, message.lastTerm, message.transfer ? "transfer" : ""];
    case "pre-vote-reply":
    case "vote-reply":
      return [...head, message.granted ? "granted" : "refused"];
    case "append":
      return [
        ...head,
        message.prevIndex,
        message.prevTerm,
        `+${message.entries.length}`,
        `c${message.commit}`,
      ];
    case "catch-up":
      return [...head, message.prevIndex, message.prevTerm, `+${message.entries.length}`];
    case "append-reply":
      return [...head, message.rejected ? "rejected" : "accepted", message.index, message.hintIndex];
    case "heartbeat":
      return [...head, `c${message.commit}`, `r${message.round}`];
    case "heartbeat-reply":
      return [...head, `r${message.round}`];
    case "snapshot":
      return [...head, message.snapshot.index];
    case "read":
      return [...head, message.ctx];
    case "read-reply":
      return [...head, message.ctx, message.index];
    case "timeout-now":
      return head;
  }
}
