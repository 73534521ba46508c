import type { NodeId } from "../../model/ids.ts";
import type {
  Assignments,
  AttachmentRefusal,
  ManagerMessage,
  SessionInfo,
} from "../../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { StoreView } from "../store/transaction.ts";
import { sameJson } from "./assignments.ts";
import {
  concernsNetworks,
  emptyDifference,
  type NodeAssignments,
  pieceLimitBytes,
  toMessages,
} from "./difference.ts";

/** The sending half of the stream; grpc-js's `ServerDuplexStream` is one. */
export interface SessionStream {
  /** False: wait for `drain` before the next one. */
  write(message: ManagerMessage): boolean;
  once(event: "drain", listener: () => void): unknown;
}

/**
 * One worker's session, the sending side: what it was told and what it is still to be told. A slow worker makes
 * nothing pile up: while its stream is full, changes are only marked and go out together later.
 */
export class Session {
  readonly sessionId: string;
  readonly nodeId: NodeId;
  readonly assignments: NodeAssignments;
  readonly #stream: SessionStream;
  readonly #clock: Clock;
  /** Asks for a flush, once the stream has room again. */
  readonly #wake: () => void;
  readonly #controller = new AbortController();
  #queue: Assignments[] = [];
  #info: SessionInfo | undefined;
  #sequence = 0;
  /** Of the last message that told something of networks. */
  #networkSequence = 0;
  #full = false;
  #started = false;
  #cancelBeat: () => void = () => {};
  /** Batches of statuses that wait for their commit. */
  statusesInFlight = 0;
  /** Lists of attachments are taken one after the other. */
  attaching: Promise<void> = Promise.resolve();
  /** What the worker says its host's network is brought to; it says so when it was told something of networks. */
  applied = 0;

  constructor(options: {
    readonly sessionId: string;
    readonly nodeId: NodeId;
    readonly assignments: NodeAssignments;
    readonly stream: SessionStream;
    readonly clock: Clock;
    readonly wake: () => void;
  }) {
    this.sessionId = options.sessionId;
    this.nodeId = options.nodeId;
    this.assignments = options.assignments;
    this.#stream = options.stream;
    this.#clock = options.clock;
    this.#wake = options.wake;
  }

  /** Aborts when the session is over; the reason says why. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** True once the first complete set may be sent. */
  get started(): boolean {
    return this.#started;
  }

  end(reason: Error): void {
    this.#cancelBeat();
    this.#controller.abort(reason);
  }

  /** Says hello back and sends everything the worker should have. */
  start(view: StoreView, info: SessionInfo): void {
    this.#started = true;
    this.inform(info);
    this.assignments.markAll(view);
    const difference = this.assignments.take(view) ?? emptyDifference();
    this.#sequence = 1;
    if (concernsNetworks(difference)) this.#networkSequence = 1;
    this.#queue = toMessages(difference, { complete: true, appliesTo: 0, resultsIn: 1 }, pieceLimitBytes);
    this.flush(view);
  }

  /** The sequence with which the worker has all that is marked by now of its networks. */
  get sequenceOfMarked(): number {
    return this.assignments.hasMarkedNetworks ? this.#sequence + 1 : this.#networkSequence;
  }

  /** Sends the information if it differs from what was sent. */
  inform(info: SessionInfo): void {
    if (!this.#started || (this.#info !== undefined && sameJson(this.#info, info))) return;
    if (!this.signal.aborted && this.#info?.heartbeatPeriodMs !== info.heartbeatPeriodMs) {
      this.#cancelBeat();
      this.#cancelBeat = this.#clock.every(info.heartbeatPeriodMs, () => this.#beat());
    }
    this.#info = info;
    this.#write({ body: { $case: "info", value: info } });
  }

  /** Not an answer to the worker's: nothing may be read from it just now. What is under way already says as much. */
  #beat(): void {
    if (!this.#full) this.#write({ body: { $case: "heartbeat", value: {} } });
  }

  acknowledge(sequence: number): void {
    this.#write({ body: { $case: "statusAck", value: { sequence } } });
  }

  /** Says that a container of the node cannot be on a network. */
  refuse(refusal: AttachmentRefusal): void {
    if (this.#started) this.#write({ body: { $case: "attachmentRefusal", value: refusal } });
  }

  /** Sends what is marked, as far as the stream takes it. */
  flush(view: StoreView): void {
    while (this.#started && !this.#full && !this.signal.aborted) {
      const message = this.#queue.shift();
      if (message !== undefined) {
        this.#write({ body: { $case: "assignments", value: message } });
        continue;
      }
      const difference = this.assignments.take(view);
      if (difference === undefined) return;
      const appliesTo = this.#sequence;
      this.#sequence += 1;
      if (concernsNetworks(difference)) this.#networkSequence = this.#sequence;
      const sequence = { complete: false, appliesTo, resultsIn: this.#sequence };
      this.#queue = toMessages(difference, sequence, pieceLimitBytes);
    }
  }

  #write(message: ManagerMessage): void {
    if (this.signal.aborted) return;
    if (this.#stream.write(message) || this.#full) return;
    this.#full = true;
    this.#stream.once("drain", () => {
      this.#full = false;
      this.#wake();
    });
  }
}
