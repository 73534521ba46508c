import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { issueForKey } from "../../manager/ca/issue.ts";
import { createKey, createRoot } from "../../manager/ca/root.ts";
import type { RaftGroupOptions } from "../../manager/raft/group.ts";
import type { ClusterId, NodeId } from "../../model/ids.ts";
import { systemClock } from "../../runtime/clock.ts";
import { systemRandom } from "../../runtime/random.ts";
import { waitFor } from "../lab/shell.ts";
import type { LoadResult, MemberAnswer, MemberRequest, MemberView } from "./raft-member.ts";

const deps = { clock: systemClock, random: systemRandom };
const clusterId = "bench" as ClusterId;
const dayMs = 24 * 3_600_000;
/** `getconf CLK_TCK`: the kernel's unit of a process's time, 100 on every Linux that Node runs on. */
const ticksPerSecond = 100;

/** Three members as processes of this machine, each with its own directory and certificate. */
export class BenchGroup implements AsyncDisposable {
  readonly members: readonly MemberProcess[];
  readonly #directory: string;

  private constructor(members: readonly MemberProcess[], directory: string) {
    this.members = members;
    this.#directory = directory;
  }

  /** @param execArgv - Options of Node for the members, such as `--cpu-prof`. */
  static async start(execArgv: readonly string[] = []): Promise<BenchGroup> {
    const directory = await mkdtemp(join(tmpdir(), "shoal-bench-raft-"));
    const root = await createRoot(deps);
    const names = ["n1", "n2", "n3"];
    const group = new BenchGroup(
      names.map(() => new MemberProcess(execArgv)),
      directory,
    );
    try {
      for (const [at, name] of names.entries()) {
        const nodeId = name as NodeId;
        const { keys, keyPem } = await createKey();
        const subject = { nodeId, clusterId, role: "manager", validityMs: dayMs } as const;
        const certificatePem = await issueForKey(deps, root, keys.publicKey, subject);
        const listenPort = await freePort();
        const options: RaftGroupOptions = {
          directory: join(directory, name),
          nodeId,
          clusterId,
          identity: { certificatePem, keyPem, rootPem: root.certificatePem },
          listenHost: "127.0.0.1",
          listenPort,
          raftAddress: `127.0.0.1:${listenPort}`,
          start: at === 0 ? "bootstrap" : "join",
        };
        const { view } = await group.members[at]!.ask({ kind: "open", options });
        if (at === 0) {
          await group.leader();
          continue;
        }
        const { raftAddress } = options;
        const memberId = view?.memberId ?? "";
        await group.members[0]!.ask({
          kind: "change",
          change: { kind: "add", nodeId, memberId, raftAddress },
        });
      }
      await waitFor("three members vote", { timeoutMs: 20_000 }, async () => {
        const views = await Promise.all(group.members.map((member) => member.look()));
        return views.every(({ voters }) => voters === names.length);
      });
      return group;
    } catch (error) {
      await group[Symbol.asyncDispose]();
      throw error;
    }
  }

  leader(): Promise<MemberProcess> {
    return waitFor("a leader", { timeoutMs: 20_000, everyMs: 10 }, async () => {
      for (const member of this.members) if (member.opened && (await member.look()).isLeader) return member;
      return undefined;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop()));
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** The parent's end of `raft-member.ts`. One request at a time. */
export class MemberProcess {
  readonly #child: ChildProcess;
  opened = false;

  constructor(execArgv: readonly string[]) {
    const entry = new URL("./raft-member.js", import.meta.url);
    this.#child = fork(entry, { execArgv: [...execArgv] });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  ask(request: MemberRequest): Promise<MemberAnswer> {
    return new Promise((resolve, reject) => {
      const onExit = (): void =>
        reject(new Error(`member process ended while it was asked to ${request.kind}`));
      this.#child.once("exit", onExit);
      this.#child.once("message", (answer: MemberAnswer) => {
        this.#child.off("exit", onExit);
        if (answer.error !== undefined) {
          reject(new Error(answer.error));
          return;
        }
        if (request.kind === "open") this.opened = true;
        resolve(answer);
      });
      this.#child.send(request);
    });
  }

  async look(): Promise<MemberView> {
    const { view } = await this.ask({ kind: "look" });
    if (view === undefined) throw new Error("member gave no view");
    return view;
  }

  async load(options: { inFlight: number; bytes: number; ms: number }): Promise<LoadResult> {
    const { load } = await this.ask({ kind: "load", ...options });
    if (load === undefined) throw new Error("member gave no result");
    return load;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || !this.#child.connected) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    await this.ask({ kind: "stop" }).catch(() => this.#child.kill("SIGKILL"));
    await ended;
  }
}

/** Seconds of processor time that these processes have used, all threads, user and kernel. */
export async function cpuSeconds(pids: readonly number[]): Promise<number> {
  let ticks = 0;
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // From field 3, see proc(5).
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / ticksPerSecond;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const bound = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return typeof bound === "object" && bound !== null ? bound.port : 0;
}
