import type { Message } from "raft-ts";

const limit = 4096;
/** While nothing is connected only the latest news is worth keeping. */
const offlineLimit = 64;
const frameBytes = 2 * 1024 * 1024;

/** What waits to go to one peer, in order and bounded: the protocol repairs what is missing. */
export class Outbox {
  #messages: Message[] = [];

  get isEmpty(): boolean {
    return this.#messages.length === 0;
  }

  /**
   * The oldest goes first where there is no room.
   *
   * @returns whether one went.
   */
  put(message: Message, peer: "connected" | "away"): boolean {
    if (message.type === "append") this.#dropNews();
    const isFull = this.#messages.length >= (peer === "connected" ? limit : offlineLimit);
    if (isFull) this.#messages.shift();
    this.#messages.push(message);
    return isFull;
  }

  /** The peer has gone. */
  shorten(): void {
    this.#messages.splice(0, Math.max(0, this.#messages.length - offlineLimit));
  }

  clear(): void {
    this.#messages = [];
  }

  /** As many as fit into one frame, at least one. */
  take(): readonly Message[] {
    let bytes = 0;
    let count = 0;
    for (const message of this.#messages) {
      if ("entries" in message) for (const { data } of message.entries) bytes += data.byteLength;
      if (count > 0 && bytes > frameBytes) break;
      count += 1;
    }
    return this.#messages.splice(0, count);
  }

  /** An append tells all that was news before it, and its answer says all that theirs would. */
  #dropNews(): void {
    for (let last = this.#messages.at(-1); last !== undefined && isNews(last); last = this.#messages.at(-1)) {
      this.#messages.pop();
    }
  }
}

/**
 * An append without entries tells how far the log is committed. While proposals come one after another the next append
 * leaves soon and tells the same, so that waiting for it saves a frame, and its answer another. Whoever reads on a
 * follower is not held up: the heartbeats of its read round tell it too.
 */
export function isNews(message: Message): boolean {
  return message.type === "append" && message.entries.length === 0;
}
