/** One image from containerd to its registry: layers that it lacks, configuration, manifest. */
import type { RegistryAuth } from "../../model/service.ts";
import { ClusterError } from "../../model/errors.ts";
import { Limit } from "../../runtime/limit.ts";
import { readBlob, streamBlob } from "./blobs.ts";
import type { Connection } from "./connection.ts";
import { type ImageContent, parseDetails } from "./image-details.ts";
import { type Descriptor, isForeignLayer, manifestLimitBytes } from "./manifest.ts";
import type { Reference } from "./reference.ts";
import type { Registry } from "./registry.ts";
import { anyOf } from "../../runtime/signal.ts";

const parallelUploads = 4;
const uploadAttempts = 3;

/** Enough to print what `docker push` prints. `layer` is 12 digits of the layer's uncompressed digest. */
export type PushProgress =
  | { readonly kind: "preparing" | "pushed" | "exists" | "foreign"; readonly layer: string }
  | { readonly kind: "mounted"; readonly layer: string; readonly from: string }
  | {
      readonly kind: "pushing";
      readonly layer: string;
      readonly currentBytes: number;
      readonly totalBytes: number;
    };

export interface PushDeps {
  readonly connection: Connection;
  readonly registry: Registry;
  /** Other repositories of the registry that are known to have a blob. */
  readonly holders: ReadonlyMap<string, string>;
}

export interface PushTarget {
  readonly reference: Reference;
  readonly content: ImageContent;
  readonly auth: RegistryAuth | undefined;
}

/** The manifest as the registry has it now. */
export async function pushImage(
  deps: PushDeps,
  { reference, content, auth }: PushTarget,
  report: (progress: PushProgress) => void,
  signal: AbortSignal,
): Promise<Descriptor> {
  const { connection, registry, holders } = deps;
  const { manifest, config, layers, configBytes } = content;
  const { diffIds } = parseDetails(configBytes);
  const shortOf = (index: number): string =>
    (diffIds[index] ?? "").slice("sha256:".length, "sha256:".length + 12);
  // The highest first, as Docker lists them.
  const order = layers.map((layer, index) => ({ layer, short: shortOf(index) })).toReversed();
  for (const { short } of order) report({ kind: "preparing", layer: short });
  const uploads = new Limit(parallelUploads);
  const stop = new AbortController();
  using linked = anyOf(signal, stop.signal);
  const either = linked.signal;
  const work = order.map(({ layer, short }) =>
    uploads
      .run(() => pushLayer(layer, short), either)
      .catch((error: unknown) => {
        stop.abort(error);
        throw error;
      }),
  );
  const outcomes = await Promise.allSettled(work);
  if (stop.signal.aborted) throw stop.signal.reason;
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  await pushBlob(config, () => undefined);
  const bytes = await readBlob(connection, manifest.digest, manifestLimitBytes);
  await registry.putManifest(reference, manifest.mediaType, bytes, auth, signal);
  return manifest;

  async function pushLayer(layer: Descriptor, short: string): Promise<void> {
    // Whoever made the image may not hand these on; the manifest says where they are.
    if (isForeignLayer(layer)) return report({ kind: "foreign", layer: short });
    const outcome = await pushBlob(layer, (currentBytes) =>
      report({ kind: "pushing", layer: short, currentBytes, totalBytes: layer.size }),
    );
    if (typeof outcome === "object") return report({ kind: "mounted", layer: short, from: outcome.from });
    report({ kind: outcome, layer: short });
  }

  async function pushBlob(
    { digest, size }: Descriptor,
    onProgress: (currentBytes: number) => void,
  ): Promise<"pushed" | "exists" | { readonly from: string }> {
    if (await registry.hasBlob(reference, digest, auth, either)) return "exists";
    for (let attempt = 1; ; attempt++) {
      const from = attempt === 1 ? holders.get(digest) : undefined;
      const upload = await registry.beginUpload(reference, { digest, from }, auth, either);
      if (upload === undefined) return { from: from ?? "" };
      try {
        await registry.upload(reference, { ...upload, digest, size, body }, auth, either);
        return "pushed";
      } catch (error) {
        either.throwIfAborted();
        if (attempt >= uploadAttempts || !(error instanceof ClusterError) || error.code !== "unavailable")
          throw error;
      }
    }

    async function* body(): AsyncGenerator<Buffer> {
      let sentBytes = 0;
      for await (const piece of streamBlob(connection, digest, either)) {
        yield piece;
        sentBytes += piece.length;
        onProgress(sentBytes);
      }
    }
  }
}
