export {
  type ConfChange,
  type ConfChangeResult,
  type Reconfiguration,
  bootstrapEntry,
  changeConfiguration,
  decodeConfiguration,
  encodeConfiguration,
  maxDepartedCount,
} from "./confchange.ts";
export { type CompactionInput, compactionIndex } from "./compaction.ts";
export type { ProposeResult, RefusalReason } from "./leader.ts";
export type { SnapshotState } from "./log.ts";
export {
  type AppendMessage,
  type AppendReplyMessage,
  type CatchUpMessage,
  type Configuration,
  type Entry,
  type EntryKind,
  type HardState,
  type HeartbeatMessage,
  type HeartbeatReplyMessage,
  type MemberId,
  type Message,
  RaftInvariantError,
  type ReadMessage,
  type ReadReplyMessage,
  type SnapshotMessage,
  type SnapshotMeta,
  type TimeoutNowMessage,
  type VoteMessage,
  type VoteReplyMessage,
  entryBytes,
  totalBytes,
} from "./message.ts";
export { type PeerStatus, RaftNode, type RaftStatus } from "./node.ts";
export type { ProgressState } from "./progress.ts";
export { type VoteResult, membersOf, reachedByQuorum, voteResult, votersOf } from "./quorum.ts";
export type { ReadState } from "./readindex.ts";
export type { Ready, SoftState, Write } from "./ready.ts";
export { forceSoleVoter } from "./sole-voter.ts";
export type { RaftOptions, RoleKind } from "./state.ts";
export { MemoryStorage, type Storage, emptySnapshot } from "./storage.ts";
