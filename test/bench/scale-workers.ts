/**
 * Simulated workers, thousands in one process. Each has a certificate of its own from the cluster's authority and keeps
 * its session with the agent's own code over a connection of its own; only the engine is missing: a task that is
 * assigned runs at once, and one that is to stop has stopped.
 */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import { type ChannelCredentials, Metadata } from "@grpc/grpc-js";
import * as x509 from "@peculiar/x509";
import type { TaskId } from "../../model/ids.ts";
import type { NodeDescription } from "../../model/node.ts";
import type { TaskState } from "../../model/task.ts";
import { CertificateAuthorityClient, type IssueResponse } from "../../proto/gen/shoal/ca.ts";
import type { Assignments } from "../../proto/gen/shoal/dispatcher.ts";
import { systemClock } from "../../runtime/clock.ts";
import { channelOptions } from "../../runtime/grpc.ts";
import { createLog } from "../../runtime/log.ts";
import { systemRandom } from "../../runtime/random.ts";
import { anonymousChannelCredentials, channelCredentials } from "../../runtime/tls.ts";
import { openDispatcher } from "../../worker/agent/channel.ts";
import { ManagerPool } from "../../worker/agent/managers.ts";
import { Reporter } from "../../worker/agent/reporter.ts";
import { keepSession, SessionLine, StatusSender } from "../../worker/agent/session.ts";

export type WorkersRequest =
  /** Gets a certificate for each, one after another from the first manager. */
  | {
      readonly kind: "certify";
      readonly count: number;
      readonly token: string;
      readonly rootPem: string;
      readonly managers: readonly string[];
    }
  /** Opens all sessions and keeps them. */
  | { readonly kind: "connect" }
  | { readonly kind: "look" };

export interface WorkersView {
  readonly certified: number;
  /** Sessions that are open now. */
  readonly connected: number;
  /** Sessions that were open and ended. */
  readonly lost: number;
  /** Tasks that workers have and are to run. */
  readonly assigned: number;
  /** Of these, those whose status `running` the leader has stored. */
  readonly running: number;
}

export interface WorkersAnswer {
  /** Of the request. */
  readonly id: number;
  readonly view: WorkersView;
  readonly error?: string;
}

const keyAlgorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const issuesUnderWay = 32;
/** Managers end a connection without a certificate after half a minute. */
const issuesAConnection = 500;
/** Real workers have processors of their own; more handshakes at once than this only wait for ours. */
const opensUnderWay = 64;
const openPollMs = 5;
const issueTimeoutMs = 30_000;
const gibibyte = 2 ** 30;

const log = createLog("simulated", "error");
const workers: SimulatedWorker[] = [];
let openCount = 0;
const openNow = (): number => openCount;

process.on("message", ({ id, request }: { readonly id: number; readonly request: WorkersRequest }) => {
  carryOut(request).then(
    () => answer(id),
    (error: unknown) => answer(id, error instanceof Error ? (error.stack ?? error.message) : String(error)),
  );
});
process.on("disconnect", () => process.exit(0));

function answer(id: number, error?: string): void {
  const whole: WorkersAnswer = { id, view: look(), ...(error === undefined ? {} : { error }) };
  process.send?.(whole);
}

async function carryOut(request: WorkersRequest): Promise<void> {
  switch (request.kind) {
    case "certify":
      return certify(request);
    case "connect":
      for (const [started, worker] of workers.entries()) {
        while (started - openNow() >= opensUnderWay) await systemClock.sleep(openPollMs);
        worker.start();
      }
      return;
    case "look":
      return;
  }
}

/** They share a key, since only the certificates are looked at; making thousands would measure something else. */
async function certify(request: WorkersRequest & { readonly kind: "certify" }): Promise<void> {
  const { count, token, rootPem, managers } = request;
  const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ["sign", "verify"]);
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: keyAlgorithm });
  const csrPem = csr.toString("pem");
  const pkcs8 = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
  const keyPem = `${x509.PemConverter.encode(pkcs8, "PRIVATE KEY")}\n`;
  const issue = async (authority: CertificateAuthorityClient, hostname: string): Promise<void> => {
    const message = { csrPem, token, availability: "active", hostname, nowMs: Date.now() };
    const { certificatePem, nodeId } = await new Promise<IssueResponse>((resolve, reject) => {
      const options = { deadline: Date.now() + issueTimeoutMs };
      authority.issue(message, new Metadata(), options, (error, response) => {
        if (error === null) resolve(response);
        else reject(error);
      });
    });
    const credentials = channelCredentials({ certificatePem, keyPem, rootPem });
    workers.push(new SimulatedWorker({ nodeId, hostname, credentials, managers }));
  };
  const hostnames = Array.from({ length: count }, (_, index) => `worker-${workers.length + index}`);
  while (hostnames.length > 0) {
    const authority = new CertificateAuthorityClient(
      managers[0] ?? "",
      anonymousChannelCredentials(rootPem),
      channelOptions(),
    );
    const batch = hostnames.splice(0, issuesAConnection).values();
    try {
      await Promise.all(
        Array.from({ length: issuesUnderWay }, async () => {
          for (const hostname of batch) await issue(authority, hostname);
        }),
      );
    } finally {
      authority.close();
    }
  }
}

function look(): WorkersView {
  const view = { certified: workers.length, connected: 0, lost: 0, assigned: 0, running: 0 };
  for (const worker of workers) {
    if (worker.isOpen) view.connected += 1;
    view.lost += worker.lostCount;
    view.assigned += worker.taskCount;
    view.running += worker.runningCount;
  }
  return view;
}

class SimulatedWorker {
  readonly #hostname: string;
  readonly #credentials: ChannelCredentials;
  readonly #managers: ManagerPool;
  readonly #line = new SessionLine();
  readonly #sender = new StatusSender(systemClock, this.#line);
  readonly #reporter: Reporter = new Reporter(() => this.#sender.schedule(this.#reporter));
  readonly #tasks = new Set<TaskId>();
  #sequence = 0;
  isOpen = false;
  lostCount = 0;

  constructor(options: {
    readonly nodeId: string;
    readonly hostname: string;
    readonly credentials: ChannelCredentials;
    readonly managers: readonly string[];
  }) {
    this.#hostname = options.hostname;
    this.#credentials = options.credentials;
    this.#managers = new ManagerPool(options.managers);
  }

  get taskCount(): number {
    return this.#tasks.size;
  }

  get runningCount(): number {
    return Math.max(0, this.#tasks.size - this.#reporter.unacknowledgedCount);
  }

  start(): void {
    const deps = {
      clock: systemClock,
      random: systemRandom,
      log,
      managers: this.#managers,
      reporter: this.#reporter,
      connect: (address: string) => openDispatcher(address, this.#credentials),
    };
    const handlers = {
      description: () => this.#description(),
      dataPathAddress: "127.0.0.1",
      onInfo: (info: { readonly managers: readonly { readonly address: string }[] }): void => {
        if (!this.isOpen) openCount += 1;
        this.isOpen = true;
        this.#managers.replace(info.managers.map(({ address }) => address));
      },
      onAssignments: (message: Assignments) => this.#take(message),
      onRefusal: () => undefined,
      onEnd: () => {
        this.isOpen = false;
        openCount -= 1;
        this.lostCount += 1;
      },
    };
    void keepSession(deps, handlers, this.#line, new AbortController().signal); // Never rejects; ends with us.
  }

  #take(message: Assignments): "taken" | "gap" {
    if (!message.complete && message.appliesTo !== this.#sequence) return "gap";
    if (!message.more) this.#sequence = message.resultsIn;
    for (const { id, desiredState } of message.tasks) {
      const taskId = id as TaskId;
      if (desiredState === "running" || desiredState === "complete") {
        if (this.#tasks.has(taskId)) continue;
        this.#tasks.add(taskId);
        this.#report(taskId, "running", "started");
      } else if (desiredState !== "ready") {
        this.#tasks.delete(taskId);
        this.#report(taskId, "shutdown", "shutdown");
      }
    }
    for (const id of message.removedTasks) {
      this.#tasks.delete(id as TaskId);
      this.#reporter.forget(id as TaskId);
    }
    return "taken";
  }

  #report(taskId: TaskId, state: TaskState, message: string): void {
    const atMs = Date.now();
    this.#reporter.report(taskId, { state, atMs, message, error: "", appliedAtMs: 0 });
  }

  #description(): NodeDescription {
    return {
      hostname: this.#hostname,
      platform: { architecture: "x86_64", os: "linux" },
      resources: { nanoCpus: 64e9, memoryBytes: 256 * gibibyte, generic: {} },
      engineVersion: "0.1.0",
      engineLabels: {},
      plugins: [
        { type: "Log", name: "json-file" },
        { type: "Network", name: "overlay" },
        { type: "Volume", name: "local" },
      ],
    };
  }
}
