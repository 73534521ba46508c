import { join } from "node:path";
import { openRaftGroup } from "../../manager/raft/client.ts";
import type { MembershipChange, RaftGroup, RaftGroupOptions } from "../../manager/raft/group.ts";
import { createLog } from "../../runtime/log.ts";

/** What the benchmark asks of a member; answered in order, one message each. */
export type MemberRequest =
  | { readonly kind: "open"; readonly options: RaftGroupOptions }
  | { readonly kind: "change"; readonly change: MembershipChange }
  | { readonly kind: "load"; readonly inFlight: number; readonly bytes: number; readonly ms: number }
  | { readonly kind: "look" }
  /** Blocks the main thread for `forMs` of every `everyMs`, until told to stop. */
  | { readonly kind: "stall"; readonly everyMs: number; readonly forMs: number }
  | { readonly kind: "stop" };

export interface LoadResult {
  readonly count: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface MemberView {
  readonly memberId: string;
  readonly isLeader: boolean;
  readonly term: number;
  readonly voters: number;
  /** Durable writes of the log since the start. */
  readonly logSyncs: number;
  /** Times this member was told of a new term or leader. */
  readonly leaderEvents: number;
}

export type MemberAnswer = {
  readonly load?: LoadResult;
  readonly view?: MemberView;
  readonly error?: string;
};

/** A manager's consensus part in a process of its own; its state machine counts what was committed. */
class BenchMember {
  #group: RaftGroup | undefined;
  #isLeader = false;
  #term = 0;
  #leaderEvents = 0;
  #appliedIndex = 0;
  #stall: NodeJS.Timeout | undefined;

  async handle(request: MemberRequest): Promise<MemberAnswer> {
    switch (request.kind) {
      case "open":
        await this.#open(request.options);
        return { view: this.#view() };
      case "change":
        await this.#opened().changeMembership(request.change);
        return {};
      case "load":
        return { load: await load(this.#opened(), request) };
      case "look":
        return { view: this.#view() };
      case "stall":
        this.#startStalls(request.everyMs, request.forMs);
        return {};
      case "stop":
        clearInterval(this.#stall);
        await this.#group?.stop();
        return {};
    }
  }

  #opened(): RaftGroup {
    if (this.#group === undefined) throw new Error("the member is not open");
    return this.#group;
  }

  async #open(options: RaftGroupOptions): Promise<void> {
    const log = createLog(join("bench", options.nodeId), "error");
    this.#group = await openRaftGroup({ log, logLevel: "error" }, options, async () => ({
      index: this.#appliedIndex,
      data: [new Uint8Array(8)],
    }));
    void this.#consume(this.#group).catch(fatal);
  }

  async #consume(group: RaftGroup): Promise<void> {
    for await (const event of group.events) {
      if (event.kind === "committed" || event.kind === "snapshot") this.#appliedIndex = event.index;
      if (event.kind === "leader") {
        this.#isLeader = event.isSelf;
        this.#term = event.term;
        this.#leaderEvents += 1;
      }
      if (event.kind === "failed") throw event.error;
    }
  }

  #view(): MemberView {
    const { memberId, members, logSyncs } = this.#opened().status();
    const voters = members.filter(({ suffrage }) => suffrage === "voter").length;
    const { memberId: id } = this.#opened();
    return {
      memberId: memberId || id,
      isLeader: this.#isLeader,
      term: this.#term,
      voters,
      logSyncs,
      leaderEvents: this.#leaderEvents,
    };
  }

  #startStalls(everyMs: number, forMs: number): void {
    this.#stall = setInterval(() => {
      const end = performance.now() + forMs;
      while (performance.now() < end);
    }, everyMs);
  }
}

/** Keeps `inFlight` proposals under way for `ms` and measures each from the call to its answer. */
async function load(
  group: RaftGroup,
  { inFlight, bytes, ms }: { readonly inFlight: number; readonly bytes: number; readonly ms: number },
): Promise<LoadResult> {
  const payload = new Uint8Array(bytes + 1).fill(120);
  const latencies: number[] = [];
  const start = performance.now();
  const end = start + ms;
  const client = async (): Promise<void> => {
    for (let from = start; from < end;) {
      await group.propose(payload.subarray(0, bytes));
      const now = performance.now();
      latencies.push(now - from);
      from = now;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, client));
  const seconds = (performance.now() - start) / 1000;
  const sorted = Float64Array.from(latencies).toSorted();
  const at = (part: number): number => sorted[Math.floor((sorted.length - 1) * part)] ?? Number.NaN;
  return { count: sorted.length, seconds, p50Ms: at(0.5), p99Ms: at(0.99) };
}

function fatal(error: unknown): void {
  console.error(error);
  process.exit(1);
}

const member = new BenchMember();
process.on("message", (request: MemberRequest) => {
  void member.handle(request).then(
    (answer) => {
      process.send?.(answer);
      if (request.kind === "stop") process.disconnect();
    },
    (error: unknown) => process.send?.({ error: String(error) } satisfies MemberAnswer),
  );
});
process.on("disconnect", () => process.exit(0));
