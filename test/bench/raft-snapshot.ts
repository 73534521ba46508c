import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { issueForKey } from "../../manager/ca/issue.ts";
import { type Root, createKey, createRoot } from "../../manager/ca/root.ts";
import { openRaftGroup } from "../../manager/raft/client.ts";
import type { RaftEvent, RaftGroup, RaftGroupOptions } from "../../manager/raft/group.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import { systemClock } from "../../runtime/clock.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { waitFor } from "../lab/shell.ts";
import { type Delay, LoopDelay } from "./loop-delay.ts";
import { freePort } from "./raft-group.ts";

export interface SnapshotFigures {
  readonly bytes: number;
  readonly takeSeconds: number;
  readonly streamSeconds: number;
  readonly restartSeconds: number;
  /** Of the threads that were at work. */
  readonly takeDelay: Delay;
  readonly streamDelay: Delay;
  /** Largest resident size of the process, with both members and what stands for the store in it. */
  readonly peakMemoryBytes: number;
}

const deps = { clock: systemClock, random: systemRandom };
const clusterId = "bench" as ClusterId;
const pieceBytes = 1024 * 1024;
const boundMs = 300_000;
const snapshotEntries = 20;

/** Two members in this process; of the store there is only what it would write: bytes. */
async function measure(bytes: number): Promise<SnapshotFigures> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-bench-snapshot-"));
  const delay = new LoopDelay();
  let peakMemoryBytes = 0;
  const sampling = setInterval(() => {
    peakMemoryBytes = Math.max(peakMemoryBytes, process.memoryUsage.rss());
  }, 20);
  try {
    const root = await createRoot(deps);
    const first = await open({ directory, name: "n1", root, bytes, start: "bootstrap" });
    await waitFor("a leader", { timeoutMs: boundMs, everyMs: 5 }, async () => first.isLeader);
    delay.take();
    const takeBegan = performance.now();
    for (let count = 0; count < snapshotEntries + 5; count += 1) await first.group.propose(Buffer.from("x"));
    await waitFor("the snapshot", { timeoutMs: boundMs, everyMs: 5 }, async () => {
      const names = await readdir(join(directory, "n1", "snapshots")).catch(() => []);
      return names.some((name) => name.endsWith(".snap"));
    });
    const takeSeconds = seconds(takeBegan);
    const takeDelay = delay.take();
    const second = await open({ directory, name: "n2", root, bytes, start: "join" });
    delay.take();
    const streamBegan = performance.now();
    await first.group.changeMembership({ ...second.place, kind: "add", memberId: second.group.memberId });
    await waitFor("its arrival", { timeoutMs: boundMs, everyMs: 5 }, async () => second.readBytes >= bytes);
    const streamSeconds = seconds(streamBegan);
    const streamDelay = delay.take();
    await second.group.stop();
    const restartBegan = performance.now();
    const again = await open({ directory, name: "n2", root, bytes, start: "restart" });
    await waitFor("its return", { timeoutMs: boundMs, everyMs: 5 }, async () => again.readBytes >= bytes);
    const restartSeconds = seconds(restartBegan);
    await again.group.stop();
    await first.group.stop();
    const delays = { takeDelay, streamDelay };
    return { bytes, takeSeconds, streamSeconds, restartSeconds, ...delays, peakMemoryBytes };
  } finally {
    clearInterval(sampling);
    await rm(directory, { recursive: true, force: true });
  }
}

interface OpenMember {
  readonly group: RaftGroup;
  readonly place: { readonly nodeId: NodeId; readonly raftAddress: string };
  isLeader: boolean;
  readBytes: number;
}

async function open(member: {
  directory: string;
  name: string;
  root: Root;
  bytes: number;
  start: RaftGroupOptions["start"];
}): Promise<OpenMember> {
  const { directory, name, root, bytes, start } = member;
  const nodeId = name as NodeId;
  const { keys, keyPem } = await createKey();
  const subject = { nodeId, clusterId, role: "manager", validityMs: 24 * 3_600_000 } as const;
  const certificatePem = await issueForKey(deps, root, keys.publicKey, subject);
  const listenPort = await freePort();
  const raftAddress = `127.0.0.1:${listenPort}`;
  const state = { isLeader: false, readBytes: 0, index: 0 };
  const group = await openRaftGroup(
    { log: createLog(join("bench", name), "error"), logLevel: "error" },
    {
      directory: join(directory, name),
      nodeId,
      clusterId,
      identity: { certificatePem, keyPem, rootPem: root.certificatePem },
      listenHost: "127.0.0.1",
      listenPort,
      raftAddress,
      start,
      snapshotEntries: start === "bootstrap" ? snapshotEntries : 1_000_000,
      keepEntries: 1,
    },
    async () => ({ index: state.index, data: pieces(bytes) }),
  );
  const opened = Object.assign(state, { group, place: { nodeId, raftAddress } });
  void consume(opened).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
  return opened;
}

/** What a store would give: pieces of a megabyte, made as they are taken. */
async function* pieces(bytes: number): AsyncGenerator<Uint8Array> {
  const pattern = systemRandom.bytes(pieceBytes);
  for (let left = bytes; left > 0; left -= pieceBytes) {
    await systemClock.sleep(0);
    yield new Uint8Array(pattern.subarray(0, Math.min(left, pieceBytes)));
  }
}

async function consume(member: OpenMember & { index: number }): Promise<void> {
  for await (const event of member.group.events) await take(member, event);
}

async function take(member: OpenMember & { index: number }, event: RaftEvent): Promise<void> {
  switch (event.kind) {
    case "committed":
      member.index = event.index;
      return;
    case "snapshot":
      for await (const part of event.data) member.readBytes += part.byteLength;
      member.index = event.index;
      return;
    case "leader":
      member.isLeader = event.isSelf;
      return;
    case "failed":
      throw event.error;
    case "membership":
      return;
  }
}

function seconds(sinceMs: number): number {
  return (performance.now() - sinceMs) / 1000;
}

if (process.send !== undefined) {
  const [bytes] = (await once(process, "message")) as [number];
  process.send(await measure(bytes));
  process.disconnect();
}
