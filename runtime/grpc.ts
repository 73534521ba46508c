import type { ChannelOptions, ConnectionInjector, Server } from "@grpc/grpc-js";
import { Server as GrpcServer, ServerCredentials } from "@grpc/grpc-js";
import { createServer as createTcpServer, type Server as TcpServer, type Socket } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import type { Clock } from "./clock.ts";
import { type HandshakePace, HandshakeQueue, OpenHandshakes } from "./handshakes.ts";
import type { Log } from "./log.ts";
import { type Peer, peerOfSocket, serverContextOptions, type TlsKeeper } from "./tls.ts";

/** Largest message, either way; senders cut what could be larger into pieces. */
export const messageLimitBytes = 8 * 1024 * 1024;
const handshakeTimeoutMs = 10_000;
const connectionLimit = 20_000;
/**
 * Of connections without a certificate that we believe: joiners, who are done within seconds, and whoever finds the port. Each costs
 * some 100 kB, so they may be neither many nor long, and never keep a node from its manager.
 */
const defaultStrangers: StrangerLimits = { count: 1_024, lifeMs: 30_000, handshakes: 8_192 };
/** How long streams may take to end by themselves when a listener closes. */
const drainMs = 500;

/** The names every manager's certificate carries besides its node id. */
export const managerServerName = "swarm-manager";

const limits = {
  "grpc.enable_channelz": 0,
  "grpc.max_receive_message_length": messageLimitBytes,
  "grpc.max_send_message_length": messageLimitBytes,
} as const;

/** A peer that is silent this long is asked for a sign of life, and given up when none comes in the same time. */
const serverKeepaliveMs = 10_000;
const clientKeepaliveMs = 3_000;

/** Options of every channel between hosts: bounded messages, dead connections noticed, the server's name checked. */
export function channelOptions(serverName: string = managerServerName): ChannelOptions {
  return {
    ...limits,
    "grpc.ssl_target_name_override": serverName,
    "grpc.default_authority": serverName,
    "grpc.keepalive_time_ms": clientKeepaliveMs,
    "grpc.keepalive_timeout_ms": clientKeepaliveMs,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
  };
}

/**
 * What strangers say is a name, a token and a request for a certificate. A message is kept until it is whole, and only then is
 * there a call that can be refused: without these bounds one connection could fill the memory.
 */
const strangerLimits = {
  "grpc.max_receive_message_length": 64 * 1024,
  "grpc.max_concurrent_streams": 4,
} as const;

/** @param callers - Strangers are callers without a certificate that we believe. */
export function createGrpcServer(callers: "nodes" | "strangers" = "nodes"): Server {
  return new GrpcServer({
    ...limits,
    "grpc.keepalive_time_ms": serverKeepaliveMs,
    "grpc.keepalive_timeout_ms": serverKeepaliveMs,
    ...(callers === "strangers" && strangerLimits),
  });
}

interface StrangerLimits {
  readonly count: number;
  readonly lifeMs: number;
  /** Of one address, that are not over. Far below the number of all connections, and enough for a fleet behind one address. */
  readonly handshakes: number;
}

/** A gRPC listener on which callers with and without a certificate are told apart. */
export interface GrpcListener {
  /** As bound; differs from what was asked for when that was 0. */
  readonly port: number;
  /** Who makes a call; `refused` when the connection is already gone. */
  peerOf(call: { getPeer(): string }): Peer;
  close(): Promise<void>;
}

/**
 * Serves `server` over TLS 1.3 on one port. Client certificates are asked for and verified but not demanded, since
 * joiners have none; each handler must ask `peerOf`. The certificate follows `keeper`.
 *
 * grpc-js can only demand certificates or never ask for them, so the TLS server is ours and hands it open connections.
 *
 * @throws The system's error when the address cannot be bound.
 */
export async function listenGrpc(options: {
  readonly server: Server;
  /** Serves callers without a certificate that we believe, within narrower limits; absent: they are turned away. */
  readonly strangerServer?: Server;
  /** Whether a peer may make gRPC calls here; who may not is turned away before it can make one. Absent: everybody may. */
  readonly admits?: (peer: Peer) => boolean;
  readonly keeper: TlsKeeper;
  readonly host: string;
  readonly port: number;
  readonly log: Log;
  /** Protocols (ALPN names) other than gRPC that are served on the same port, behind the same handshake. */
  readonly protocols?: ReadonlyMap<string, (socket: TLSSocket, peer: Peer) => void>;
  readonly strangers?: StrangerLimits;
  /** Absent: handshakes begin as connections come. */
  readonly pace?: HandshakePace & { readonly clock: Clock };
}): Promise<GrpcListener> {
  const { server, strangerServer, keeper, log, strangers = defaultStrangers, admits = () => true } = options;
  const { protocols = new Map<string, never>() } = options;
  let strangerCount = 0;
  const injector: ConnectionInjector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const strangerInjector = strangerServer?.createConnectionInjector(ServerCredentials.createInsecure());
  const peers = new Map<string, Peer>();
  const sockets = new Set<TLSSocket>();
  const tls = createServer({
    ...serverContextOptions(keeper.current),
    requestCert: true,
    rejectUnauthorized: false,
    ALPNProtocols: ["h2", ...protocols.keys()],
    handshakeTimeout: handshakeTimeoutMs,
  });
  const handshakes = new OpenHandshakes(strangers.handshakes);
  tls.on("secureConnection", (socket) => {
    handshakes.end(socket);
    socket.on("error", (error) => log.debug({ error: error.message }, "connection failed"));
    const serve = protocols.get(socket.alpnProtocol || "");
    if (serve === undefined && socket.alpnProtocol !== "h2") {
      socket.destroy();
      return;
    }
    const key = `${socket.remoteAddress}:${socket.remotePort}`; // As grpc-js prints a call's peer.
    const peer = peerOfSocket(socket);
    const door = peer.kind === "verified" ? injector : strangerInjector;
    if (serve === undefined && (door === undefined || !admits(peer))) {
      log.debug({ address: peer.address }, "turned away: not one to make calls here");
      socket.destroy();
      return;
    }
    if (peer.kind !== "verified") {
      if (strangerCount >= strangers.count) {
        log.debug({ address: peer.address }, "too many connections without a certificate");
        socket.destroy();
        return;
      }
      strangerCount += 1;
      const timer = setTimeout(() => socket.destroy(), strangers.lifeMs);
      socket.once("close", () => {
        clearTimeout(timer);
        strangerCount -= 1;
      });
    }
    peers.set(key, peer);
    sockets.add(socket);
    socket.once("close", () => {
      sockets.delete(socket);
      if (peers.get(key) === peer) peers.delete(key);
    });
    socket.setNoDelay(true);
    if (serve === undefined) door?.injectConnection(socket);
    else serve(socket, peer);
  });
  tls.on("tlsClientError", (error) => log.debug({ error: error.message }, "handshake failed"));
  const { pace } = options;
  const queue =
    pace && new HandshakeQueue<Socket>(pace.clock, pace, (socket) => void tls.emit("connection", socket));
  // Paused, so that the handshake finds all that the other end has said.
  const listener: TcpServer =
    queue === undefined ? tls : createTcpServer({ pauseOnConnect: true }, (socket) => queue.add(socket));
  listener.prependListener("connection", (socket) => {
    if (handshakes.begin(socket)) return;
    log.debug({ address: socket.remoteAddress }, "turned away: too many of its handshakes are not over");
    socket.destroy();
  });
  listener.maxConnections = connectionLimit;
  await bind(listener, options.host, options.port);
  listener.on("error", (error) => log.error({ error }, "listener failed"));
  const unwatch = keeper.watch((identity) => tls.setSecureContext(serverContextOptions(identity)));
  const bound = listener.address();
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : options.port,
    peerOf: (call) =>
      peers.get(call.getPeer()) ?? { kind: "refused", address: "", reason: "the connection was closed" },
    async close() {
      unwatch();
      injector.drain(drainMs);
      strangerInjector?.drain(drainMs);
      queue?.close();
      const closed = new Promise<void>((resolve) => {
        listener.close(() => resolve());
      });
      const timer = setTimeout(() => {
        for (const socket of sockets) socket.destroy();
      }, drainMs);
      await closed;
      clearTimeout(timer);
      server.forceShutdown();
      strangerServer?.forceShutdown();
    },
  };
}

function bind(listener: TcpServer, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    listener.once("error", reject);
    listener.listen({ host, port }, () => {
      listener.off("error", reject);
      resolve();
    });
  });
}
