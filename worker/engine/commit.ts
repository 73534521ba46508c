/** What a container has written becomes one more layer on its image: a new image. */
import { randomUUID } from "node:crypto";

import { ClusterError } from "../../model/errors.ts";
import type { Mount } from "../../proto/gen/containerd/types.ts";
import { type Connection, toEngineError, unpackTimeoutMs } from "./connection.ts";
import { type ImageContent, parseDetails } from "./image-details.ts";
import { underLease } from "./leases.ts";
import type { Descriptor } from "./manifest.ts";
import { chainIds, snapshotMounts, unpackLayer } from "./snapshots.ts";
import { type LoadedImage, type StoreDeps, storeImage } from "./store-image.ts";
import { belowMounts, readOnlyMounts } from "./views.ts";

export interface CommitRequest {
  /** The part `config` of the new image's configuration. */
  readonly config: object;
  readonly author: string;
  readonly comment: string;
  /** What the history says was run. */
  readonly createdBy: string;
  readonly createdAtMs: number;
  /** Full; empty for none. */
  readonly name: string;
}

const layerType = "application/vnd.oci.image.layer.v1.tar+gzip";
/** By which containerd says what a layer is when it is not compressed. */
const plainLabel = "containerd.io/uncompressed";

/** @throws {ClusterError} `internal` in containerd's words. */
export async function commitContainer(
  deps: StoreDeps,
  id: string,
  image: ImageContent,
  request: CommitRequest,
  signal: AbortSignal,
): Promise<LoadedImage> {
  const { connection } = deps;
  const mounts = await snapshotMounts(connection, id);
  return underLease(
    connection,
    async (lease) => {
      const { layer, diffId } = await writtenLayer(connection, mounts, lease, signal);
      const configBytes = Buffer.from(JSON.stringify(configOf(image.configBytes, diffId, request)));
      const chain = chainIds([...parseDetails(image.configBytes).diffIds, diffId]);
      const [chainId = "", parent = ""] = chain.toReversed();
      const unpack = { layer, diffId, chainId, parent, lease };
      await deps.layers.take(chainId, () => unpackLayer(connection, unpack, signal), signal);
      const layers = [...image.layers, layer];
      const wanted = request.name === "" ? [] : [request.name];
      return storeImage(deps, { configBytes, layers, names: wanted }, lease, signal);
    },
    signal,
  );
}

/** Compared and stored by containerd. */
async function writtenLayer(
  connection: Connection,
  mounts: readonly Mount[],
  lease: string,
  signal: AbortSignal,
): Promise<{ readonly layer: Descriptor; readonly diffId: string }> {
  try {
    const { diff } = await connection.call(
      connection.diff,
      "diff",
      {
        left: belowMounts(mounts),
        right: readOnlyMounts(mounts),
        mediaType: layerType,
        ref: `shoal-commit-${randomUUID()}`,
        labels: {},
      },
      { lease, signal, timeoutMs: unpackTimeoutMs },
    );
    if (diff === undefined) throw new ClusterError("internal", "containerd made no layer");
    const { info } = await connection.call(connection.content, "info", { digest: diff.digest }, { signal });
    const diffId = info?.labels[plainLabel];
    if (diffId === undefined)
      throw new ClusterError("internal", `layer ${diff.digest} has no digest of its files`);
    return { layer: { mediaType: diff.mediaType, digest: diff.digest, size: diff.size }, diffId };
  } catch (error) {
    throw toEngineError(error, "cannot compare the container with its image");
  }
}

function configOf(parent: Buffer, diffId: string, request: CommitRequest): object {
  const before = JSON.parse(parent.toString("utf8")) as Record<string, unknown>;
  const { author, comment, createdBy } = request;
  const created = new Date(request.createdAtMs).toISOString();
  const history = Array.isArray(before["history"]) ? (before["history"] as unknown[]) : [];
  const { container: _container, container_config: _run, ...kept } = before;
  const step = {
    created,
    created_by: createdBy,
    ...(author !== "" && { author }),
    ...(comment !== "" && { comment }),
  };
  return {
    ...kept,
    created,
    author,
    comment,
    config: request.config,
    rootfs: { type: "layers", diff_ids: [...parseDetails(parent).diffIds, diffId] },
    history: [...history, step],
  };
}
