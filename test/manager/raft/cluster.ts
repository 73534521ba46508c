import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer } from "node:net";
import { text } from "node:stream/consumers";
import { issueForKey } from "../../../manager/ca/issue.ts";
import { type Root, createKey, createRoot } from "../../../manager/ca/root.ts";
import { openRaftGroup } from "../../../manager/raft/client.ts";
import type {
  GroupMember,
  PeerIdentity,
  RaftEvent,
  RaftGroup,
  RaftGroupOptions,
} from "../../../manager/raft/group.ts";
import type { ClusterId, NodeId } from "../../../model/ids.ts";
import type { NodeRole } from "../../../model/node.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";

const deps = { clock: systemClock, random: systemRandom };
export const clusterId = "testcluster" as ClusterId;
/** Bound of one wait; far above what is needed, so that a slow machine does not fail. */
const waitBoundMs = 20_000;

/** A manager's consensus part with the smallest of state machines: the list of what was committed. */
export class TestNode {
  readonly nodeId: NodeId;
  readonly group: RaftGroup;
  readonly address: string;
  applied: string[] = [];
  appliedIndex = 0;
  snapshotsSeen = 0;
  snapshotsAsked = 0;
  leader: { leaderId: NodeId | undefined; isSelf: boolean } = { leaderId: undefined, isSelf: false };
  members: readonly GroupMember[] = [];
  failure: (RaftEvent & { kind: "failed" }) | undefined;
  readonly #done: Promise<void>;

  constructor(node: { nodeId: NodeId; address: string }, group: RaftGroup, onEvent: () => void) {
    this.nodeId = node.nodeId;
    this.address = node.address;
    this.group = group;
    this.#done = this.#consume(onEvent);
  }

  /** As text lines, so that a snapshot is their JSON. */
  snapshot(): { index: number; data: readonly Uint8Array[] } {
    this.snapshotsAsked += 1;
    return { index: this.appliedIndex, data: [Buffer.from(JSON.stringify(this.applied))] };
  }

  async stop(): Promise<void> {
    await this.group.stop();
    await this.#done;
  }

  async #consume(onEvent: () => void): Promise<void> {
    for await (const event of this.group.events) {
      await this.#apply(event);
      onEvent();
    }
  }

  async #apply(event: RaftEvent): Promise<void> {
    switch (event.kind) {
      case "committed":
        for (const { data } of event.entries) this.applied.push(Buffer.from(data).toString());
        this.appliedIndex = event.index;
        return;
      case "snapshot":
        this.applied = JSON.parse(await text(event.data)) as string[];
        this.appliedIndex = event.index;
        this.snapshotsSeen += 1;
        return;
      case "leader":
        this.leader = event;
        return;
      case "membership":
        this.members = event.members;
        return;
      case "failed":
        this.failure = event;
        return;
    }
  }
}

/**
 * Twice the default: a dozen threads share the processors with other tests here, and what is tested is not how soon a silent
 * leader is replaced.
 */
const tickMs = 40;

/** Managers in this process, each with its own thread, directory, certificate and loopback listener. */
export class TestCluster {
  readonly #directory: string;
  readonly #root: Root;
  readonly #settings: Partial<RaftGroupOptions>;
  readonly #places = new Map<string, { address: string; port: number }>();
  readonly nodes = new Map<string, TestNode>();
  #waiters = new Set<() => void>();

  private constructor(directory: string, root: Root, settings: Partial<RaftGroupOptions>) {
    this.#directory = directory;
    this.#root = root;
    this.#settings = settings;
  }

  static async create(settings: Partial<RaftGroupOptions> = {}): Promise<TestCluster> {
    const directory = await mkdtemp(join(tmpdir(), "shoal-raft-"));
    return new TestCluster(directory, await createRoot(deps), settings);
  }

  directoryOf(name: string): string {
    return join(this.#directory, name);
  }

  async start(name: string, how: RaftGroupOptions["start"]): Promise<TestNode> {
    const nodeId = name as NodeId;
    const place = this.#places.get(name) ?? (await freePort());
    this.#places.set(name, place);
    const holder: { node?: TestNode } = {};
    const group = await openRaftGroup(
      { log: silentLog, logLevel: "error" },
      {
        directory: this.directoryOf(name),
        nodeId,
        clusterId,
        identity: await this.identity(name),
        listenHost: "127.0.0.1",
        listenPort: place.port,
        raftAddress: place.address,
        start: how,
        tickMs,
        ...this.#settings,
      },
      async () => holder.node?.snapshot() ?? { index: 0, data: [] },
    );
    const node = new TestNode({ nodeId, address: place.address }, group, () => this.#changed());
    holder.node = node;
    this.nodes.set(name, node);
    return node;
  }

  /** Starts `names[0]` alone and lets the others join. */
  async startAll(names: readonly string[]): Promise<readonly TestNode[]> {
    const [founder = "", ...others] = names;
    const first = await this.start(founder, "bootstrap");
    await this.until("the founder leads", () => first.leader.isSelf);
    for (const name of others) await this.join(name);
    const nodes = [...this.nodes.values()];
    await this.until("all are voters", () =>
      nodes.every(
        ({ members }) => members.filter(({ suffrage }) => suffrage === "voter").length === names.length,
      ),
    );
    return nodes;
  }

  async join(name: string): Promise<TestNode> {
    const node = await this.start(name, "join");
    const { nodeId, address: raftAddress, group } = node;
    const leader = await this.leader();
    await leader.group.changeMembership({ kind: "add", nodeId, memberId: group.memberId, raftAddress });
    return node;
  }

  /** Ends the thread; the state stays. */
  async kill(name: string): Promise<void> {
    const node = this.nodes.get(name);
    this.nodes.delete(name);
    await node?.stop();
  }

  async leader(): Promise<TestNode> {
    let leader: TestNode | undefined;
    await this.until("there is a leader", () => {
      leader = [...this.nodes.values()].find(({ leader: known }) => known.isSelf);
      return leader !== undefined;
    });
    if (leader === undefined) throw new Error("no leader");
    return leader;
  }

  /** Looks again after every event of any node. */
  until(what: string, check: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.delete(look);
        const state = [...this.nodes.values()].map(({ nodeId, group, applied }) => {
          const { role, term, commitIndex } = group.status();
          return `${nodeId} ${role} t${term} c${commitIndex} applied ${applied.length}`;
        });
        reject(new Error(`waited in vain until ${what}: ${state.join(", ")}`));
      }, waitBoundMs);
      const look = (): void => {
        if (!check()) return;
        clearTimeout(timer);
        this.#waiters.delete(look);
        resolve();
      };
      this.#waiters.add(look);
      look();
    });
  }

  async identity(name: string, role: NodeRole = "manager", root: Root = this.#root): Promise<PeerIdentity> {
    const { keys, keyPem } = await createKey();
    const subject = { nodeId: name as NodeId, clusterId, role, validityMs: 24 * 3_600_000 };
    const certificatePem = await issueForKey(deps, root, keys.publicKey, subject);
    return { certificatePem, keyPem, rootPem: this.#root.certificatePem };
  }

  async close(): Promise<void> {
    await Promise.all([...this.nodes.values()].map((node) => node.stop()));
    await rm(this.#directory, { recursive: true, force: true });
  }

  #changed(): void {
    for (const look of this.#waiters) look();
  }
}

async function freePort(): Promise<{ address: string; port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const bound = server.address();
  const port = typeof bound === "object" && bound !== null ? bound.port : 0;
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return { address: `127.0.0.1:${port}`, port };
}
