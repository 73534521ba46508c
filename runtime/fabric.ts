import { connect, type NatsConnection } from "@nats-io/transport-node";
import { ClusterError, errorText } from "../model/errors.ts";
import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";
import { runLoop } from "./loop.ts";
import type { Random } from "./random.ts";
import { aborted } from "./signal.ts";
import { managerServerName } from "./grpc.ts";
import { type TlsKeeper, tlsVersion } from "./tls.ts";

/** Where nats-server listens on every manager. */
export const fabricPort = 4222;
const connectTimeoutMs = 2_000;
const lookEveryMs = 250;
const pingEveryMs = 5_000;
const reconnectDelays = { firstMs: 100, limitMs: 3_000, factor: 2, jitterRatio: 0.5 } as const;

export interface FabricDeps {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface FabricTarget {
  readonly nodeId: string;
  readonly tls: TlsKeeper;
  /** Address of the manager to talk to, no port: the leader, as far as is known. */
  host(): string | undefined;
  /** 4222 unless a test says otherwise. */
  readonly port?: number;
}

/**
 * One connection to the nats-server beside the leader, made anew when the leader moves or it breaks. Nothing waits for
 * it: what needs it asks for `connection` and fails at once while there is none.
 */
export class FabricLink {
  readonly #deps: FabricDeps;
  readonly #target: FabricTarget;
  #connection: NatsConnection | undefined;

  constructor(deps: FabricDeps, target: FabricTarget) {
    this.#deps = deps;
    this.#target = target;
  }

  /** @throws {ClusterError} `unavailable` while there is no connection. */
  get connection(): NatsConnection {
    if (this.#connection === undefined) {
      throw new ClusterError(
        "unavailable",
        "no connection to the telemetry fabric (nats-server on the leader); try again shortly",
      );
    }
    return this.#connection;
  }

  /**
   * Keeps the connection until the signal aborts. Never rejects.
   * @param onConnected - Called with every new connection; its signal aborts when that connection is over.
   */
  run(
    signal: AbortSignal,
    onConnected: (connection: NatsConnection, signal: AbortSignal) => void = () => {},
  ): Promise<void> {
    return runLoop(
      this.#deps,
      "telemetry fabric",
      (loop) => this.#connectOnce(loop, onConnected),
      signal,
      reconnectDelays,
    );
  }

  async #connectOnce(
    signal: AbortSignal,
    onConnected: (connection: NatsConnection, signal: AbortSignal) => void,
  ): Promise<void> {
    const { clock, log } = this.#deps;
    while (!signal.aborted) {
      const host = this.#target.host();
      if (host === undefined) {
        await clock.sleep(lookEveryMs, signal).catch(() => undefined);
        continue;
      }
      const connection = await this.#open(host);
      const over = new AbortController();
      const closed = connection.closed().then((reason) => {
        if (reason instanceof Error) log.debug({ error: errorText(reason) }, "telemetry connection closed");
      });
      this.#connection = connection;
      onConnected(connection, over.signal);
      const cancelLook = clock.every(lookEveryMs, () => {
        if (this.#target.host() !== host) void connection.close();
      });
      await Promise.race([closed, aborted(signal)]);
      cancelLook();
      this.#connection = undefined;
      over.abort(new ClusterError("unavailable", "the connection to the telemetry fabric is over"));
      await connection.close();
      await closed;
    }
  }

  async #open(host: string): Promise<NatsConnection> {
    const { nodeId, tls, port = fabricPort } = this.#target;
    const { certificatePem, keyPem, rootPem } = tls.current;
    try {
      return await connect({
        servers: `${host}:${port}`,
        name: nodeId,
        inboxPrefix: inboxPrefix(nodeId),
        timeout: connectTimeoutMs,
        reconnect: false, // The leader may be another by then; the loop looks again.
        pingInterval: pingEveryMs,
        tls: { cert: certificatePem, key: keyPem, ca: rootPem, ...tlsNames },
      });
    } catch (cause) {
      const text = `cannot connect to nats-server on ${host}:${port}: ${errorText(cause)}`;
      throw new ClusterError("unavailable", text, { cause });
    }
  }
}

/** Not in nats' own list of TLS options, but handed to Node's as they are. */
const tlsNames = { servername: managerServerName, minVersion: tlsVersion } as object;

/** Where answers to a node's requests go; only it may listen there. */
export function inboxPrefix(nodeId: string): string {
  return `_INBOX.${nodeId}`;
}

/** Subjects of the fabric; what a node may publish carries its id, so that permissions are fixed per node. */
export const subjects = {
  /** Requests for a node's log lines. */
  logRequests: (nodeId: string): string => `shoal.logs.${nodeId}`,
  /** Questions to a node about the networks it shares with others. */
  networkChecks: (nodeId: string): string => `shoal.network.${nodeId}`,
  /** Chunks of one request. */
  logChunks: (nodeId: string, requestId: string): string => `shoal.log.${nodeId}.${requestId}`,
} as const;

/**
 * The answer to a chunk of log lines whose reader takes none at the moment; an empty answer asks for the next. The node
 * keeps what it has and asks again with an empty chunk, so a reader may pause for as long as it likes.
 */
export const logWait = Uint8Array.of(1);
