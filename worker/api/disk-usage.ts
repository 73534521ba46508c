/** `GET /system/df`: what images, containers, volumes and the cache of builds take on the disk. */
import { ClusterError } from "../../model/errors.ts";
import { apiTime, compareVersions } from "../../runtime/http.ts";
import type { StoredImage } from "../engine/image-store.ts";
import { listContainers } from "./container.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { printListed as printImage } from "./image.ts";
import { printVolume, usersByVolume } from "./volume.ts";

const kinds = ["container", "image", "volume", "build-cache"] as const;
type Kind = (typeof kinds)[number];

export async function diskUsage(
  deps: FrontDoorDeps,
  query: URLSearchParams,
  version: string,
): Promise<object> {
  const asked = query.getAll("type").map(kindOf);
  const wants = (kind: Kind): boolean => asked.length === 0 || asked.includes(kind);
  const images = wants("image") ? await deps.engine.imageStore.list() : [];
  const layers = layersOf(images);
  return {
    ...(wants("image") && {
      LayersSize: [...layers.values()].reduce((sum, { diskBytes }) => sum + diskBytes, 0),
      Images: images.map((image) => ({
        ...printImage(image, version),
        SharedSize: image.layers
          .filter(({ chainId }) => (layers.get(chainId)?.images ?? 0) > 1)
          .reduce((sum, { diskBytes }) => sum + diskBytes, 0),
        Containers: image.containers.length,
      })),
    }),
    ...(wants("container") && {
      Containers: await listContainers(deps, new URLSearchParams({ all: "1", size: "1" })),
    }),
    ...(wants("volume") && { Volumes: await volumesOf(deps) }),
    ...(wants("build-cache") && (await buildCache(deps, version))),
  };
}

/** Each layer once, and how many images have it. */
function layersOf(images: readonly StoredImage[]): Map<string, { diskBytes: number; images: number }> {
  const layers = new Map<string, { diskBytes: number; images: number }>();
  for (const { chainId, diskBytes } of images.flatMap((image) => image.layers)) {
    const before = layers.get(chainId)?.images ?? 0;
    layers.set(chainId, { diskBytes, images: before + 1 });
  }
  return layers;
}

/** A size of -1 is one that nobody knows, such as that of another machine's disk. */
async function volumesOf(deps: FrontDoorDeps): Promise<object[]> {
  const { volumes } = deps.engine;
  const users = await usersByVolume(deps);
  const printed: object[] = [];
  // One after the other: each is walked whole.
  for (const volume of await volumes.list()) {
    const Size = (await volumes.diskBytes(volume.name)) ?? -1;
    const RefCount = users.get(volume.name)?.length ?? 0;
    printed.push({ ...printVolume(volume), UsageData: { Size, RefCount } });
  }
  return printed;
}

/** The cache is one thing here: what of it a later build may use is known to buildah alone. */
async function buildCache({ builder, clock }: FrontDoorDeps, version: string): Promise<object> {
  const Size = (await builder?.cacheBytes()) ?? 0;
  const record = {
    ID: "build-cache",
    Parents: null,
    Type: "regular",
    Description: "steps of builds and their base images",
    InUse: false,
    Shared: false,
    Size,
    CreatedAt: apiTime(clock.now()),
    LastUsedAt: null,
    UsageCount: 0,
  };
  return {
    BuildCache: Size === 0 ? [] : [record],
    ...(compareVersions(version, "1.42") < 0 && { BuilderSize: Size }),
  };
}

function kindOf(text: string): Kind {
  const found = kinds.find((kind) => kind === text);
  if (found === undefined) throw new ClusterError("invalid-argument", `unknown object type: ${text}`);
  return found;
}
