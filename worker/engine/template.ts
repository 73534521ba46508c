/** Templates of task specs: `{{.Task.Slot}}` and the like where `docker service create` takes them. Pure. */
import { ClusterError, errorText } from "../../model/errors.ts";
import type { Labels } from "../../model/meta.ts";
import type { ContainerSpec, Mount, VolumeOptions } from "../../model/service.ts";
import { expandTemplate, type TemplateContext } from "../../model/template.ts";

/**
 * Expands what Docker expands: environment, hostname, source and target of mounts, labels and driver options of
 * volumes.
 * @throws {ClusterError} `invalid-argument` naming the expression that cannot be evaluated.
 */
export function expandSpec(spec: ContainerSpec, context: TemplateContext): ContainerSpec {
  const expand = (text: string): string => {
    try {
      return expandTemplate(text, context);
    } catch (cause) {
      throw new ClusterError("invalid-argument", `expanding template failed: ${errorText(cause)}`, { cause });
    }
  };
  return {
    ...spec,
    env: spec.env.map(expand),
    ...(spec.hostname !== undefined && { hostname: expand(spec.hostname) }),
    mounts: spec.mounts.map((mount) => expandMount(mount, expand)),
  };
}

function expandMount(mount: Mount, expand: (text: string) => string): Mount {
  const target = expand(mount.target);
  switch (mount.type) {
    case "tmpfs":
      return { ...mount, target };
    case "bind":
      return { ...mount, target, source: expand(mount.source) };
    case "volume": {
      const volume = mount.volume && expandVolume(mount.volume, expand);
      return { ...mount, target, source: expand(mount.source), ...(volume !== undefined && { volume }) };
    }
  }
}

function expandVolume(volume: VolumeOptions, expand: (text: string) => string): VolumeOptions {
  const all = (labels: Labels): Labels =>
    Object.fromEntries(Object.entries(labels).map(([key, value]) => [key, expand(value)]));
  return {
    ...volume,
    ...(volume.labels !== undefined && { labels: all(volume.labels) }),
    ...(volume.driverOptions !== undefined && { driverOptions: all(volume.driverOptions) }),
  };
}
