import { createApi, type Api } from "../../../manager/api/server.ts";
import type { ApiDeps } from "../../../manager/api/deps.ts";
import type { Store } from "../../../manager/store/store.ts";
import { createTask } from "../../../manager/store/revisions.ts";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import { predefinedLabel } from "../../../model/network.ts";
import type { TaskState } from "../../../model/task.ts";
import type { LogLine } from "../../../proto/telemetry.ts";
import type { Clock } from "../../../runtime/clock.ts";
import { newId, seededRandom } from "../../../runtime/random.ts";
import { loneStore } from "../../sim/lone-store.ts";
import { clusterObject, networkObject, nodeObject } from "../../sim/objects.ts";

export interface Harness {
  readonly api: Api;
  readonly deps: ApiDeps;
  readonly store: Store;
  /** What the next `logs` call yields; its arguments land in `logCalls`. */
  readonly logLines: LogLine[];
  readonly logCalls: unknown[];
  /** Plays orchestrator, scheduler and agent: every service gets its tasks, running. */
  fillTasks(state?: TaskState): Promise<void>;
}

export interface HarnessOptions {
  readonly clock: Clock;
  readonly cluster?: Partial<ApiDeps["cluster"]>;
  readonly forward?: ApiDeps["forward"];
  readonly certificatePem?: string;
}

export async function makeHarness({
  clock,
  cluster,
  forward,
  certificatePem,
}: HarnessOptions): Promise<Harness> {
  const { store } = loneStore(clock);
  const random = seededRandom(7);
  const logLines: LogLine[] = [];
  const logCalls: unknown[] = [];
  const nodes = await store.update((tx) => {
    const plain = clusterObject();
    tx.clusters.create({ ...plain, ca: { certificatePem: certificatePem ?? "", keyPem: "secret key" } });
    const leader = nodeObject("m1", { spec: { role: "manager" } });
    tx.nodes.create({
      ...leader,
      role: "manager",
      member: { address: "10.9.0.1:2377", raftAddress: "10.9.0.1:2378" },
    });
    const worker = nodeObject("w1", { subnets: ["172.30.0.0/16", "fd00:30::/64"] });
    tx.nodes.create(worker);
    tx.networks.create(networkObject("host", { driver: "host", labels: { [predefinedLabel]: "true" } }));
    tx.networks.create(networkObject("bridge", { driver: "bridge", labels: { [predefinedLabel]: "true" } }));
    return [leader.id, worker.id];
  });
  const [leaderNode] = nodes as [NodeId];
  const deps: ApiDeps = {
    store,
    clock,
    random,
    log: { error: () => {} },
    nodeId: leaderNode,
    cluster: {
      isLeader: () => true,
      leaderAddress: () => "10.9.0.1:2377",
      leaderId: () => leaderNode,
      readBarrier: async () => {},
      reachable: () => true,
      rotateDataKey: async () => 2,
      ...cluster,
    },
    checkNetworks: async () => [],
    forward:
      forward ??
      (() => {
        throw new Error("nothing is forwarded in this test");
      }),
    async *logs(selector, options) {
      logCalls.push({ selector, options });
      yield* logLines;
    },
    joinTokens: {
      rotate(kind, tx) {
        const stored = tx.cluster;
        if (stored === undefined) throw new Error("no cluster");
        tx.clusters.update({ ...stored, joinTokens: { ...stored.joinTokens, [kind]: `new ${kind}` } });
      },
    },
  };
  return {
    api: createApi(deps),
    deps,
    store,
    logLines,
    logCalls,
    async fillTasks(state = "running") {
      await store.update((tx) => {
        for (const service of tx.services.list()) {
          const { mode } = service.spec;
          const count = mode.kind === "replicated" ? mode.replicas : nodes.length;
          const tasks = tx.tasks.byService(service.id);
          for (const task of tasks) {
            const extra = task.slot > count || task.specVersion !== service.specVersion;
            if (extra && task.desiredState === "running") {
              tx.tasks.update({
                ...task,
                desiredState: "shutdown",
                status: { ...task.status, state: "shutdown" },
              });
            }
          }
          for (let slot = 1; slot <= count; slot += 1) {
            const has = tasks.some((each) => each.slot === slot && each.specVersion === service.specVersion);
            if (has) continue;
            const nodeId = nodes[slot % nodes.length] as NodeId;
            const created = createTask(tx, service, {
              id: newId<TaskId>(random),
              slot: mode.kind === "replicated" ? slot : 0,
              nodeId,
              desiredState: "running",
            });
            tx.tasks.update({
              ...created,
              status: {
                ...created.status,
                state,
                message: "started",
                containerId: "c0ffee",
                pid: 42,
                ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 32_768 }],
              },
              networks: service.spec.task.networks.map(({ networkId, aliases }) => ({
                networkId,
                aliases,
                address: "10.0.1.5/24",
              })),
            });
          }
        }
      });
    },
  };
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  readonly json: unknown;
}

/** A request the way a client sends it, through the same path as one that a follower passes on. */
export async function ask(
  { api }: Pick<Harness, "api">,
  line: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  const [method = "", url = ""] = line.split(" ");
  const payload = body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body);
  const type = payload === "" ? {} : { "content-type": "application/json" };
  const response = await api.inject({
    method,
    url,
    headers: { ...type, ...headers },
    body: Buffer.from(payload),
  });
  const text = Buffer.from(response.body).toString("utf8");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  return { status: response.status, headers: response.headers, text, json };
}

export function messageOf({ json }: Answer): string {
  return (json as { message?: string } | undefined)?.message ?? "";
}

export function idOf({ json }: Answer): ServiceId {
  const { ID, Id } = json as { ID?: string; Id?: string };
  return (ID ?? Id ?? "") as ServiceId;
}
