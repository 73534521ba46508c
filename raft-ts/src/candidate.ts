import { becomeLeader } from "./leader.ts";
import type { MemberId, Message, VoteReplyMessage } from "./message.ts";
import { voteResult, votersOf } from "./quorum.ts";
import type { RaftState } from "./state.ts";

/** `pre-vote` asks first, `vote` asks for real, `transfer` asks for real because the leader wished it. */
export type CampaignKind = "pre-vote" | "vote" | "transfer";

/** Stands for election; whoever is the only voter wins on the spot. */
export function campaign(s: RaftState, kind: CampaignKind): void {
  if (!s.promotable) return;
  if (kind === "pre-vote") s.becomePreCandidate();
  else s.becomeCandidate();
  const voters = votersOf(s.history.latest);
  // A member outside its own latest configuration asks, and does not count itself.
  if (voters.has(s.id)) {
    countVote(s, s.id, "granted");
    if (s.role.kind === "leader" || (kind === "pre-vote" && s.role.kind !== "pre-candidate")) return;
  }
  for (const to of voters) {
    if (to === s.id) continue;
    s.send({
      type: kind === "pre-vote" ? "pre-vote" : "vote",
      from: s.id,
      to,
      term: kind === "pre-vote" ? s.term + 1 : s.term,
      lastIndex: s.log.lastIndex(),
      lastTerm: s.log.lastTerm(),
      transfer: kind === "transfer",
      ...(kind === "pre-vote" && { round: s.preVoteRounds }),
    });
  }
}

/** Both candidates wait the same way: nobody won, so try again after another random wait. */
export function tickCandidate(s: RaftState): void {
  s.electionElapsed += 1;
  if (s.electionElapsed >= s.electionDeadline) campaign(s, "pre-vote");
}

/** Messages of the candidate's own term, and answers to its questions. */
export function stepCandidate(s: RaftState, message: Message): void {
  switch (message.type) {
    case "pre-vote-reply":
      if (s.role.kind === "pre-candidate" && isAnswer(message, s.term, s.role.round)) {
        countVote(s, message.from, message.granted ? "granted" : "refused");
      }
      return;
    case "vote-reply":
      if (s.role.kind === "candidate") countVote(s, message.from, message.granted ? "granted" : "refused");
      return;
    case "timeout-now":
    case "append":
    case "heartbeat":
    case "snapshot":
    case "pre-vote":
    case "vote":
    case "append-reply":
    case "heartbeat-reply":
    case "read":
    case "read-reply":
    case "catch-up":
      return;
  }
}

/**
 * Consent names the term it is for, and holds for every question of that term. A refusal may be out of date by the next question:
 * whoever refused had a leader, or a longer log which it has sent along.
 */
function isAnswer({ granted, term, round }: VoteReplyMessage, ownTerm: number, ownRound: number): boolean {
  return granted ? term === ownTerm + 1 : round === undefined || round === ownRound;
}

function countVote(s: RaftState, from: MemberId, vote: "granted" | "refused"): void {
  const { role } = s;
  if (role.kind !== "pre-candidate" && role.kind !== "candidate") return;
  if (!role.votes.has(from)) role.votes.set(from, vote === "granted");
  switch (voteResult(s.history.latest, (id) => role.votes.get(id))) {
    case "won":
      if (role.kind === "pre-candidate") campaign(s, "vote");
      else becomeLeader(s);
      return;
    case "lost":
      s.becomeFollower(s.term, undefined);
      return;
    case "pending":
      return;
  }
}
