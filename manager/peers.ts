import { Client, connectivityState, Metadata, type ServiceError } from "@grpc/grpc-js";
import { ClusterError, errorText, outcomeUnknownText } from "../model/errors.ts";
import { fromServiceError, isUnanswered } from "../proto/status.ts";
import { channelOptions } from "../runtime/grpc.ts";
import { channelCredentials, type TlsKeeper } from "../runtime/tls.ts";
import { onBehalfHeader } from "./rpc.ts";

/** A manager that does not take a connection in this time is treated as gone; an election takes less. */
const connectTimeoutMs = 1_500;
/**
 * A dial that takes longer is made anew for the next call. A host that lost power answers nothing, and the system asks it again
 * after one second, two, four and so on: it would not be reached for as long once it is back.
 */
const redialMs = 1_000;
/** Managers are few; a list of addresses this long is a mistake. */
const channelLimit = 32;

/** No leader has seen the call, so it may be made again; unlike a `no-leader` whose outcome is unknown. */
export class NoLeaderYet extends ClusterError {
  constructor(message: string, options?: { cause?: unknown }) {
    super("no-leader", message, options);
    this.name = "NoLeaderYet";
  }
}

/** What a manager that does not lead answers to a call that was passed on to it. */
export const notLeadingText = "this manager does not lead";

interface Channel {
  readonly client: Client;
  readonly madeMs: number;
}

/** One channel per address, made on demand, and anew whenever our certificate is replaced or it gets nowhere. */
export class ManagerChannels implements Disposable {
  readonly #keeper: TlsKeeper;
  readonly #unwatch: () => void;
  readonly #channels = new Map<string, Channel>();

  constructor(keeper: TlsKeeper) {
    this.#keeper = keeper;
    this.#unwatch = keeper.watch(() => this.#closeAll());
  }

  /** @param address - "ip:port" of a manager. */
  to(address: string): Client {
    const known = this.#channels.get(address);
    if (known !== undefined && !isStuck(known)) return known.client;
    known?.client.close();
    if (this.#channels.size >= channelLimit) this.#closeAll();
    const client = new Client(address, channelCredentials(this.#keeper.current), {
      ...channelOptions(),
      "grpc.use_local_subchannel_pool": 1, // Or the new one would wait with the old one.
    });
    this.#channels.set(address, { client, madeMs: performance.now() });
    return client;
  }

  #closeAll(): void {
    for (const { client } of this.#channels.values()) client.close();
    this.#channels.clear();
  }

  [Symbol.dispose](): void {
    this.#unwatch();
    this.#closeAll();
  }
}

/** Neither connected nor without need to be, and not because it is new. */
function isStuck({ client, madeMs }: Channel): boolean {
  if (performance.now() - madeMs < redialMs) return false;
  const state = client.getChannel().getConnectivityState(false);
  return state !== connectivityState.READY && state !== connectivityState.IDLE;
}

/** A unary RPC as the generated services describe it. */
interface UnaryMethod<Request, Response> {
  readonly path: string;
  readonly requestStream: false;
  readonly responseStream: false;
  readonly requestSerialize: (request: Request) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

export interface PassOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Whose call is passed on; "" for a caller without a certificate. */
  readonly onBehalf?: string;
}

/**
 * One unary call to another manager.
 *
 * @throws {ClusterError} as the other side meant it; `NoLeaderYet` when no connection was made or the other one does
 *   not lead; `unavailable` when the connection broke and nobody knows.
 */
export async function callManager<Request, Response>(
  client: Client,
  method: UnaryMethod<Request, Response>,
  request: Request,
  { timeoutMs, signal, onBehalf }: PassOptions,
): Promise<Response> {
  signal?.throwIfAborted();
  await connected(client, signal);
  const metadata = new Metadata();
  if (onBehalf !== undefined) metadata.set(onBehalfHeader, onBehalf);
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + timeoutMs };
    const done = (error: ServiceError | null, response?: Response): void => {
      signal?.removeEventListener("abort", onAbort);
      if (error === null && response !== undefined) resolve(response);
      else if (error !== null) reject(signal?.aborted === true ? (signal.reason as Error) : failureOf(error));
    };
    const { path, requestSerialize, responseDeserialize } = method;
    const call = client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      metadata,
      options,
      done,
    );
    const onAbort = (): void => call.cancel();
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

function failureOf(error: ServiceError): ClusterError {
  if (isUnanswered(error)) return new ClusterError("unavailable", outcomeUnknownText, { cause: error });
  const failure = fromServiceError(error);
  const retriable = failure.code === "no-leader" && failure.message === notLeadingText;
  return retriable ? new NoLeaderYet(notLeadingText, { cause: error }) : failure;
}

/** Nothing has been sent before this settles, so whatever ends it leaves the call free to be made again. */
function connected(client: Client, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (cause: unknown): void => {
      reject(new NoLeaderYet(`cannot reach the other manager: ${errorText(cause)}`, { cause }));
    };
    const onAbort = (): void => end(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    client.waitForReady(Date.now() + connectTimeoutMs, (error) => {
      signal?.removeEventListener("abort", onAbort);
      if (error === undefined) resolve();
      else end(error);
    });
  });
}
