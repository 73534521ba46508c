/**
 * Carries what arrives at a published port under the host's IPv6 addresses to a task that has an IPv4 address only, where no rule
 * could translate it. The task sees the host as its caller; connections end with this process.
 */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { connect, createServer, type Server, type Socket } from "node:net";

export interface RelayTarget {
  /** IPv4, asked for with every new caller; undefined: nobody is there. */
  readonly address: () => string | undefined;
  readonly port: number;
}

export interface Relay {
  readonly port: number;
  close(): void;
}

/** Callers of one port at a time; further ones are turned away. */
const callerLimit = 1_024;
const udpIdleMs = 60_000;
const connectTimeoutMs = 10_000;
const keepAliveMs = 60_000;

/** @param port - 0 for any. @throws what the system says to the address and port. */
export async function relayTcp(host: string, port: number, target: RelayTarget): Promise<Relay> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (caller) => {
    const address = target.address();
    if (address === undefined) return void caller.destroy();
    const task = connect({ host: address, port: target.port, allowHalfOpen: true });
    const end = (): void => {
      caller.destroy();
      task.destroy();
      open.delete(caller);
    };
    open.add(caller);
    task.setTimeout(connectTimeoutMs, end);
    task.once("connect", () => task.setTimeout(0));
    for (const socket of [caller, task]) {
      socket.setKeepAlive(true, keepAliveMs); // Else a caller that vanished keeps its place for ever.
      socket.on("error", end).on("close", end);
    }
    caller.pipe(task);
    task.pipe(caller);
  });
  server.maxConnections = callerLimit;
  await listening(server, host, port);
  const bound = server.address();
  return {
    port: typeof bound === "object" && bound !== null ? bound.port : port,
    close() {
      server.close();
      for (const caller of open) caller.destroy();
    },
  };
}

function listening(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port, ipv6Only: true, exclusive: true }, () => {
      server.off("error", reject).on("error", () => undefined); // An accept that failed changes nothing.
      resolve();
    });
  });
}

/** A caller's own socket towards the task, so that answers find their way back. */
interface UdpCaller {
  readonly socket: UdpSocket;
  readonly timer: NodeJS.Timeout;
}

/** As `relayTcp`; a caller that is silent for a minute is forgotten. */
export async function relayUdp(host: string, port: number, target: RelayTarget): Promise<Relay> {
  const server = createSocket({ type: "udp6", ipv6Only: true });
  const callers = new Map<string, UdpCaller>();
  const forget = (key: string): void => {
    const caller = callers.get(key);
    if (caller === undefined) return;
    callers.delete(key);
    clearTimeout(caller.timer);
    caller.socket.close();
  };
  server.on("message", (bytes, from) => {
    const key = `${from.address} ${from.port}`;
    const address = target.address();
    if (address === undefined) return;
    let caller = callers.get(key);
    if (caller === undefined) {
      if (callers.size >= callerLimit) return;
      const socket = createSocket("udp4");
      socket.on("message", (answer) => {
        callers.get(key)?.timer.refresh();
        server.send(answer, from.port, from.address, () => undefined); // Refused: the caller is gone, or asks again.
      });
      socket.on("error", () => forget(key));
      const timer = setTimeout(() => forget(key), udpIdleMs);
      timer.unref();
      caller = { socket, timer };
      callers.set(key, caller);
    }
    caller.timer.refresh();
    caller.socket.send(bytes, target.port, address, () => undefined);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      server.close();
      reject(cause);
    });
    server.bind({ port, address: host, exclusive: true }, () => {
      server.removeAllListeners("error").on("error", () => undefined);
      resolve();
    });
  });
  return {
    port: server.address().port,
    close() {
      server.close();
      for (const key of callers.keys()) forget(key);
    },
  };
}
