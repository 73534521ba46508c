import { Server, ServerCredentials } from "@grpc/grpc-js";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { ContentService } from "../../../proto/gen/containerd/content.ts";
import { writeBlob } from "../../../worker/engine/blobs.ts";
import { Connection } from "../../../worker/engine/connection.ts";

t.test(
  "a write that was given up before it began is an error of its caller and of nobody else",
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "shoal-blobs-"));
    const socket = join(directory, "containerd.sock");
    const server = new Server();
    server.addService({ write: ContentService.write }, { write: () => undefined });
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    const connection = new Connection(socket);
    t.teardown(async () => {
      connection.close();
      server.forceShutdown();
      await rm(directory, { recursive: true });
    });
    await connection.ready();
    const stop = new AbortController();
    stop.abort(new Error("no longer wanted"));
    async function* source(): AsyncGenerator<Buffer> {}
    const blob = { digest: `sha256:${"0".repeat(64)}`, size: 1, lease: "l", source };
    await t.rejects(writeBlob(connection, blob, stop.signal), { message: "no longer wanted" });
    await connection.ready(); // Time for a late error of the stream, which would end the process.
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
  },
);
