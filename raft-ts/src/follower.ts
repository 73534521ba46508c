import { campaign } from "./candidate.ts";
import type { AppendMessage, HeartbeatMessage, MemberId, Message, SnapshotMessage } from "./message.ts";
import type { RaftState } from "./state.ts";

export function tickFollower(s: RaftState): void {
  s.electionElapsed += 1;
  if (s.electionElapsed >= s.electionDeadline && s.promotable) campaign(s, "pre-vote");
}

/** Messages of the follower's own term. */
export function stepFollower(s: RaftState, message: Message): void {
  switch (message.type) {
    case "append":
      hearLeader(s, message.from);
      onAppend(s, message);
      return;
    case "heartbeat":
      hearLeader(s, message.from);
      onHeartbeat(s, message);
      return;
    case "snapshot":
      hearLeader(s, message.from);
      onSnapshot(s, message);
      return;
    case "read-reply":
      s.readStates.push({ ctx: message.ctx, index: message.index });
      return;
    case "timeout-now":
      campaign(s, "transfer");
      return;
    case "pre-vote":
    case "vote":
    case "pre-vote-reply":
    case "vote-reply":
    case "append-reply":
    case "heartbeat-reply":
    case "read":
    case "catch-up":
      return;
  }
}

/**
 * The connection to the leader broke because its process ended. Its lease is over here, and this member asks
 * for a pre-vote within half an election timeout. Where others still hear the leader they refuse, and nothing
 * comes of it.
 */
export function leaderGone(s: RaftState, id: MemberId): void {
  if (s.role.kind !== "follower" || s.leader !== id) return;
  const { electionTicks, random } = s.options;
  s.electionElapsed = electionTicks;
  s.electionDeadline = electionTicks + 1 + random(Math.max(1, Math.floor(electionTicks / 2)));
}

function hearLeader(s: RaftState, from: MemberId): void {
  s.resetElectionTimer();
  s.leader = from;
}

function onAppend(s: RaftState, message: AppendMessage): void {
  const { prevIndex, prevTerm, entries, commit } = message;
  if (prevIndex < s.log.commit) {
    // An old message: what is committed matches by definition, so say how far that is.
    accept(s, message.from, s.log.commit);
    return;
  }
  const result = s.log.appendAfter({ index: prevIndex, term: prevTerm }, entries);
  switch (result.kind) {
    case "matched":
      if (result.replacedFrom !== undefined) s.history.truncated(result.replacedFrom);
      s.history.appended(entries);
      s.log.commitTo(Math.min(commit, result.lastIndex));
      accept(s, message.from, result.lastIndex);
      return;
    case "conflict":
      s.send({
        type: "append-reply",
        from: s.id,
        to: message.from,
        term: s.term,
        index: prevIndex,
        rejected: true,
        hintIndex: result.hintIndex,
        hintTerm: result.hintTerm,
      });
      return;
  }
}

function onHeartbeat(s: RaftState, { from, commit, round }: HeartbeatMessage): void {
  s.log.commitTo(commit);
  s.send({ type: "heartbeat-reply", from: s.id, to: from, term: s.term, round });
}

function onSnapshot(s: RaftState, { from, snapshot }: SnapshotMessage): void {
  if (snapshot.index <= s.log.commit) {
    accept(s, from, s.log.commit);
    return;
  }
  if (s.log.matches(snapshot.index, snapshot.term)) {
    // The log holds it all already; only the news that it is committed was missing.
    s.log.commitTo(snapshot.index);
    accept(s, from, snapshot.index);
    return;
  }
  s.log.restore(snapshot);
  s.history.restored(snapshot);
  accept(s, from, snapshot.index);
}

function accept(s: RaftState, to: MemberId, index: number): void {
  s.send({
    type: "append-reply",
    from: s.id,
    to,
    term: s.term,
    index,
    rejected: false,
    hintIndex: 0,
    hintTerm: 0,
  });
}
