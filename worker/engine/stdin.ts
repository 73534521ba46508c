/**
 * Standard input of a process: a FIFO that the shim reads. The shim also holds its writing end, so the
 * process sees an end of input when we say so and not when we end.
 */
import { closeSync, constants, existsSync, openSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { Socket } from "node:net";
import { dirname } from "node:path";

import { assert } from "../../model/errors.ts";
import { runTool } from "../mounts/tool.ts";

export async function makeFifos(paths: readonly string[]): Promise<void> {
  if (paths.length > 0) await runTool("mkfifo", ["-m", "600", "--", ...paths]);
}

export class StdinPipe {
  readonly path: string;
  readonly #close: () => Promise<void>;
  #socket: Socket | undefined;
  #started: boolean;
  #ended = false;
  #tail: Promise<void> = Promise.resolve();

  /** @param close - Tells the shim that nothing more comes. */
  constructor(path: string, started: boolean, close: () => Promise<void>) {
    this.path = path;
    this.#started = started;
    this.#close = close;
  }

  /** Settles once the pipe has taken it: a process that does not read holds its writers up. */
  write(bytes: Uint8Array): Promise<void> {
    this.#tail = this.#tail.then(() => this.#send(bytes));
    return this.#tail;
  }

  /** After what was written so far, the process reads an end of input. */
  end(): Promise<void> {
    this.#tail = this.#tail.then(async () => {
      if (this.#ended) return;
      this.#ended = true;
      if (this.#started) await this.#finish();
    });
    return this.#tail;
  }

  /** What lies in `runDir` is gone after a reboot. */
  async ensure(): Promise<void> {
    if (existsSync(this.path)) return;
    await mkdir(dirname(this.path), { recursive: true, mode: 0o711 });
    await makeFifos([this.path]);
  }

  /** The process is there; what was written before is in the pipe, its end too. */
  async started(): Promise<void> {
    this.#started = true;
    if (this.#ended) await this.#finish();
  }

  /** The process has ended; the next one starts with an open and empty input. */
  reset(): void {
    this.#started = false;
    this.release();
    this.#ended = false;
  }

  release(): void {
    this.#socket?.destroy();
    this.#socket = undefined;
  }

  async remove(): Promise<void> {
    this.release();
    await rm(this.path, { force: true });
  }

  async #send(bytes: Uint8Array): Promise<void> {
    if (this.#ended || bytes.length === 0) return;
    this.#socket ??= openWriter(this.path);
    const socket = this.#socket;
    if (socket.destroyed) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        socket.off("close", done);
        resolve();
      };
      socket.once("close", done);
      socket.write(bytes, done);
    });
  }

  async #finish(): Promise<void> {
    this.release();
    await this.#close();
  }
}

/** Both ways, so that opening never waits for the other side. */
function openWriter(path: string): Socket {
  return socketOf(openSync(path, constants.O_RDWR | constants.O_NONBLOCK), "writable");
}

/** Opened before the shim writes; the end comes once the shim has closed. */
export class OutputPipe {
  #fd: number | undefined;

  constructor(path: string) {
    this.#fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  }

  /** Once, when the shim has opened its side: before, an empty pipe looks like an ended one. */
  connect(): Socket {
    const fd = this.#fd;
    assert(fd !== undefined, "an output pipe is connected once");
    this.#fd = undefined;
    return socketOf(fd, "readable");
  }

  /** For one that was never connected. */
  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function socketOf(fd: number, direction: "readable" | "writable"): Socket {
  const readable = direction === "readable";
  const socket = new Socket({ fd, readable, writable: !readable });
  socket.on("error", () => socket.destroy()); // The process has gone; its end is told elsewhere.
  return socket;
}
