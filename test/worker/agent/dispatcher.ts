import { credentials, Server, ServerCredentials } from "@grpc/grpc-js";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { NodeDescription } from "../../../model/node.ts";
import type { TaskState } from "../../../model/task.ts";
import { taskStates } from "../../../model/task.ts";
import { Assignments, DispatcherClient, DispatcherService } from "../../../proto/gen/shoal/dispatcher.ts";
import type {
  DeepPartial,
  ManagerMessage,
  SessionInfo,
  WantedAttachment,
  WorkerMessage,
} from "../../../proto/gen/shoal/dispatcher.ts";
import type { TlsIdentity } from "../../../runtime/tls.ts";
import type { Assignment } from "../../../worker/agent/assignment.ts";

type Stream = ServerDuplexStream<WorkerMessage, ManagerMessage>;

/** A manager's dispatcher on a real port, without the rest of a manager. It leads unless told otherwise. */
export class FakeDispatcher {
  readonly address: string;
  redirectTo: string | undefined;
  /** Complete set that a new session gets; undefined sends none. */
  tasks: readonly Assignment[] | undefined = [];
  extra: DeepPartial<Assignments> = {};
  /** Public keys of the node's tunnels, as this manager tells others. */
  tunnelKeys: string[] = [];
  /** What nodes said of themselves, the last one last. */
  readonly descriptions: NodeDescription[] = [];
  acknowledges = true;
  sessionCount = 0;
  heartbeatCount = 0;
  heartbeatPeriodMs = 100;
  readonly applied: number[] = [];
  /** Every list of containers on networks as it came. */
  readonly attachments: WantedAttachment[][] = [];
  /** Every status as it came: "task=state". */
  readonly seen: string[] = [];
  readonly latest = new Map<
    string,
    { state: TaskState; error: string; containerId: string; exitCode: number | undefined }
  >();
  readonly #server: Server;
  readonly #streams = new Set<Stream>();
  readonly #waiters = new Set<() => void>();
  #sequence = 0;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.address = `127.0.0.1:${port}`;
  }

  /** @param identity - Serves mutual TLS with it, as managers do; without it, plain connections. */
  static async start(identity?: TlsIdentity): Promise<FakeDispatcher> {
    const server = new Server();
    let self: FakeDispatcher | undefined;
    server.addService(DispatcherService, { session: (stream: Stream) => self?.session(stream) });
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync("127.0.0.1:0", serverCredentials(identity), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    self = new FakeDispatcher(server, port);
    return self;
  }

  static connect(address: string): DispatcherClient {
    return new DispatcherClient(address, credentials.createInsecure());
  }

  session(stream: Stream): void {
    stream.on("error", () => undefined); // Clients go as they like.
    stream.on("data", ({ body }: WorkerMessage) => {
      if (body !== undefined) this.#take(stream, body);
      for (const waiter of this.#waiters) waiter();
    });
    stream.on("close", () => this.#streams.delete(stream));
    stream.on("end", () => stream.end());
  }

  /** Sends a difference to every session. */
  send(message: DeepPartial<Assignments>, tasks: readonly Assignment[] = []): void {
    this.#sequence += 1;
    const value = Assignments.fromPartial({
      appliesTo: this.#sequence - 1,
      resultsIn: this.#sequence,
      ...message,
      tasks: tasks.map(printTask),
    });
    for (const stream of this.#streams) stream.write({ body: { $case: "assignments", value } });
  }

  /** Settles when `ready` holds; looked at after every message. */
  async until(what: string, ready: () => boolean): Promise<void> {
    if (ready()) return;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.delete(look);
        reject(new Error(`${what}: not within 10 s; latest ${JSON.stringify([...this.latest])}`));
      }, 10_000);
      const look = (): void => {
        if (!ready()) return;
        clearTimeout(timer);
        this.#waiters.delete(look);
        resolve();
      };
      this.#waiters.add(look);
    });
  }

  untilState(taskId: string, state: TaskState): Promise<void> {
    return this.until(`${taskId} ${state}`, () => this.latest.get(taskId)?.state === state);
  }

  dropSessions(): void {
    for (const stream of this.#streams) stream.end();
    this.#streams.clear();
  }

  async stop(): Promise<void> {
    for (const stream of this.#streams) stream.destroy();
    this.#server.forceShutdown();
  }

  #take(stream: Stream, body: NonNullable<WorkerMessage["body"]>): void {
    switch (body.$case) {
      case "hello":
        this.#describe(body.value.description?.json);
        return this.#open(stream);
      case "heartbeat":
        this.heartbeatCount += 1;
        stream.write({ body: { $case: "heartbeat", value: {} } });
        return;
      case "statuses": {
        for (const status of body.value.statuses) {
          const state = stateOf(status.state);
          this.seen.push(`${status.taskId}=${state}`);
          const { error, containerId, exitCode } = status;
          this.latest.set(status.taskId, { state, error, containerId, exitCode });
        }
        const { sequence } = body.value;
        if (this.acknowledges) stream.write({ body: { $case: "statusAck", value: { sequence } } });
        return;
      }
      case "description":
        return this.#describe(body.value.json);
      case "attachments":
        this.attachments.push(body.value.attachments);
        return;
      case "applied":
        this.applied.push(body.value.sequence);
    }
  }

  #describe(json: Buffer | undefined): void {
    this.descriptions.push(JSON.parse(json?.toString() ?? "{}") as NodeDescription);
  }

  #open(stream: Stream): void {
    if (this.redirectTo !== undefined) {
      stream.write({ body: { $case: "redirect", value: { leaderAddress: this.redirectTo } } });
      stream.end();
      return;
    }
    this.sessionCount += 1;
    this.#streams.add(stream);
    stream.write({ body: { $case: "info", value: this.#info() } });
    if (this.tasks === undefined) return;
    this.#sequence = 1;
    const value = Assignments.fromPartial({
      complete: true,
      resultsIn: 1,
      ...this.extra,
      tasks: this.tasks.map(printTask),
    });
    stream.write({ body: { $case: "assignments", value } });
  }

  /** Tells every session what it should know of the cluster, as managers do whenever that changes. */
  sendInfo(): void {
    for (const stream of this.#streams) stream.write({ body: { $case: "info", value: this.#info() } });
  }

  #info(): SessionInfo {
    return {
      sessionId: `s${this.sessionCount}`,
      heartbeatPeriodMs: this.heartbeatPeriodMs,
      managers: [{ nodeId: "m", address: this.address, leader: true }],
      rootPem: "root",
      desiredRole: "worker",
      certificateGeneration: 0,
      nodeIndex: 1,
      tunnelKeys: this.tunnelKeys,
      clusterId: "c",
    };
  }
}

function serverCredentials(identity: TlsIdentity | undefined): ServerCredentials {
  if (identity === undefined) return ServerCredentials.createInsecure();
  const { rootPem, keyPem, certificatePem } = identity;
  const pair = { private_key: Buffer.from(keyPem), cert_chain: Buffer.from(certificatePem) };
  return ServerCredentials.createSsl(Buffer.from(rootPem), [pair], true);
}

function stateOf(number: number): TaskState {
  const found = Object.entries(taskStates).find(([, value]) => value === number);
  if (found === undefined) throw new Error(`no task state has the number ${number}`);
  return found[0] as TaskState;
}

function printTask(
  task: Assignment,
): DeepPartial<Assignments>["tasks"] extends (infer One)[] | undefined ? One : never {
  return {
    id: task.taskId,
    serviceId: task.serviceId,
    slot: task.slot,
    specVersion: task.specVersion,
    desiredState: task.desiredState,
    revisionJson: Buffer.from(JSON.stringify(task.revision)),
    networks: task.networks.map((network) => ({ ...network, aliases: [...network.aliases] })),
    statusState: task.statusState,
    jobIteration: task.jobIteration,
    ...(task.stopAfterMs !== undefined && { stopAfterMs: task.stopAfterMs }),
  };
}
