import { type ListOperation, type RegisterOperation, checkLists, checkRegisters } from "./linearizable.ts";
import type { SimHost } from "./raft-host.ts";
import type { Outcome, Request } from "./raft-machine.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

export interface ClientPlan {
  readonly clients: number;
  readonly thinkMs: number;
  /** Of ops that change something; the others read. */
  readonly writeRatio: number;
  /** How often a client goes to whoever leads, as far as can be told. */
  readonly leaderRatio: number;
}

const registers = ["r0", "r1"] as const;
const lists = ["l0", "l1"] as const;
/** Short enough that a leader who is cut off does not hold all clients for long. */
const attemptBoundMs = 700;
const retryMs = 60;
const maxAttempts = 8;
/** After an unknown outcome, the same request is sent again this often rather than given up. */
const repeatRatio = 0.6;

interface Task {
  readonly process: string;
  readonly invoked: number;
  readonly request: number;
  readonly key: string;
  readonly op: Request["op"] | { readonly kind: "read" };
  attempts: number;
  sawUnknown: boolean;
  readonly done: () => void;
}

/** Clients that write, append, compare and read, repeat what they are not sure of, and keep the history. */
export class Clients {
  readonly #deps: { readonly schedule: Schedule; readonly random: SimRandom; readonly trace: Trace };
  readonly #plan: ClientPlan;
  readonly #hosts: () => readonly SimHost[];
  readonly #violate: (rule: string, text: string) => void;
  readonly #registers: RegisterOperation[] = [];
  readonly #lists: ListOperation[] = [];
  readonly #refused = new Set<string>();
  /** By attempt: the index it was applied at. */
  readonly #applied = new Map<string, number>();
  readonly #lastSeen = new Map<string, string>();
  /** Asked for and not settled. */
  readonly #open = new Set<Task>();
  #moment = 0;
  #nextRequest = 1;
  /** Highest index that anybody was told of. */
  #told = 0;
  #stopped = false;
  acknowledged = 0;

  constructor(
    deps: { readonly schedule: Schedule; readonly random: SimRandom; readonly trace: Trace },
    plan: ClientPlan,
    world: {
      readonly hosts: () => readonly SimHost[];
      readonly violate: (rule: string, text: string) => void;
    },
  ) {
    this.#deps = deps;
    this.#plan = plan;
    this.#hosts = world.hosts;
    this.#violate = world.violate;
  }

  get operations(): number {
    return this.#registers.length + this.#lists.length;
  }

  start(): void {
    for (let client = 1; client <= this.#plan.clients; client += 1) this.#think(`c${client}`);
  }

  stop(): void {
    this.#stopped = true;
  }

  /** A write that is repeated until it is acknowledged. */
  probe(then: () => void): void {
    const value = `probe${this.#nextRequest}`;
    this.#begin("probe", "r0", { kind: "write", value }, then);
  }

  /** Every register and list as this host gives it. */
  readAll(host: SimHost, then: () => void): void {
    const keys = [...registers, ...lists];
    let left = keys.length;
    for (const key of keys) {
      const task = this.#task(`last-${host.name}`, key, { kind: "read" }, () => {
        left -= 1;
        if (left === 0) then();
      });
      this.#attempt(task, () => host);
    }
  }

  refused({ request, attempt }: Request): void {
    const name = `${request}/${attempt}`;
    this.#refused.add(name);
    if (this.#applied.has(name))
      this.#violate("refused and yet done", `attempt ${name} was applied before it was refused`);
  }

  applied({ request, attempt }: Request, index: number): void {
    const name = `${request}/${attempt}`;
    const known = this.#applied.get(name) ?? index;
    if (known !== index)
      this.#violate("proposed twice", `attempt ${name} stands at ${known} and at ${index}`);
    this.#applied.set(name, index);
    if (this.#refused.has(name))
      this.#violate("refused and yet done", `attempt ${name} was applied after it was refused`);
  }

  /** Looks for one order that explains everything that was answered. */
  check(): void {
    for (const task of this.#open) this.#record(task, undefined); // Whether they took effect, nobody was told.
    for (const verdict of [checkRegisters(this.#registers), checkLists(this.#lists)]) {
      if (verdict.kind === "violation") this.#violate("linearizability", `${verdict.key}: ${verdict.text}`);
      if (verdict.kind === "undecided")
        this.#violate("undecided", `${verdict.key}: no verdict in ${verdict.steps} steps`);
    }
  }

  #think(client: string): void {
    if (this.#stopped) return;
    const { schedule, random } = this.#deps;
    schedule.after(random.next() * 2 * this.#plan.thinkMs, () => {
      if (this.#stopped) return;
      const isList = random.chance(0.5);
      const key = random.pick<string>(isList ? lists : registers) ?? "";
      this.#begin(client, key, this.#draw(key, isList ? "list" : "register"), () => this.#think(client));
    });
  }

  #draw(key: string, kind: "list" | "register"): Task["op"] {
    const { random } = this.#deps;
    const value = `v${this.#nextRequest}`;
    if (!random.chance(this.#plan.writeRatio)) return { kind: "read" };
    if (kind === "list") return { kind: "append", value };
    const expected = this.#lastSeen.get(key);
    if (expected !== undefined && random.chance(0.2)) return { kind: "compare-and-set", expected, value };
    return { kind: "write", value };
  }

  #begin(process: string, key: string, op: Task["op"], then: () => void): void {
    this.#attempt(this.#task(process, key, op, then), () => this.#choose());
  }

  #task(process: string, key: string, op: Task["op"], then: () => void): Task {
    this.#moment += 1;
    const request = this.#nextRequest;
    this.#nextRequest += 1;
    const task: Task = {
      process,
      invoked: this.#moment,
      request,
      key,
      op,
      attempts: 0,
      sawUnknown: false,
      done: then,
    };
    this.#open.add(task);
    return task;
  }

  #choose(): SimHost | undefined {
    const { random } = this.#deps;
    const up = this.#hosts().filter(({ isUp }) => isUp);
    const leading = up.filter(({ isLeader }) => isLeader);
    return random.chance(this.#plan.leaderRatio) && leading.length > 0
      ? random.pick(leading)
      : random.pick(up);
  }

  #attempt(task: Task, choose: () => SimHost | undefined): void {
    const { schedule, trace } = this.#deps;
    task.attempts += 1;
    const host = choose();
    if (host === undefined) return this.#again(task, choose);
    let open = true;
    const cancel = schedule.after(attemptBoundMs, () => settle(() => this.#unknown(task, choose)));
    const settle = (action: () => void): void => {
      if (!open) return;
      open = false;
      cancel();
      action();
    };
    const { process, request, key, op, attempts: attempt } = task;
    trace.note(process, "asks", host.name, op.kind, key, request, attempt);
    const toldBefore = this.#told;
    if (op.kind === "read") {
      host.read((index) =>
        settle(() => {
          if (index === undefined) return this.#again(task, choose);
          if (index < toldBefore)
            this.#violate("stale read", `${host.name} gave index ${index} when ${toldBefore} had been told`);
          this.#told = Math.max(this.#told, index);
          this.#finish(task, {
            read: key.startsWith("l") ? host.machine.list(key) : host.machine.register(key),
          });
        }),
      );
      return;
    }
    host.propose({ request, attempt, key, op }, (answer) =>
      settle(() => {
        switch (answer.kind) {
          case "done":
            this.#told = Math.max(this.#told, answer.index);
            this.acknowledged += 1;
            this.#finish(task, { outcome: answer.outcome });
            return;
          case "refused":
            this.#again(task, choose);
            return;
          case "unknown":
            this.#unknown(task, choose);
            return;
        }
      }),
    );
  }

  #unknown(task: Task, choose: () => SimHost | undefined): void {
    task.sawUnknown = true;
    if (task.process === "probe" || this.#deps.random.chance(repeatRatio)) this.#again(task, choose);
    else this.#giveUp(task);
  }

  #again(task: Task, choose: () => SimHost | undefined): void {
    const insists = task.process === "probe" || task.process.startsWith("last");
    if (!insists && (task.attempts >= maxAttempts || this.#stopped)) return this.#giveUp(task);
    this.#deps.schedule.after(retryMs * (0.5 + this.#deps.random.next()), () => this.#attempt(task, choose));
  }

  #giveUp(task: Task): void {
    this.#open.delete(task);
    if (task.sawUnknown) this.#record(task, undefined);
    task.done();
  }

  #finish(task: Task, result: { read?: string | readonly string[]; outcome?: Outcome }): void {
    this.#deps.trace.note(task.process, "is answered", task.request, JSON.stringify(result));
    this.#open.delete(task);
    if (typeof result.read === "string") this.#lastSeen.set(task.key, result.read);
    this.#record(task, result);
    task.done();
  }

  #record(
    { process, key, invoked, op }: Task,
    result: { read?: string | readonly string[]; outcome?: Outcome } | undefined,
  ): void {
    this.#moment += 1;
    const timed = { process, key, invoked, returned: result === undefined ? undefined : this.#moment };
    switch (op.kind) {
      case "write":
        this.#registers.push({ ...timed, kind: "write", input: op.value });
        return;
      case "compare-and-set":
        this.#registers.push({
          ...timed,
          kind: "compare-and-set",
          input: { expected: op.expected, value: op.value },
          output: result?.outcome,
        });
        return;
      case "append":
        this.#lists.push({ ...timed, kind: "append", input: op.value });
        return;
      case "read":
        if (typeof result?.read === "string")
          this.#registers.push({ ...timed, kind: "read", output: result.read });
        else if (result?.read !== undefined)
          this.#lists.push({ ...timed, kind: "read", output: result.read });
        return;
    }
  }
}
