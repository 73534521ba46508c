import { campaign, stepCandidate, tickCandidate } from "./candidate.ts";
import { stepFollower, tickFollower } from "./follower.ts";
import { stepLeader, tickLeader } from "./leader.ts";
import type { CatchUpMessage, Message, VoteMessage } from "./message.ts";
import type { RaftState } from "./state.ts";

/** One tick of the caller's clock. */
export function tick(s: RaftState): void {
  switch (s.role.kind) {
    case "follower":
      tickFollower(s);
      return;
    case "pre-candidate":
    case "candidate":
      tickCandidate(s);
      return;
    case "leader":
      tickLeader(s, s.role);
      return;
  }
}

/** Takes in one message: first its term (§5.1), then votes, which any role can give, then the role's business. */
export function step(s: RaftState, message: Message): void {
  if (message.to !== s.id) return;
  const isRequest = message.type === "pre-vote" || message.type === "vote";
  if (isRequest && !message.transfer && s.leaseHolds && message.term > s.term) {
    // We hear from a leader: an election now would only disturb (thesis §4.2.3).
    return;
  }
  // Whoever was removed can do no more than disturb: those left hold all it could bring.
  if (isRequest && s.history.hasDeparted(message.from, s.log.commit)) return;
  if (message.type === "catch-up") {
    onCatchUp(s, message);
    return;
  }
  if (message.term > s.term) adoptTerm(s, message);
  else if (message.term < s.term) {
    answerOldTerm(s, message);
    return;
  }
  if (isRequest) {
    answerVote(s, message);
    return;
  }
  if (isFromLeader(message) && (s.role.kind === "pre-candidate" || s.role.kind === "candidate")) {
    s.becomeFollower(s.term, message.from); // Somebody else won this term.
  }
  switch (s.role.kind) {
    case "follower":
      stepFollower(s, message);
      return;
    case "pre-candidate":
    case "candidate":
      stepCandidate(s, message);
      return;
    case "leader":
      stepLeader(s, s.role, message);
      return;
  }
}

function adoptTerm(s: RaftState, message: Message): void {
  // A pre-vote, and the consent to one, speak of a term that nobody has entered yet.
  if (message.type === "pre-vote") return;
  if (message.type === "pre-vote-reply" && message.granted) return;
  s.becomeFollower(message.term, isFromLeader(message) ? message.from : undefined);
}

function answerOldTerm(s: RaftState, message: Message): void {
  if (isFromLeader(message)) {
    // A leader of the past, or one that this member outran: our term makes it step down.
    s.send({
      type: "append-reply",
      from: s.id,
      to: message.from,
      term: s.term,
      index: 0,
      rejected: true,
      hintIndex: 0,
      hintTerm: 0,
    });
  } else if (message.type === "pre-vote") {
    // Lets the asker catch up with the term, or it would ask forever.
    answerPreVote(s, message, "refused");
  }
}

function answerVote(s: RaftState, message: VoteMessage): void {
  const free =
    s.vote === message.from ||
    (s.vote === undefined && s.leader === undefined) ||
    (message.type === "pre-vote" && message.term > s.term);
  const granted = free && s.log.isUpToDate(message.lastIndex, message.lastTerm);
  const { from: to } = message;
  if (message.type === "pre-vote") {
    answerPreVote(s, message, granted ? "granted" : "refused");
    if (free && !granted) sendCatchUp(s, message);
    return;
  }
  if (granted) {
    s.vote = to;
    s.resetElectionTimer();
  }
  s.send({ type: "vote-reply", from: s.id, to, term: s.term, granted });
}

function answerPreVote(
  s: RaftState,
  { from: to, term: askedTerm, round }: VoteMessage,
  answer: "granted" | "refused",
): void {
  const granted = answer === "granted";
  const term = granted ? askedTerm : s.term;
  s.send({
    type: "pre-vote-reply",
    from: s.id,
    to,
    term,
    granted,
    ...(round !== undefined && { round }),
  });
}

/** What the asker lacks, from where the logs may agree; nothing when that is compacted. */
function sendCatchUp(s: RaftState, { from: to, lastIndex, lastTerm }: VoteMessage): void {
  const { index: prevIndex } = s.log.findConflict(lastIndex, lastTerm);
  const prevTerm = s.log.term(prevIndex);
  const entries = s.log.entriesFrom(prevIndex + 1, s.options.maxMessageBytes);
  if (prevTerm === undefined || entries === undefined || entries.length === 0) return;
  s.send({ type: "catch-up", from: s.id, to, term: s.term, prevIndex, prevTerm, entries });
}

/**
 * Takes over entries that another member holds of earlier leaders behind its own, and asks again with them. Nothing is
 * acknowledged here, so nobody counts this copy before a leader has checked it. Nothing is replaced either: the leader of this
 * member's term may hold an acknowledgement of it, and its next word would be about a log that is gone.
 */
function onCatchUp(s: RaftState, { term, prevIndex, prevTerm, entries }: CatchUpMessage): void {
  if (s.role.kind === "leader" || s.role.kind === "candidate" || s.leaseHolds) return;
  if (s.log.pendingSnapshot !== undefined) return;
  const last = entries.at(-1);
  if (last === undefined || !s.log.isBehind(last.index, last.term)) return;
  if (entries.some(({ index, term: held }) => index <= s.log.lastIndex() && s.log.term(index) !== held))
    return;
  if (term > s.term) s.becomeFollower(term, undefined);
  if (s.log.appendAfter({ index: prevIndex, term: prevTerm }, entries).kind === "conflict") return;
  s.history.appended(entries);
  campaign(s, "pre-vote");
}

function isFromLeader(message: Message): boolean {
  return message.type === "append" || message.type === "heartbeat" || message.type === "snapshot";
}
