import { type ConfChange, changeConfiguration, encodeConfiguration } from "./confchange.ts";
import {
  type AppendReplyMessage,
  type Configuration,
  type Entry,
  type EntryKind,
  type HeartbeatReplyMessage,
  type MemberId,
  type Message,
  type SnapshotMessage,
  entryBytes,
  entryOverheadBytes,
  invariant,
} from "./message.ts";
import { Progress } from "./progress.ts";
import { membersOf, reachedByQuorum, voteResult, votersOf } from "./quorum.ts";
import { ReadQueue } from "./readindex.ts";
import type { LeaderRole, RaftState } from "./state.ts";

/**
 * What became of a proposal, or of another request. `accepted` is no promise: only the committed entry is. Index and term of
 * a read or a transfer name no entry.
 */
export type ProposeResult =
  | { readonly kind: "accepted"; readonly index: number; readonly term: number }
  | { readonly kind: "refused"; readonly reason: RefusalReason; readonly text: string };

/** Why a request was not taken; docs/api.md says when each of them comes, and what to do about it. */
export type RefusalReason =
  | "not-leader"
  | "transferring"
  | "too-much-uncommitted"
  | "change-pending"
  | "too-early"
  | "invalid-change"
  | "quorum-at-risk"
  | "too-many-reads";

/** Takes office: every peer's log is unknown, and an empty entry is what commits all that came before (§8). */
export function becomeLeader(s: RaftState): void {
  invariant(s.role.kind === "candidate", () => `a ${s.role.kind} cannot become leader`);
  s.resetElectionTimer();
  s.leader = s.id;
  const role: LeaderRole = {
    kind: "leader",
    progress: new Map(),
    reads: new ReadQueue(s.options.maxPendingReads),
    termStartIndex: s.log.lastIndex() + 1,
    heartbeatElapsed: 0,
    uncommittedBytes: 0,
    transferTo: undefined,
    transferElapsed: 0,
    flushDue: true,
  };
  s.role = role;
  followMembership(s, role);
  append(s, role, "empty", new Uint8Array());
}

export function tickLeader(s: RaftState, role: LeaderRole): void {
  for (const progress of role.progress.values()) {
    progress.tick();
    if (progress.silentTicks > s.maxAwaitedTicks) progress.giveUpTransfer();
  }
  if (!quorumIsActive(s, role)) {
    s.becomeFollower(s.term, undefined); // Cut off from a quorum it could commit nothing, and reads would go stale.
    return;
  }
  if (role.transferTo !== undefined) {
    role.transferElapsed += 1;
    // The target did not make it in time; proposals may flow again.
    if (role.transferElapsed >= s.options.electionTicks) role.transferTo = undefined;
  }
  role.heartbeatElapsed += 1;
  if (role.heartbeatElapsed >= s.options.heartbeatTicks) broadcastHeartbeat(s, role);
}

export function stepLeader(s: RaftState, role: LeaderRole, message: Message): void {
  switch (message.type) {
    case "append-reply": {
      const progress = role.progress.get(message.from);
      if (progress !== undefined) onAppendReply(s, role, progress, message);
      return;
    }
    case "heartbeat-reply": {
      const progress = role.progress.get(message.from);
      if (progress !== undefined) onHeartbeatReply(s, role, progress, message);
      return;
    }
    case "read":
      // At the limit the request is dropped: the asker has a deadline and asks again.
      if (role.reads.add({ ctx: message.ctx, from: message.from })) role.flushDue = true;
      return;
    case "append":
    case "heartbeat":
    case "snapshot":
      invariant(false, () => `two leaders in term ${s.term}: ${s.id} and ${message.from}`);
      return;
    case "pre-vote":
    case "vote":
    case "pre-vote-reply":
    case "vote-reply":
    case "read-reply":
    case "timeout-now":
    case "catch-up":
      return;
  }
}

export function proposeData(s: RaftState, role: LeaderRole, data: Uint8Array): ProposeResult {
  if (role.transferTo !== undefined) {
    return refuse("transferring", `leadership is being handed to ${role.transferTo}`);
  }
  const bytes = data.byteLength + entryOverheadBytes;
  const { maxUncommittedBytes } = s.options;
  // One proposal beyond the limit is let through when nothing else waits, or it could never be made.
  if (role.uncommittedBytes > 0 && role.uncommittedBytes + bytes > maxUncommittedBytes) {
    return refuse(
      "too-much-uncommitted",
      `${role.uncommittedBytes} bytes wait to be committed, and ${bytes} more would be over the limit of ${maxUncommittedBytes}`,
    );
  }
  return append(s, role, "data", data);
}

export function proposeChange(s: RaftState, role: LeaderRole, change: ConfChange): ProposeResult {
  if (role.transferTo !== undefined) {
    return refuse("transferring", `leadership is being handed to ${role.transferTo}`);
  }
  if (s.log.commit < role.termStartIndex) {
    // A change before the first commit of the term can undo a committed one (thesis §4.1, note on the bug).
    return refuse("too-early", "this leader has not committed anything in its term yet");
  }
  if (s.history.latestIndex > s.log.commit) {
    return refuse("change-pending", `the change at index ${s.history.latestIndex} is not committed yet`);
  }
  const result = changeConfiguration(s.history.latest, change);
  if (result.kind === "refused") return refuse("invalid-change", result.text);
  const refusal = refuseQuorumRisk(s, role, result.configuration);
  if (refusal !== undefined) return refusal;
  return append(s, role, "config", encodeConfiguration(result.configuration));
}

/**
 * Refuses what would leave the group without a quorum. `after` counts from its append on, so voters that do not answer
 * now could keep even this change from being committed, for good.
 */
function refuseQuorumRisk(s: RaftState, role: LeaderRole, after: Configuration): ProposeResult | undefined {
  const { latest } = s.history;
  if (after.voters === latest.voters && after.outgoing === latest.outgoing) return undefined;
  const of = `${after.voters.length} voters${after.outgoing.length > 0 ? ` and the ${after.outgoing.length} before them` : ""}`;
  if (voteResult(after, (id) => isActive(s, role, id)) !== "won") {
    return refuse(
      "quorum-at-risk",
      `of the ${of} that would decide, ${missing(isActive)} did not answer lately, and a majority must; ` +
        "new members are to be added as learners first",
    );
  }
  if (voteResult(after, (id) => hasAnswered(s, role, id)) !== "won") {
    return refuse(
      "too-early",
      `of the ${of} that would decide, ${missing(hasAnswered)} did not answer this leader yet, and a majority must`,
    );
  }
  return undefined;

  function missing(isThere: (s: RaftState, role: LeaderRole, id: MemberId) => boolean): string {
    return [...votersOf(after)].filter((id) => !isThere(s, role, id)).join(", ");
  }
}

/** Starts handing leadership to a voter; it ends with a new leader, or after an election timeout with this one. */
export function startTransfer(s: RaftState, role: LeaderRole, to: MemberId): ProposeResult {
  if (to === s.id) return { kind: "accepted", index: s.log.lastIndex(), term: s.term };
  const progress = role.progress.get(to);
  if (progress === undefined || !votersOf(s.history.latest).has(to)) {
    return refuse("invalid-change", `member ${to} is not a voter`);
  }
  role.transferTo = to;
  role.transferElapsed = 0;
  progress.nudge = true;
  role.flushDue = true;
  finishTransfer(s, role);
  return { kind: "accepted", index: s.log.lastIndex(), term: s.term };
}

export function addRead(s: RaftState, role: LeaderRole, ctx: number): ProposeResult {
  if (!role.reads.add({ ctx, from: s.id })) {
    return refuse("too-many-reads", `${s.options.maxPendingReads} reads wait for confirmation already`);
  }
  role.flushDue = true;
  return { kind: "accepted", index: s.log.commit, term: s.term };
}

/** Counts what is committed now; called when an answer came in or own entries reached the disk. */
export function advanceCommit(s: RaftState, role: LeaderRole): void {
  const reached = reachedByQuorum(s.history.latest, (id) => matchOf(s, role, id));
  // Only entries of the own term commit by counting; earlier ones follow (§5.4.2).
  if (reached <= s.log.commit || s.log.term(reached) !== s.term) return;
  s.log.commitTo(reached);
  role.flushDue = true;
  if (s.history.latestIndex <= s.log.commit) onSettled(s, role);
}

/** The latest configuration is committed. */
function onSettled(s: RaftState, role: LeaderRole): void {
  const { latest } = s.history;
  if (latest.outgoing.length > 0) {
    if (latest.leave === "explicit") return;
    const result = changeConfiguration(latest, { kind: "leave" });
    if (result.kind === "changed") append(s, role, "config", encodeConfiguration(result.configuration));
  } else if (!latest.voters.includes(s.id)) stepAside(s, role);
}

/** Sends whatever each peer's window allows; called once per `Ready`. */
export function flush(s: RaftState, role: LeaderRole): void {
  role.flushDue = false;
  if (role.reads.hasWaiting && s.log.commit >= role.termStartIndex) {
    role.reads.startRound(s.log.commit);
    broadcastHeartbeat(s, role);
    confirmReads(s, role); // A single voter is its own quorum.
  }
  for (const [id, progress] of role.progress) {
    if (id === s.id) continue;
    while (sendAppend(s, role, id, progress));
  }
}

/** The transport could not deliver: what was in flight may be gone. */
export function onUnreachable(role: LeaderRole, id: MemberId): void {
  const progress = role.progress.get(id);
  progress?.snapshotMayPass(); // Another process may be there now.
  if (progress?.state === "replicate") progress.becomeProbe();
}

/** The transport is through with a snapshot; on failure the peer is tried again from where it was, after a while if need be. */
export function onSnapshotSent(
  s: RaftState,
  role: LeaderRole,
  { to, transferId }: SnapshotMessage,
  outcome: "sent" | "failed",
): void {
  role.progress.get(to)?.snapshotEnded(transferId, outcome, s.options.electionTicks);
}

/** Entries of this leadership that are handed out as committed make room for proposals. */
export function releaseUncommitted(s: RaftState, role: LeaderRole, committed: readonly Entry[]): void {
  for (const entry of committed) {
    if (entry.term === s.term && entry.kind !== "empty") role.uncommittedBytes -= entryBytes(entry);
  }
}

function append(s: RaftState, role: LeaderRole, kind: EntryKind, data: Uint8Array): ProposeResult {
  const entry = { term: s.term, index: s.log.lastIndex() + 1, kind, data };
  s.log.append([entry]);
  if (kind !== "empty") role.uncommittedBytes += entryBytes(entry);
  if (kind === "config") {
    s.history.appended([entry]);
    followMembership(s, role);
  }
  role.flushDue = true;
  return { kind: "accepted", index: entry.index, term: entry.term };
}

/** Progress for exactly the members of the latest configuration. */
function followMembership(s: RaftState, role: LeaderRole): void {
  const members = membersOf(s.history.latest);
  for (const id of role.progress.keys()) if (!members.has(id)) role.progress.delete(id);
  for (const id of members) {
    if (role.progress.has(id)) continue;
    const { maxInflightCount, maxInflightBytes } = s.options;
    const limits = { maxCount: maxInflightCount, maxBytes: maxInflightBytes };
    const progress = new Progress(s.log.lastIndex() + 1, limits);
    role.progress.set(id, progress);
  }
  if (role.transferTo !== undefined && !members.has(role.transferTo)) role.transferTo = undefined;
}

function onAppendReply(
  s: RaftState,
  role: LeaderRole,
  progress: Progress,
  { from, index, rejected, hintIndex, hintTerm }: AppendReplyMessage,
): void {
  progress.heard();
  role.flushDue = true;
  if (rejected) {
    // Skip whole terms that cannot match instead of walking back one by one (§5.3).
    const candidate = s.log.findConflict(hintIndex, hintTerm).index + 1;
    progress.rejected(index, candidate);
    return;
  }
  const news = progress.accepted(index);
  switch (progress.state) {
    case "probe":
      progress.becomeReplicate();
      break;
    case "replicate":
      break;
    case "snapshot":
      if (index + 1 >= s.log.firstIndex()) progress.becomeReplicate();
      break;
  }
  if (news) advanceCommit(s, role);
  if (s.role === role && role.transferTo === from) finishTransfer(s, role);
}

function onHeartbeatReply(
  s: RaftState,
  role: LeaderRole,
  progress: Progress,
  { round }: HeartbeatReplyMessage,
): void {
  progress.heard();
  progress.probeSent = false;
  if (progress.match < s.log.lastIndex()) {
    // Either appends are on their way, and the answer to this costs little, or they were lost.
    progress.nudge = true;
    role.flushDue = true;
  }
  if (round > progress.ackedRound) {
    progress.ackedRound = round;
    confirmReads(s, role);
  }
}

function confirmReads(s: RaftState, role: LeaderRole): void {
  const confirmed = reachedByQuorum(s.history.latest, (id) =>
    id === s.id ? role.reads.round : (role.progress.get(id)?.ackedRound ?? 0),
  );
  for (const { ctx, from, index } of role.reads.confirm(confirmed)) {
    if (from === s.id) s.readStates.push({ ctx, index });
    else s.send({ type: "read-reply", from: s.id, to: from, term: s.term, ctx, index });
  }
}

function finishTransfer(s: RaftState, role: LeaderRole): void {
  const to = role.transferTo;
  if (to === undefined || role.progress.get(to)?.match !== s.log.lastIndex()) return;
  s.send({ type: "timeout-now", from: s.id, to, term: s.term });
}

/** Removed by what was just committed: the best successor is told to begin, then this leadership ends. */
function stepAside(s: RaftState, role: LeaderRole): void {
  flush(s, role); // The others learn of the commit from here, or have to wait for the next leader.
  const [successor] = s.history.latest.voters
    .filter((id) => isActive(s, role, id))
    .toSorted((a, b) => matchOf(s, role, b) - matchOf(s, role, a));
  if (successor !== undefined) {
    s.send({ type: "timeout-now", from: s.id, to: successor, term: s.term });
  }
  s.becomeFollower(s.term, undefined);
}

function broadcastHeartbeat(s: RaftState, role: LeaderRole): void {
  role.heartbeatElapsed = 0;
  for (const [id, progress] of role.progress) {
    if (id === s.id) continue;
    // Never beyond what the peer is known to hold: it may not have the rest yet.
    const commit = Math.min(progress.match, s.log.commit);
    s.send({ type: "heartbeat", from: s.id, to: id, term: s.term, commit, round: role.reads.round });
  }
}

function sendAppend(s: RaftState, role: LeaderRole, to: MemberId, progress: Progress): boolean {
  if (progress.state === "snapshot" || (progress.paused && !progress.nudge)) return false;
  const prevIndex = progress.next - 1;
  const prevTerm = s.log.term(prevIndex);
  const maxBytes = Math.min(s.options.maxMessageBytes, progress.inflights.freeBytes);
  const wanted = progress.paused ? [] : s.log.entriesFrom(progress.next, maxBytes);
  if (prevTerm === undefined || wanted === undefined) {
    sendSnapshot(s, role, to, progress);
    return false;
  }
  if (wanted.length === 0 && !progress.nudge && progress.sentCommit >= s.log.commit) return false;
  s.send({
    type: "append",
    from: s.id,
    to,
    term: s.term,
    prevIndex,
    prevTerm,
    entries: wanted,
    commit: s.log.commit,
  });
  progress.sent(wanted);
  progress.sentCommit = Math.min(s.log.commit, prevIndex + wanted.length);
  return wanted.length > 0;
}

function sendSnapshot(s: RaftState, role: LeaderRole, to: MemberId, progress: Progress): void {
  if (!isActive(s, role, to)) return; // Not worth the bytes before it gives a sign of life.
  const { transfer: broken } = progress;
  // What was broken off is resumed as long as the log goes on where it ends.
  const resumes =
    broken !== undefined && broken.ackedBytes > 0 && broken.meta.index + 1 >= s.log.firstIndex();
  const { meta, ackedBytes } = resumes ? broken : { meta: s.log.snapshot(), ackedBytes: 0 };
  if (progress.isResting(meta.index)) return;
  s.snapshotTransfers += 1;
  const id = s.snapshotTransfers;
  const transfer = { id, meta, ackedBytes };
  progress.becomeSnapshot(transfer);
  s.send({ type: "snapshot", from: s.id, to, term: s.term, snapshot: transfer.meta, transferId: id });
}

function quorumIsActive(s: RaftState, role: LeaderRole): boolean {
  return voteResult(s.history.latest, (id) => isActive(s, role, id)) === "won";
}

/** Whether a member was heard from lately; see `RaftState.maxSilentTicks`. */
function isActive(s: RaftState, role: LeaderRole, id: MemberId): boolean {
  if (id === s.id) return true;
  const progress = role.progress.get(id);
  return progress !== undefined && progress.silentTicks <= s.maxSilentTicks;
}

/** As {@link isActive}, without the grace that peers have when a leadership begins or they come in. */
function hasAnswered(s: RaftState, role: LeaderRole, id: MemberId): boolean {
  return id === s.id || (isActive(s, role, id) && role.progress.get(id)?.hasAnswered === true);
}

function matchOf(s: RaftState, role: LeaderRole, id: MemberId): number {
  // Own entries count once they are on disk, like everyone else's.
  return id === s.id ? s.log.stableIndex() : (role.progress.get(id)?.match ?? 0);
}

function refuse(reason: RefusalReason, text: string): ProposeResult {
  return { kind: "refused", reason, text };
}
