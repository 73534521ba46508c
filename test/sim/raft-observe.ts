import { RaftNode, type Ready } from "raft-ts";

let observer: ((node: RaftNode, ready: Ready) => void) | undefined;

const taken = Object.getOwnPropertyDescriptor(RaftNode.prototype, "ready")?.value as (
  this: RaftNode,
) => Ready;

RaftNode.prototype.ready = function (this: RaftNode): Ready {
  const ready = taken.call(this);
  observer?.(this, ready);
  return ready;
};

/** Shows every round of work of every core in this process to one observer, from inside the driver that asks for it. */
export function observeRounds(observe: ((node: RaftNode, ready: Ready) => void) | undefined): void {
  observer = observe;
}
