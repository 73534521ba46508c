/** An image into containerd's store: layers, configuration, manifest, names. */
import { ClusterError } from "../../model/errors.ts";
import { writeBlob } from "./blobs.ts";
import type { Connection } from "./connection.ts";
import { type ImageNames, untaggedName } from "./image-names.ts";
import { underLease } from "./leases.ts";
import { type Descriptor, parseConfig } from "./manifest.ts";
import { digestOf } from "./save.ts";
import { chainIds, snapshotter, unpackLayer } from "./snapshots.ts";
import type { Turns } from "../../runtime/turns.ts";

const manifestType = "application/vnd.oci.image.manifest.v1+json";
const configType = "application/vnd.oci.image.config.v1+json";

export interface StoreDeps {
  readonly connection: Connection;
  readonly names: ImageNames;
  /** Shared with whoever else stores layers. */
  readonly layers: Turns;
}

export interface LoadedImage {
  readonly id: string;
  /** Full names that it has now; empty for none. */
  readonly names: readonly string[];
}

export interface LayerPart {
  readonly descriptor: Descriptor;
  /** Its bytes from an offset on. Not called when the content is there. */
  readonly source: (offset: number) => AsyncIterable<Buffer>;
}

export interface NewImage {
  readonly configBytes: Buffer;
  /** Lowest first. */
  readonly layers: readonly LayerPart[];
  /** Full names that it gets; without any it is kept as untagged. */
  readonly names: readonly string[];
}

/**
 * An image whose parts are at hand becomes one of this host's: layers are unpacked and compared with what the
 * configuration says before a name refers to them.
 *
 * @param report - Called with 12 digits of each layer that was not there.
 * @throws {ClusterError} `invalid-argument` when layers and configuration do not fit; `data-loss` for layers that are not the image's.
 */
export async function storeNewImage(
  deps: StoreDeps,
  { configBytes, layers, names }: NewImage,
  report: (layer: string) => void,
  signal: AbortSignal,
): Promise<LoadedImage> {
  const { diffIds } = parseConfig(configBytes);
  if (diffIds.length !== layers.length) {
    throw new ClusterError(
      "invalid-argument",
      `invalid image: ${layers.length} layers, ${diffIds.length} in its configuration`,
    );
  }
  const chain = chainIds(diffIds);
  const { connection, layers: turns } = deps;
  return underLease(
    connection,
    async (lease) => {
      for (const [index, { descriptor, source }] of layers.entries()) {
        const { digest, size } = descriptor;
        const blob = { digest, size, lease, source };
        await turns.take(digest, () => writeBlob(connection, blob, signal), signal);
        const [diffId = "", chainId = "", parent = ""] = [diffIds[index], chain[index], chain[index - 1]];
        const unpack = { layer: descriptor, diffId, chainId, parent, lease };
        const outcome = await turns.take(chainId, () => unpackLayer(connection, unpack, signal), signal);
        if (outcome === "unpacked") report(diffId.slice("sha256:".length, "sha256:".length + 12));
      }
      const descriptors = layers.map(({ descriptor }) => descriptor);
      return storeImage(deps, { configBytes, layers: descriptors, names }, lease, signal);
    },
    signal,
  );
}

/** @param layers - Of the configuration, lowest first; their content and snapshots are there. */
export async function storeImage(
  { connection, names, layers: turns }: StoreDeps,
  {
    configBytes,
    layers,
    names: wanted,
  }: {
    readonly configBytes: Buffer;
    readonly layers: readonly Descriptor[];
    readonly names: readonly string[];
  },
  lease: string,
  signal: AbortSignal,
): Promise<LoadedImage> {
  const config = descriptorOf(configType, configBytes);
  const manifestBytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: manifestType, config, layers }),
  );
  const target = descriptorOf(manifestType, manifestBytes);
  const top = chainIds(parseConfig(configBytes).diffIds).at(-1);
  await store(
    config,
    configBytes,
    top === undefined ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: top },
  );
  await store(target, manifestBytes, {
    "containerd.io/gc.ref.content.config": config.digest,
    ...Object.fromEntries(
      layers.map(({ digest }, index) => [`containerd.io/gc.ref.content.l.${index}`, digest]),
    ),
  });
  for (const name of wanted.length > 0 ? wanted : [untaggedName({ target, platform: "" })]) {
    // What a registry has said of the same content stays said.
    if ((await names.get(name))?.target.digest !== target.digest)
      await names.put({ name, target, local: true, platform: "" });
  }
  return { id: config.digest, names: wanted };

  async function store(
    { digest, size }: Descriptor,
    bytes: Buffer,
    labels: Readonly<Record<string, string>>,
  ): Promise<void> {
    async function* source(offset: number): AsyncGenerator<Buffer> {
      yield bytes.subarray(offset);
    }
    const blob = { digest, size, lease, labels, source };
    await turns.take(digest, () => writeBlob(connection, blob, signal), signal);
  }
}

function descriptorOf(mediaType: string, bytes: Buffer): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}
