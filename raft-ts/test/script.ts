import type { ConfChange, Message, ProposeResult, Write } from "../src/index.ts";
import { type Envelope, TestMember, bytes, entryText, group } from "./cluster.ts";

/**
 * Runs a session line by line; each line's output is what the members did (`testdata/README.md` tells how to read it). The words:
 * `group a b c`, `blank a`, `tick a 8`, `deliver`, `deliver 1`, `cut a b`, `heal`, `propose a x`, `compact a 2`,
 * `change a add-learner d`, `change a reconfigure b,c/d explicit`, `change a leave`, `slow a` (its writes are under way
 * until `sync a`), `transfer a b`, `read a 1`, `gone a b`, `crash a`, `restart a`, `status`, `log a`.
 */
export class Script {
  readonly #members = new Map<string, TestMember>();
  #wire: Envelope[] = [];
  #cut = new Set<string>();
  /** Members whose writes take until they are told to be done. */
  readonly #slow = new Set<string>();
  #output: string[] = [];

  run(line: string): string {
    this.#output = [];
    const [word = "", ...args] = line.split(" ");
    this.#command(word, args);
    this.#settle();
    return this.#output.join("\n");
  }

  #command(word: string, args: readonly string[]): void {
    const [first = "", second = ""] = args;
    switch (word) {
      case "group":
        for (const id of args) this.#add(id).bootstrap(group(args));
        return;
      case "blank":
        this.#add(first);
        return;
      case "tick":
        for (let left = Number(second); left > 0; left -= 1) {
          this.#member(first).node.tick();
          this.#settle();
        }
        return;
      case "deliver":
        this.#deliver(first === "" ? Number.MAX_SAFE_INTEGER : Number(first));
        return;
      case "cut":
        this.#cut.add(`${first}>${second}`).add(`${second}>${first}`);
        return;
      case "slow":
        this.#slow.add(first);
        return;
      case "sync":
        this.#member(first).finish();
        return;
      case "heal":
        this.#cut.clear();
        return;
      case "propose":
        for (const text of args.slice(1)) this.#say(this.#member(first).node.propose(bytes(text)));
        return;
      case "change":
        this.#say(this.#member(first).node.proposeConfChange(parseChange(args.slice(1))));
        return;
      case "transfer":
        this.#say(this.#member(first).node.transferLeadership(second));
        return;
      case "read":
        this.#say(this.#member(first).node.readIndex(Number(second)));
        return;
      case "gone":
        this.#member(first).node.reportGone(second);
        return;
      case "compact":
        this.#member(first).compact(Number(second));
        return;
      case "crash":
        this.#member(first).crash();
        return;
      case "restart":
        this.#member(first).restart();
        return;
      case "status":
        for (const member of this.#members.values()) this.#status(member);
        return;
      case "log":
        this.#print(`${first} ${this.#member(first).log().map(entryText).join(" ")}`);
        return;
      default:
        throw new Error(`unknown word in script: ${word}`);
    }
  }

  #settle(): void {
    for (let busy = true; busy;) {
      busy = false;
      for (const member of this.#members.values()) {
        if (!member.alive || !member.node.hasReady()) continue;
        busy = true;
        const { messages, softState, write } = member.begin((entry) => {
          this.#print(`${member.id} applies ${entryText(entry)}`);
        });
        if (softState !== undefined) {
          this.#print(
            `${member.id} is ${softState.role} in term ${softState.term}, leader ${softState.leader ?? "none"}`,
          );
        }
        this.#post(member, messages);
        if (write?.snapshot !== undefined) {
          this.#print(`${member.id} installs snapshot ${write.snapshot.index}`);
        }
        if (write !== undefined && this.#slow.has(member.id))
          this.#print(`${member.id} writes ${printWrite(write)}`);
        else if (!this.#slow.has(member.id)) member.finish();
        for (const [ctx, index] of member.reads) this.#print(`${member.id} read ${ctx} at ${index}`);
        member.reads.clear();
      }
    }
  }

  #post(from: TestMember, messages: readonly Message[]): void {
    for (const message of messages) {
      this.#print(`  ${printMessage(message)}`);
      this.#wire.push({
        message,
        data: message.type === "snapshot" ? [...from.snapshotData] : undefined,
      });
    }
  }

  #deliver(limit: number): void {
    for (let left = Math.min(limit, 500); left > 0; left -= 1) {
      const envelope = this.#wire.shift();
      if (envelope === undefined) return;
      const { message } = envelope;
      const to = this.#members.get(message.to);
      const lost = to?.alive !== true || this.#cut.has(`${message.from}>${message.to}`);
      if (message.type === "snapshot") {
        this.#member(message.from).node.reportSnapshot(message, lost ? "failed" : "sent");
      }
      if (lost) this.#print(`  ${message.from}>${message.to} ${message.type} is lost`);
      else to.receive(envelope);
      this.#settle();
    }
  }

  #status({ id, node, alive }: TestMember): void {
    if (!alive) {
      this.#print(`${id} is down`);
      return;
    }
    const { role, term, leader, commit, lastIndex, configuration, peers } = node.status();
    const { voters, outgoing, learners, learnersNext = [], departed = [] } = configuration;
    const part = (name: string, ids: readonly string[]): string =>
      ids.length === 0 ? "" : ` ${name} ${ids.join(",")}`;
    const members =
      voters.join(",") +
      part("outgoing", outgoing) +
      part("learners", learners) +
      part("learners-next", learnersNext) +
      part("departed", departed);
    this.#print(
      `${id} ${role} term ${term} leader ${leader ?? "none"} commit ${commit} last ${lastIndex} voters ${members}`,
    );
    for (const peer of peers) {
      if (peer.id !== id) this.#print(`  ${peer.id} ${peer.state} match ${peer.match} next ${peer.next}`);
    }
  }

  #say(result: ProposeResult): void {
    if (result.kind === "refused") this.#print(`refused, ${result.reason}: ${result.text}`);
  }

  #add(id: string): TestMember {
    const member = new TestMember(id, () => 0); // No jitter: every wait is exactly the election timeout.
    this.#members.set(id, member);
    return member;
  }

  #member(id: string): TestMember {
    const member = this.#members.get(id);
    if (member === undefined) throw new Error(`no member ${id} in this script`);
    return member;
  }

  #print(line: string): void {
    this.#output.push(line);
  }
}

function parseChange([kind = "", id = "", context = ""]: readonly string[]): ConfChange {
  switch (kind) {
    case "add-voter":
    case "add-learner":
    case "update":
      return { kind, id, context };
    case "promote":
    case "demote":
    case "remove":
      return { kind, id };
    case "leave":
      return { kind };
    case "reconfigure": {
      const [voters = "", learners = ""] = id.split("/");
      const ids = (text: string): string[] => text.split(",").filter((name) => name !== "");
      const leave = context === "explicit" ? "explicit" : "auto";
      return { kind, voters: ids(voters), learners: ids(learners), contexts: {}, leave };
    }
    default:
      throw new Error(`unknown change in script: ${kind}`);
  }
}

function printMessage(message: Message): string {
  const head = `${message.from}>${message.to} ${message.type} t${message.term}`;
  switch (message.type) {
    case "pre-vote":
    case "vote":
      return `${head} last ${message.lastIndex}/${message.lastTerm}${message.transfer ? " transfer" : ""}`;
    case "pre-vote-reply":
    case "vote-reply":
      return `${head} ${message.granted ? "granted" : "refused"}`;
    case "append":
      return `${head} after ${message.prevIndex}/${message.prevTerm} commit ${message.commit} [${message.entries.map(entryText).join(" ")}]`;
    case "catch-up":
      return `${head} after ${message.prevIndex}/${message.prevTerm} [${message.entries.map(entryText).join(" ")}]`;
    case "append-reply":
      return message.rejected
        ? `${head} rejected ${message.index} hint ${message.hintIndex}/${message.hintTerm}`
        : `${head} ok ${message.index}`;
    case "heartbeat":
      return `${head} commit ${message.commit} round ${message.round}`;
    case "heartbeat-reply":
      return `${head} round ${message.round}`;
    case "snapshot":
      return `${head} ${message.snapshot.index}/${message.snapshot.term}`;
    case "read":
      return `${head} ${message.ctx}`;
    case "read-reply":
      return `${head} ${message.ctx} at ${message.index}`;
    case "timeout-now":
      return head;
  }
}

function printWrite({ hardState, snapshot, entries }: Write): string {
  const { term, vote } = hardState;
  const parts = [`term ${term}`, ...(vote === undefined ? [] : [`vote ${vote}`])];
  if (snapshot !== undefined) parts.push(`snapshot ${snapshot.index}`);
  if (entries.length > 0) parts.push(`[${entries.map(entryText).join(" ")}]`);
  return parts.join(", ");
}
