/** Consensus as a library; see README.md. */
export const packageName = "raft-ts";
