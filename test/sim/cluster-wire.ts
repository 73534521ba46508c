import { EventEmitter } from "node:events";
import { type DispatcherClient, ManagerMessage, WorkerMessage } from "../../proto/gen/shoal/dispatcher.ts";
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Dispatcher } from "../../manager/dispatcher/dispatcher.ts";
import type { Lane } from "./lane.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

export interface WirePlan {
  readonly latencyMs: readonly [number, number];
  /** Messages under way in one direction before `write` asks to wait. */
  readonly windowMessages: number;
}

/** The serving half, as handlers see grpc-js's. */
export type ServerStream = Parameters<Dispatcher["serve"]>[0];

/** A manager's port: who listens there in this life. */
export interface Listener {
  readonly lane: Lane;
  serve(stream: ServerStream, peer: string, signal: AbortSignal): Promise<void>;
}

export interface WireDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
}

/** How long the serving side's keepalive takes to miss a client; clients miss heartbeats. */
const serverPatienceMs = 15_000;
/** What was lost is sent again this much later. */
const resendMs = 200;

/** All sessions between workers and managers: in order and whole until the connection breaks. */
export class ClusterWire {
  readonly #deps: WireDeps;
  readonly #plan: WirePlan;
  readonly #listeners = new Map<string, Listener>();
  /** Hosts without power answer nothing, not even a refusal. */
  readonly #dark = new Set<string>();
  readonly #cuts = new Set<string>();
  readonly #slowMs = new Map<string, number>();
  readonly #connections = new Set<Connection>();

  constructor(deps: WireDeps, plan: WirePlan) {
    this.#deps = deps;
    this.#plan = plan;
  }

  cut(from: string, to: string): void {
    if (from !== to) this.#cuts.add(`${from}>${to}`);
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.has(`${from}>${to}`) || this.#dark.has(from) || this.#dark.has(to);
  }

  slow(host: string, ms: number): void {
    this.#slowMs.set(host, ms);
  }

  mend(): void {
    this.#cuts.clear();
    this.#slowMs.clear();
  }

  listen(host: string, listener: Listener): void {
    this.#dark.delete(host);
    this.#listeners.set(host, listener);
  }

  /** A process has ended: its connections break at once, those of a host without power when somebody notices. */
  ended(lane: Lane, host: string, how: "process" | "power"): void {
    if (how === "power") this.#dark.add(host);
    if (this.#listeners.get(host)?.lane === lane) this.#listeners.delete(host);
    for (const connection of this.#connections) connection.ended(lane, how);
  }

  powered(host: string): void {
    this.#dark.delete(host);
  }

  /** What an agent calls a client of one manager. */
  connect(worker: { readonly name: string; readonly lane: Lane }, address: string): DispatcherClient {
    const manager = address.slice(0, address.indexOf(":"));
    const wire = {
      ...this.#deps,
      window: this.#plan.windowMessages,
      latencyMs: () => this.latencyBetween(worker.name, manager),
      isCut: (direction: Direction) =>
        direction === "up" ? this.isCut(worker.name, manager) : this.isCut(manager, worker.name),
    };
    const client = {
      session: () => {
        const connection = new Connection(wire, worker, manager, (closed) =>
          this.#connections.delete(closed),
        );
        this.#connections.add(connection);
        connection.open(() => this.#listeners.get(manager));
        return connection.client;
      },
      close: () => undefined,
    };
    return client as unknown as DispatcherClient; // The agent uses no more of it.
  }

  latencyBetween(a: string, b: string): number {
    const [least, most] = this.#plan.latencyMs;
    const slowMs = Math.max(this.#slowMs.get(a) ?? 0, this.#slowMs.get(b) ?? 0);
    return least + this.#deps.random.next() * (most - least + slowMs);
  }
}

/** From the worker, or to it. */
type Direction = "up" | "down";

interface Line extends WireDeps {
  readonly window: number;
  latencyMs(): number;
  isCut(direction: Direction): boolean;
}

class Connection {
  readonly client: ClientEnd;
  readonly #server: ServerEnd;
  readonly #line: Line;
  readonly #worker: { readonly name: string; readonly lane: Lane };
  readonly #manager: string;
  readonly #onClosed: (connection: Connection) => void;
  readonly #lastMs = { up: 0, down: 0 };
  readonly #underWay = { up: 0, down: 0 };
  #managerLane: Lane | undefined;
  #clientGone = false;
  #serverGone = false;

  constructor(
    line: Line,
    worker: { readonly name: string; readonly lane: Lane },
    manager: string,
    onClosed: (connection: Connection) => void,
  ) {
    this.#line = line;
    this.#worker = worker;
    this.#manager = manager;
    this.#onClosed = onClosed;
    this.client = new ClientEnd(
      (message) => this.#send("up", WorkerMessage.encode(message).finish()),
      () => this.#clientCancels(),
    );
    this.#server = new ServerEnd((message) => this.#send("down", ManagerMessage.encode(message).finish()));
  }

  open(find: () => Listener | undefined): void {
    this.#inOrder("up", () => {
      const listener = find();
      if (listener === undefined || listener.lane.hasEnded) return this.#breakClient("connection refused");
      this.#managerLane = listener.lane;
      listener.lane.run(() => this.#serve(listener));
    });
  }

  ended(lane: Lane, how: "process" | "power"): void {
    if (lane === this.#worker.lane) {
      this.#clientGone = true;
      this.#tellServer(how);
    } else if (lane === this.#managerLane) {
      this.#serverGone = true;
      if (how === "process" && !this.#line.isCut("down")) this.#breakClient("the connection was reset");
    }
  }

  #serve(listener: Listener): void {
    if (this.#serverGone) return;
    const end = (failure: string | undefined): void => {
      this.#inOrder("down", () => {
        this.#serverGone = true;
        this.#worker.lane.run(() => {
          if (this.#clientGone) return;
          if (failure === undefined) this.client.emit("end");
          else this.client.emit("error", new Error(failure));
        });
      });
    };
    listener
      .serve(this.#server as unknown as ServerStream, this.#worker.name, this.#server.signal) // Handlers use no more of it.
      .then(
        () => end(undefined),
        (error: unknown) => end(errorText(error)),
      );
  }

  #send(direction: Direction, bytes: Uint8Array): boolean {
    this.#underWay[direction] += 1;
    this.#inOrder(direction, () => {
      this.#underWay[direction] -= 1;
      if (direction === "up") {
        this.#managerLane?.run(() => {
          if (!this.#serverGone) this.#server.take(WorkerMessage.decode(bytes));
        });
        return;
      }
      this.#worker.lane.run(() => {
        if (!this.#clientGone) this.client.emit("data", ManagerMessage.decode(bytes));
      });
      if (this.#underWay.down === 0) this.#managerLane?.run(() => this.#server.emit("drain"));
    });
    return this.#underWay[direction] < this.#line.window;
  }

  /** Carries out what arrives there, after everything sent before; what meets a cut waits until it is mended. */
  #inOrder(direction: Direction, arrive: () => void): void {
    const { schedule } = this.#line;
    const atMs = Math.max(schedule.nowMs + this.#line.latencyMs(), this.#lastMs[direction]);
    this.#lastMs[direction] = atMs;
    const attempt = (): void => {
      if (this.#clientGone && this.#serverGone) return;
      if (this.#line.isCut(direction)) {
        this.#lastMs[direction] = Math.max(this.#lastMs[direction], schedule.nowMs + resendMs);
        this.#waiting[direction].push(arrive);
        if (this.#waiting[direction].length === 1) schedule.after(resendMs, () => this.#retry(direction));
        return;
      }
      if (this.#waiting[direction].length > 0) this.#waiting[direction].push(arrive);
      else arrive();
    };
    schedule.after(atMs - schedule.nowMs, attempt);
  }

  readonly #waiting: Record<Direction, (() => void)[]> = { up: [], down: [] };

  #retry(direction: Direction): void {
    if (this.#clientGone && this.#serverGone) return;
    if (this.#line.isCut(direction)) this.#line.schedule.after(resendMs, () => this.#retry(direction));
    else for (const arrive of this.#waiting[direction].splice(0)) arrive();
  }

  #breakClient(reason: string): void {
    this.#worker.lane.run(() => {
      if (this.#clientGone) return;
      this.#line.trace.note(this.#worker.name, "loses", this.#manager, reason);
      this.client.emit("error", new Error(reason));
    });
  }

  #clientCancels(): void {
    if (this.#clientGone) return;
    this.#clientGone = true;
    this.#tellServer("process");
  }

  #tellServer(how: "process" | "power"): void {
    const { schedule } = this.#line;
    const isSilent = how === "power" || this.#line.isCut("up");
    const afterMs = isSilent ? serverPatienceMs : this.#line.latencyMs();
    schedule.after(Math.max(afterMs, this.#lastMs.up - schedule.nowMs), () => {
      this.#onClosed(this);
      this.#managerLane?.run(() => {
        if (this.#serverGone) return;
        this.#serverGone = true;
        this.#server.cancel();
      });
      this.#serverGone ||= this.#managerLane === undefined;
    });
  }
}

/** What the agent has of grpc-js's `ClientDuplexStream`. */
class ClientEnd extends EventEmitter {
  readonly write: (message: WorkerMessage) => boolean;
  readonly cancel: () => void;

  constructor(write: (message: WorkerMessage) => boolean, cancel: () => void) {
    super();
    this.write = write;
    this.cancel = cancel;
  }
}

/** What the dispatcher has of grpc-js's `ServerDuplexStream`. */
class ServerEnd extends EventEmitter {
  readonly write: (message: ManagerMessage) => boolean;
  readonly #controller = new AbortController();
  readonly #waiting: WorkerMessage[] = [];
  #isPaused = false;

  constructor(write: (message: ManagerMessage) => boolean) {
    super();
    this.write = write;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#flow();
  }

  take(message: WorkerMessage): void {
    this.#waiting.push(message);
    this.#flow();
  }

  cancel(): void {
    this.#controller.abort(new ClusterError("unavailable", "the caller has gone"));
  }

  #flow(): void {
    while (!this.#isPaused && this.listenerCount("data") > 0 && this.#waiting.length > 0) {
      this.emit("data", this.#waiting.shift());
    }
  }
}
