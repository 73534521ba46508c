/**
 * Tells containers of the shims that their groups have, by files which the daemon's script reads where containerd asks for a
 * shim. Where containerd is somebody else's, nobody reads them.
 */
import { createHash } from "node:crypto";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { containerdNamespace, type HostSettings, shimAddressDirectory } from "../../proto/host.ts";
import { socketAnswers } from "../../runtime/unix-socket.ts";
import type { ShimAddresses } from "./shims.ts";

/** containerd's for every shim of a machine; where another version has another one, no shim answers and none is offered. */
const socketDirectory = "/run/containerd/s";

export class SocketAddresses implements ShimAddresses {
  readonly #containerd: string;
  readonly #directory: string;
  readonly #answers: (path: string) => Promise<boolean>;

  /** @param settings - The socket is part of what its shims are named by. */
  constructor(settings: Pick<HostSettings, "containerd" | "runDir">, answers = socketAnswers) {
    this.#containerd = settings.containerd;
    this.#directory = shimAddressDirectory(settings);
    this.#answers = answers;
  }

  async offer(id: string, group: string): Promise<boolean> {
    const socket = shimSocket(this.#containerd, group);
    if (!(await this.#answers(socket))) {
      await this.withdraw(id); // Of a worker that was killed, and of a shim that has ended since.
      return false;
    }
    // Without it the shim is found as by any other client of containerd.
    await writeFile(join(this.#directory, id), `unix://${socket}\n`, { mode: 0o600 }).catch(() => {});
    return true;
  }

  async withdraw(id: string): Promise<void> {
    await rm(join(this.#directory, id), { force: true }).catch(() => {});
  }
}

/** As containerd's shims name their sockets (SocketAddress in runtime/v2/shim). */
export function shimSocket(containerd: string, group: string): string {
  const name = createHash("sha256")
    .update(join(containerd, containerdNamespace, group))
    .digest("hex");
  return join(socketDirectory, name);
}
