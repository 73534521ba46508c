/** A registry in the test's process, which may cut, wait or lie. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer, type ServerOptions } from "node:https";
import type { AddressInfo } from "node:net";
import type { Test } from "tap";

import type { Image } from "../lab/image.ts";

export type Handler = (request: IncomingMessage, response: ServerResponse, next: () => void) => void;

export interface FakeRegistry {
  readonly host: string;
  readonly seen: string[];
}

/** A registry that has one image as "test/image:1"; `handler` may answer in its place. */
export async function serveImage(
  t: Test,
  image: Image,
  handler: Handler,
  tls?: ServerOptions,
): Promise<FakeRegistry> {
  const seen: string[] = [];
  const blobs = new Map([...image.layers, image.config, image.manifest].map((blob) => [blob.digest, blob]));
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    const range = request.headers.range === undefined ? "" : ` ${request.headers.range}`;
    seen.push(`${request.method} ${request.url}${range}`);
    handler(request, response, () => {
      const asked = request.url?.split("/").at(-1) ?? "";
      const blob = asked === "1" ? image.manifest : blobs.get(asked);
      if (blob === undefined) return response.writeHead(404).end();
      const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(start > 0 ? 206 : 200, {
        "content-type": blob.mediaType,
        "content-length": blob.data.length - start,
        "docker-content-digest": blob.digest,
      });
      return response.end(request.method === "HEAD" ? undefined : blob.data.subarray(start));
    });
  };
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  await new Promise<void>((resolve) => server.listen(0, "0.0.0.0", resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

/** Something that one part of a test waits for and another brings about. */
export function createGate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}
