import type { Entry, Message, ProposeResult, RaftOptions } from "../src/index.ts";
import { TestMember, bytes, entryText, group } from "./cluster.ts";

export type MessageOf<Type extends Message["type"]> = Message & { readonly type: Type };

/**
 * Members in one process with a wire that the test holds in its hands, for tests that follow the paper. Every election
 * wait is exactly the election timeout: there is no jitter.
 */
export class Group {
  readonly members = new Map<string, TestMember>();
  /** Everything that was sent, in order, delivered or not. */
  readonly sent: Message[] = [];
  #wire: { readonly message: Message; readonly data: readonly string[] | undefined }[] = [];
  #cut = new Set<string>();

  /**
   * Member ids; what follows a colon are the terms of the log behind the founding entry, and then the current term if
   * it is later than those: `a:1,1,4@6`.
   */
  constructor(words: string, options: Partial<RaftOptions> = {}) {
    const parsed = words.split(" ").map((word) => {
      const [log = "", current = "1"] = word.split("@");
      const [id = "", list = ""] = log.split(":");
      const terms = list === "" ? [] : list.split(",").map(Number);
      return { id, terms, term: Math.max(Number(current), ...terms) };
    });
    const ids = parsed.map(({ id }) => id);
    for (const { id, terms, term } of parsed) {
      const member = this.add(id, options);
      member.bootstrap(group(ids));
      member.storage.append(terms.map((term, at) => dataEntry(term, at + 2)));
      member.storage.setHardState({ term, vote: undefined, commit: 1 });
      member.restart();
      member.applied = [];
    }
    this.settle();
    this.sent.length = 0;
  }

  /** A blank member that has not heard of any group. */
  add(id: string, options: Partial<RaftOptions> = {}): TestMember {
    const member = new TestMember(id, () => 0, options);
    this.members.set(id, member);
    return member;
  }

  get(id: string): TestMember {
    const member = this.members.get(id);
    if (member === undefined) throw new Error(`no member ${id}`);
    return member;
  }

  /** Lets `id` stand for election and everything run its course. */
  elect(id: string): this {
    this.get(id).node.campaign();
    return this.settle();
  }

  /** Whoever leads hands over to `id`. */
  handOver(id: string): this {
    for (const { node } of this.members.values()) {
      if (node.status().role === "leader") node.transferLeadership(id);
    }
    return this.settle();
  }

  tick(id: string, count = 1): this {
    for (let left = count; left > 0; left -= 1) this.get(id).node.tick();
    this.work();
    return this;
  }

  /** Everybody's time passes, and all messages arrive. */
  rounds(count: number): this {
    for (let left = count; left > 0; left -= 1) {
      for (const member of this.members.values()) if (member.alive) member.node.tick();
      this.settle();
    }
    return this;
  }

  propose(id: string, text: string): ProposeResult {
    return this.get(id).node.propose(bytes(text));
  }

  /** One message from outside, and what the member answers. */
  say(message: Message): readonly Message[] {
    this.get(message.to).receive({ message, data: undefined });
    const before = this.sent.length;
    this.work();
    return this.sent.slice(before);
  }

  /** All members do their work; messages stay on the wire. */
  work(): this {
    for (let busy = true; busy;) {
      busy = false;
      for (const member of this.members.values()) {
        if (!member.alive || !member.node.hasReady()) continue;
        busy = true;
        for (const message of member.begin(() => {}).messages) {
          this.sent.push(message);
          const data = message.type === "snapshot" ? [...member.snapshotData] : undefined;
          this.#wire.push({ message, data });
        }
        member.finish();
      }
    }
    return this;
  }

  /** Work and delivery until nothing moves. */
  settle(): this {
    this.work();
    for (let left = 10_000; this.#wire.length > 0; left -= 1) {
      if (left === 0) throw new Error("the group does not come to rest");
      const envelope = this.#wire.shift();
      if (envelope !== undefined) this.#arrive(envelope);
      this.work();
    }
    return this;
  }

  /** Whatever is on the wire is lost. */
  drop(): this {
    this.#wire = [];
    return this;
  }

  /** Nothing passes between the two sides any more, in either direction. */
  cut(one: string, other: string): this {
    for (const a of one.split(" ")) {
      for (const b of other.split(" ")) this.#cut.add(`${a}>${b}`).add(`${b}>${a}`);
    }
    return this;
  }

  heal(): this {
    this.#cut.clear();
    return this;
  }

  /** The log as terms by index, the founding entry first: `1 1 4`. */
  terms(id: string): string {
    return this.get(id)
      .log()
      .map(({ term }) => term)
      .join(" ");
  }

  entries(id: string): string {
    return this.get(id).log().map(entryText).join(" ");
  }

  role(id: string): string {
    return this.get(id).node.status().role;
  }

  term(id: string): number {
    return this.get(id).node.status().term;
  }

  commit(id: string): number {
    return this.get(id).node.status().commit;
  }

  sentOf<Type extends Message["type"]>(type: Type): MessageOf<Type>[] {
    return this.sent.filter((message): message is MessageOf<Type> => message.type === type);
  }

  #arrive(envelope: { readonly message: Message; readonly data: readonly string[] | undefined }): void {
    const { message } = envelope;
    const to = this.members.get(message.to);
    const isLost = to?.alive !== true || this.#cut.has(`${message.from}>${message.to}`);
    const from = this.members.get(message.from);
    if (message.type === "snapshot" && from?.alive === true) {
      from.node.reportSnapshot(message, isLost ? "failed" : "sent");
    }
    if (!isLost) to.receive(envelope);
  }
}

export function dataEntry(term: number, index: number, text = `${term}`): Entry {
  return { term, index, kind: "data", data: bytes(text) };
}

export function append(
  words: { readonly from: string; readonly to: string; readonly term: number },
  after: { readonly index: number; readonly term: number },
  entries: readonly Entry[],
  commit = 0,
): MessageOf<"append"> {
  return { type: "append", ...words, prevIndex: after.index, prevTerm: after.term, entries, commit };
}

export function voteRequest(
  words: { readonly from: string; readonly to: string; readonly term: number },
  last: { readonly index: number; readonly term: number },
  type: "pre-vote" | "vote" = "vote",
): MessageOf<"pre-vote" | "vote"> {
  return { type, ...words, lastIndex: last.index, lastTerm: last.term, transfer: false };
}
