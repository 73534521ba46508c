/**
 * Published ports of tasks, held by sockets of ours: the rules that translate them would otherwise
 * take the port of any other program on the host, or be given to one later.
 */
import { createSocket } from "node:dgram";
import type { Socket } from "node:dgram";
import { createServer } from "node:net";
import type { Server } from "node:net";

import { ClusterError, errorText } from "../../model/errors.ts";
import { portKey, type PublishedPort } from "../../model/task.ts";

type Holder = Server | Socket;

export class PublishedPorts {
  readonly #held = new Map<string, Holder>();

  /**
   * @param port - `publishedPort` 0 takes a free one from the system's ephemeral range.
   * @returns the same with the number filled in.
   * @throws {ClusterError} `conflict` when another program or task has it.
   */
  async hold(port: PublishedPort): Promise<PublishedPort> {
    if (this.#held.has(portKey(port))) throw taken(port, "by another task");
    if (port.protocol === "sctp") {
      throw new ClusterError(
        "unimplemented",
        `cannot publish port ${port.targetPort}/sctp: tcp and udp are accepted`,
      );
    }
    let bound: { holder: Holder; number: number };
    try {
      bound = await (port.protocol === "tcp" ? holdTcp(port.publishedPort) : holdUdp(port.publishedPort));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "EADDRINUSE") throw taken(port, "by another program");
      const text = `cannot publish port ${port.publishedPort}/${port.protocol}: ${errorText(cause)}`;
      throw new ClusterError("internal", text, { cause });
    }
    const held = { ...port, publishedPort: bound.number };
    this.#held.set(portKey(held), bound.holder);
    return held;
  }

  release(ports: readonly PublishedPort[]): void {
    for (const port of ports) {
      this.#held.get(portKey(port))?.close();
      this.#held.delete(portKey(port));
    }
  }

  close(): void {
    for (const holder of this.#held.values()) holder.close();
    this.#held.clear();
  }
}

function holdTcp(port: number): Promise<{ holder: Holder; number: number }> {
  return new Promise((resolve, reject) => {
    // Only a connection made before the rule is loaded arrives here.
    const server = createServer((socket) => socket.destroy());
    server.once("error", reject);
    server.listen({ port, host: "0.0.0.0", exclusive: true }, () => {
      server.off("error", reject).on("error", () => undefined); // An accept that failed changes nothing.
      const address = server.address();
      resolve({
        holder: server,
        number: typeof address === "object" && address !== null ? address.port : port,
      });
    });
  });
}

function holdUdp(port: number): Promise<{ holder: Holder; number: number }> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
    socket.once("error", (cause) => {
      socket.close();
      reject(cause);
    });
    socket.bind({ port, address: "0.0.0.0", exclusive: true }, () => {
      socket.removeAllListeners("error").on("error", () => undefined); // Nothing is sent or expected here.
      resolve({ holder: socket, number: socket.address().port });
    });
  });
}

function taken({ publishedPort, protocol }: PublishedPort, by: string): ClusterError {
  return new ClusterError(
    "conflict",
    `port ${publishedPort}/${protocol} is already taken on this host ${by}`,
  );
}
