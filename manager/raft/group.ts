import type { RaftOptions } from "raft-ts";
import type { ClusterError } from "../../model/errors.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";

/** One manager as the consensus group knows it. */
export interface GroupMember {
  /** Unique for all time; a node that joins again gets a new one (docs/decisions/0011). */
  readonly memberId: string;
  readonly nodeId: NodeId;
  /** "ip:port" of its peer listener. */
  readonly raftAddress: string;
  /** Learners receive everything and count for nothing; the leader promotes them once they caught up. */
  readonly suffrage: "voter" | "learner";
}

export interface GroupMemberStatus extends GroupMember {
  readonly self: boolean;
  readonly leader: boolean;
  /** Whether the one that tells this has a stream to it, which ends after 3 s without an answer; always of itself. */
  readonly reachable: boolean;
}

export interface GroupStatus {
  readonly memberId: string;
  readonly role: "follower" | "pre-candidate" | "candidate" | "leader";
  readonly term: number;
  readonly leaderId: NodeId | undefined;
  readonly commitIndex: number;
  readonly appliedIndex: number;
  /** Durable writes of the log since the start: many entries share one. */
  readonly logSyncs: number;
  /** Committed membership; empty before this member has heard of any. */
  readonly members: readonly GroupMemberStatus[];
}

export interface CommittedEntry {
  readonly index: number;
  readonly term: number;
  readonly data: Uint8Array;
  /** Set when this process proposed it and has not been told otherwise. */
  readonly proposalId?: number;
}

/** In log order; indexes may skip (elections and membership have entries of their own) and never repeat or fall. */
export type RaftEvent =
  /** Everything up to `index` is now known; `entries` is empty when only elections or membership moved it. */
  | { readonly kind: "committed"; readonly index: number; readonly entries: readonly CommittedEntry[] }
  /**
   * Replaces everything applied so far; the first event after a restart when there was a snapshot. The data comes in
   * parts, cut anywhere, and is to be read to its end before the next event is asked for.
   */
  | { readonly kind: "snapshot"; readonly index: number; readonly data: AsyncIterable<Uint8Array> }
  /** `isSelf` comes only after every entry of earlier terms was in a `committed` event. */
  | {
      readonly kind: "leader";
      readonly leaderId: NodeId | undefined;
      readonly term: number;
      readonly isSelf: boolean;
    }
  /** The committed membership, after each change. */
  | { readonly kind: "membership"; readonly members: readonly GroupMember[] }
  /**
   * Last event: this member has stopped for good. `removed` when the group took it out, so that its state may be
   * deleted; otherwise the error says what to do.
   */
  | { readonly kind: "failed"; readonly error: ClusterError; readonly removed: boolean };

export type MembershipChange =
  /** Takes the place of an older member of the same node. Becomes a voter by itself once it caught up. */
  | {
      readonly kind: "add";
      readonly nodeId: NodeId;
      readonly memberId: string;
      readonly raftAddress: string;
    }
  /** As `add`, and stays a learner. */
  | {
      readonly kind: "add-learner";
      readonly nodeId: NodeId;
      readonly memberId: string;
      readonly raftAddress: string;
    }
  | { readonly kind: "promote"; readonly nodeId: NodeId }
  /** Refused (`failed-precondition`) when too few reachable members would be left. */
  | { readonly kind: "remove"; readonly nodeId: NodeId }
  | { readonly kind: "update"; readonly nodeId: NodeId; readonly raftAddress: string };

/** What a node shows to its peers: PEM texts; the subject is CN node id, OU `swarm-manager`, O cluster id. */
export interface PeerIdentity {
  readonly certificatePem: string;
  readonly keyPem: string;
  readonly rootPem: string;
}

/** How often a snapshot is taken, and how much of the log stays behind it. Each member has its own. */
export interface LogLimits {
  /** A snapshot is asked for after this many applied entries, if they have as many bytes as the last one. Default 10,000. */
  readonly snapshotEntries?: number;
  /** Entries kept behind a snapshot for followers that are a little slow. Default 500. */
  readonly keepEntries?: number;
}

export interface RaftGroupOptions extends LogLimits {
  /** Own directory for log, snapshots, member id and data key; made if it is not there. */
  readonly directory: string;
  readonly nodeId: NodeId;
  readonly clusterId: ClusterId;
  readonly identity: PeerIdentity;
  /** Where the peer listener binds, and the "ip:port" that others are told. */
  readonly listenHost: string;
  readonly listenPort: number;
  readonly raftAddress: string;
  /**
   * `bootstrap` founds a group of one; `join` starts empty and waits for the leader (it must be added under
   * `memberId`); `restart` refuses when there is no state. With state on disk the first two act as `restart`.
   * `force-new-cluster` is a restart after which this member is the whole group, whatever the others do: the way out when
   * a majority is lost for good. Not to be repeated with the next start: it would throw out who has joined since.
   */
  readonly start: "bootstrap" | "join" | "restart" | "force-new-cluster";
  /** Default 20. */
  readonly tickMs?: number;
  /** Default 2. */
  readonly heartbeatTicks?: number;
  /** Default 10: elections begin after 10 to 19 silent ticks. */
  readonly electionTicks?: number;
  /** A snapshot is asked for also after this many bytes of them, with their envelopes. Default 64 MiB. */
  readonly snapshotBytes?: number;
  /** A last snapshot of at most this size is not compared with what has changed since. Default 1 MiB. */
  readonly smallSnapshotBytes?: number;
  /**
   * Entries kept at most while a follower still needs them. Default 20,000; one that was heard from in the last minutes may hold more, as
   * long as they take no more than twice the last snapshot.
   */
  readonly maxKeepEntries?: number;
  /** Committed entries handed over as `events` and not taken in yet; the next wait in the log. Default 4 MiB. */
  readonly maxHandedBytes?: number;
  /** Of the core, where its defaults are not wanted. */
  readonly coreLimits?: CoreLimits;
}

export type CoreLimits = Pick<
  RaftOptions,
  "maxMessageBytes" | "maxInflightCount" | "maxInflightBytes" | "maxUncommittedBytes"
>;

/**
 * The state of the store as one `committed` event left it, as bytes that a `snapshot` event can later bring back.
 * Called when the log has grown; `atLeast` is an index that was delivered already. The data may come in parts of any size,
 * which are asked for as the disk takes them.
 *
 * @returns The last index the data includes.
 */
export type SnapshotSource = (atLeast: number) => Promise<{
  readonly index: number;
  readonly data: Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}>;

/** Main-thread face of the consensus group; the member itself runs in a thread of its own. */
export interface RaftGroup {
  readonly memberId: string;
  /** One consumer. Ends after `stop()` or a `failed` event. */
  readonly events: AsyncIterable<RaftEvent>;
  /**
   * Settles after the entry was put into `events`. At most {@link maxProposalBytes}; the buffer is transferred when it
   * covers the whole of its `ArrayBuffer`, so it must not be used again.
   *
   * @param proposalId - Comes back in the `committed` event; {@link nextProposalId} gives fresh ones.
   * @throws {ClusterError} `no-leader`: nothing was proposed, or leadership was lost and the outcome is unknown (the
   *   text says which); `resource-exhausted`: too large, or too much in flight.
   */
  propose(data: Uint8Array, signal?: AbortSignal, proposalId?: number): Promise<{ readonly index: number }>;
  nextProposalId(): number;
  /**
   * An index that includes every write acknowledged anywhere before the call; works on every member. Serve the read
   * once a `committed` or `snapshot` event of at least this index has been handled.
   *
   * @throws {ClusterError} `no-leader` when no leader confirms it within the election bound.
   */
  readIndex(signal?: AbortSignal): Promise<number>;
  status(): GroupStatus;
  /** Leader only. Settles once the change is committed. */
  changeMembership(change: MembershipChange, signal?: AbortSignal): Promise<void>;
  /** Leader only. Without a target the most caught-up reachable voter is taken. */
  transferLeadership(to?: NodeId, signal?: AbortSignal): Promise<void>;
  /**
   * Makes a new data key for what this member writes from now on; old keys go with what they sealed.
   *
   * @returns The number of the new key.
   */
  rotateDataKey(signal?: AbortSignal): Promise<number>;
  updateIdentity(identity: PeerIdentity): void;
  /** From now on; a member that has more entries than that asks for a snapshot with the next one it applies. */
  updateLogLimits(limits: Required<LogLimits>): void;
  /** Ends thread and listener; the state stays on disk. */
  stop(): Promise<void>;
}

/** Largest proposal. */
export const maxProposalBytes = 1.5 * 1024 * 1024;
