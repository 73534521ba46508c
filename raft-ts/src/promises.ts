import type { Message } from "./message.ts";

/**
 * Adds a message that waits for a write, in the place of those that it makes superfluous: a disk that stands still for an
 * hour must not leave one answer to each heartbeat of that hour behind.
 */
export function addPromise(promises: Message[], message: Message): void {
  const superfluous = promises.findIndex((earlier) => supersedes(message, earlier));
  if (superfluous !== -1) promises.splice(superfluous, 1);
  promises.push(message);
}

/** Whether the earlier one tells nothing more. */
function supersedes(later: Message, earlier: Message): boolean {
  if (later.to !== earlier.to) return false;
  switch (later.type) {
    case "append-reply":
      return earlier.type === "append-reply" && (later.term > earlier.term || saysAsMuch(later, earlier));
    case "heartbeat":
    case "heartbeat-reply":
      // Rounds and commit indexes only grow within a term.
      return earlier.type === later.type;
    case "vote":
    case "vote-reply":
      return earlier.type === later.type && later.term > earlier.term;
    case "append":
    case "snapshot":
      return false; // They carry something; the peer's window bounds them.
    case "pre-vote":
    case "pre-vote-reply":
    case "read":
    case "read-reply":
    case "timeout-now":
    case "catch-up":
      return false; // They never wait.
  }
}

type AppendReply = Message & { readonly type: "append-reply" };

/** An acknowledgement counts for all entries before it; a refusal is about the one question. */
function saysAsMuch(later: AppendReply, earlier: AppendReply): boolean {
  if (later.rejected !== earlier.rejected) return false;
  return later.rejected ? later.index === earlier.index : later.index >= earlier.index;
}
