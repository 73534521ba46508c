/** The gRPC channel to containerd: one per engine, which comes back by itself after a restart of containerd. */
import {
  type CallOptions,
  Channel,
  type ClientReadableStream,
  type ClientUnaryCall,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";

import { ClusterError, type ErrorCode, errorText } from "../../model/errors.ts";
import { ContainersClient } from "../../proto/gen/containerd/containers.ts";
import { ContentClient } from "../../proto/gen/containerd/content.ts";
import { DiffClient } from "../../proto/gen/containerd/diff.ts";
import { EventsClient } from "../../proto/gen/containerd/events.ts";
import { ImagesClient } from "../../proto/gen/containerd/images.ts";
import { LeasesClient } from "../../proto/gen/containerd/leases.ts";
import { NamespacesClient } from "../../proto/gen/containerd/namespaces.ts";
import { SnapshotsClient } from "../../proto/gen/containerd/snapshots.ts";
import { TasksClient } from "../../proto/gen/containerd/tasks.ts";
import { VersionClient } from "../../proto/gen/containerd/version.ts";
import { containerdNamespace } from "../../proto/host.ts";

/** A call waits this long for a containerd that is away, then fails with `unavailable`. */
export const connectWaitMs = 10_000;
/** Bound of one call; starting a container on a crowded machine can take many seconds. */
export const callTimeoutMs = 120_000;
/** Layers may be large and disks slow. */
export const unpackTimeoutMs = 1_800_000;

/** A call with all its arguments, as ts-proto's clients have it. */
type UnaryMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

type RequestOf<Method> = Method extends (
  request: infer Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: infer _Callback,
) => ClientUnaryCall
  ? Request
  : never;

type ResponseOf<Method> = Method extends (
  request: infer _Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: infer Response) => void,
) => ClientUnaryCall
  ? Response
  : never;

export interface CallSettings {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Lease that what the call makes belongs to. */
  readonly lease?: string;
}

export class Connection {
  readonly containers: ContainersClient;
  readonly content: ContentClient;
  readonly diff: DiffClient;
  readonly events: EventsClient;
  readonly images: ImagesClient;
  readonly leases: LeasesClient;
  readonly namespaces: NamespacesClient;
  readonly snapshots: SnapshotsClient;
  readonly tasks: TasksClient;
  readonly version: VersionClient;
  readonly #channel: Channel;
  readonly #address: string;
  readonly #metadata: Metadata;
  /** Directory that our own containerd keeps everything in. */
  readonly containerdRoot: string | undefined;
  /** Digests of blobs that are being written into containerd's own files, where its lock keeps nobody else away. */
  readonly filling = new Set<string>();

  constructor(socket: string, containerdRoot?: string) {
    this.containerdRoot = containerdRoot;
    this.#address = socket;
    const address = `unix:${socket}`;
    const plain = credentials.createInsecure();
    this.#channel = new Channel(address, plain, {
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 500,
      "grpc.min_reconnect_backoff_ms": 100,
      "grpc.max_receive_message_length": 16 * 2 ** 20,
      "grpc.enable_retries": 0,
      "grpc.use_local_subchannel_pool": 1,
    });
    const options = { channelOverride: this.#channel };
    this.containers = new ContainersClient(address, plain, options);
    this.content = new ContentClient(address, plain, options);
    this.diff = new DiffClient(address, plain, options);
    this.events = new EventsClient(address, plain, options);
    this.images = new ImagesClient(address, plain, options);
    this.leases = new LeasesClient(address, plain, options);
    this.namespaces = new NamespacesClient(address, plain, options);
    this.snapshots = new SnapshotsClient(address, plain, options);
    this.tasks = new TasksClient(address, plain, options);
    this.version = new VersionClient(address, plain, options);
    this.#metadata = metadataOf();
  }

  /** One call; rejects with the `ServiceError`, whose code the callers read with `statusOf`. */
  async call<Client extends object, Name extends keyof Client & string>(
    client: Client,
    name: Name,
    request: RequestOf<Client[Name]>,
    settings: CallSettings = {},
  ): Promise<ResponseOf<Client[Name]>> {
    // The two conditional types above have read these from the method itself.
    const method = client[name] as UnaryMethod<RequestOf<Client[Name]>, ResponseOf<Client[Name]>>;
    const { signal, timeoutMs = callTimeoutMs } = settings;
    signal?.throwIfAborted();
    if (this.#channel.getConnectivityState(false) !== connectivityState.READY) await this.ready(signal);
    return new Promise((resolve, reject) => {
      const metadata = settings.lease === undefined ? this.#metadata : metadataOf(settings.lease);
      const options = { deadline: Date.now() + timeoutMs };
      const call = method.call(client, request, metadata, options, (error, response) => {
        signal?.removeEventListener("abort", onAbort);
        if (error === null) resolve(response);
        else reject(signal?.aborted === true ? (signal.reason as Error) : error);
      });
      function onAbort(): void {
        call.cancel();
      }
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Metadata and deadline for the streaming calls. */
  streamSettings(settings: CallSettings): [Metadata, Partial<CallOptions>] {
    const { lease, timeoutMs } = settings;
    const options = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
    return [lease === undefined ? this.#metadata : metadataOf(lease), options];
  }

  /** @throws {ClusterError} `unavailable` when containerd has not answered within `connectWaitMs`. */
  async ready(signal?: AbortSignal): Promise<void> {
    const deadlineMs = Date.now() + connectWaitMs;
    for (;;) {
      const state = this.#channel.getConnectivityState(true);
      if (state === connectivityState.READY) return;
      if (state === connectivityState.SHUTDOWN) throw this.#away("the engine is closed");
      const leftMs = deadlineMs - Date.now();
      if (leftMs <= 0) throw this.#away(`no connection within ${connectWaitMs / 1000} s`);
      signal?.throwIfAborted();
      // Short rounds, because watching a channel's state cannot be cancelled.
      const roundMs = Date.now() + Math.min(leftMs, 500);
      await new Promise<void>((resolve) => {
        this.#channel.watchConnectivityState(state, roundMs, () => resolve());
      });
    }
  }

  close(): void {
    this.#channel.close();
  }

  get isClosed(): boolean {
    return this.#channel.getConnectivityState(false) === connectivityState.SHUTDOWN;
  }

  #away(seen: string): ClusterError {
    return new ClusterError(
      "unavailable",
      `cannot reach containerd at ${this.#address}: ${seen}: is containerd running?`,
    );
  }
}

/** The messages of a server stream; `break` cancels the call. */
export function received<Message>(
  stream: ClientReadableStream<Message>,
  signal?: AbortSignal,
): AsyncGenerator<Message> {
  // At once, because nobody may have begun to read, or nobody reads any more, when an error arrives.
  stream.on("error", () => {});
  return messages(stream, signal);
}

async function* messages<Message>(
  stream: ClientReadableStream<Message>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Message> {
  const cancel = (): void => stream.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    if (signal?.aborted === true) cancel();
    for await (const message of stream) yield message as Message;
  } finally {
    signal?.removeEventListener("abort", cancel);
    stream.cancel();
  }
}

/** The gRPC status number of what a call threw; `undefined` for anything else. */
export function statusOf(reason: unknown): number | undefined {
  if (!(reason instanceof Error) || !("code" in reason) || typeof reason.code !== "number") return undefined;
  return reason.code;
}

export function isNotFound(reason: unknown): boolean {
  return statusOf(reason) === status.NOT_FOUND;
}

export function isAlreadyThere(reason: unknown): boolean {
  return statusOf(reason) === status.ALREADY_EXISTS;
}

export function isAway(reason: unknown): boolean {
  return (
    statusOf(reason) === status.UNAVAILABLE ||
    (reason instanceof ClusterError && reason.code === "unavailable")
  );
}

/** The task's shim has ended, as when another task was its last, and with it all that it kept. */
export function isShimGone(reason: unknown): boolean {
  return detailOf(reason).includes("ttrpc: closed");
}

/** containerd's own text, without grpc-js's "13 INTERNAL: " in front. */
export function detailOf(reason: unknown): string {
  if (reason instanceof Error && "details" in reason && typeof reason.details === "string") {
    return reason.details;
  }
  return errorText(reason);
}

const errorCodeOf: Readonly<Record<number, ErrorCode>> = {
  [status.NOT_FOUND]: "not-found",
  [status.ALREADY_EXISTS]: "conflict",
  [status.UNAVAILABLE]: "unavailable",
  [status.DEADLINE_EXCEEDED]: "deadline-exceeded",
  [status.RESOURCE_EXHAUSTED]: "resource-exhausted",
};

/** What a failed call is to those above; `doing` says what was being done. */
export function toEngineError(reason: unknown, doing: string): unknown {
  const code = statusOf(reason);
  if (code === undefined) return reason;
  return new ClusterError(errorCodeOf[code] ?? "internal", `${doing}: ${detailOf(reason)}`, {
    cause: reason,
  });
}

/** Treats as done what is not there, or went with its shim meanwhile; for everything that removes. */
export async function unlessGone(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!isNotFound(error) && !isShimGone(error)) throw error;
  }
}

function metadataOf(lease?: string): Metadata {
  const metadata = new Metadata();
  metadata.set("containerd-namespace", containerdNamespace);
  if (lease !== undefined) metadata.set("containerd-lease", lease);
  return metadata;
}
