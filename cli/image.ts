import type { ApiServiceSpec } from "./api-types.ts";
import type { Client } from "./client.ts";

interface Distribution {
  Descriptor: { digest: string };
  Platforms?: { architecture: string; os: string }[] | null;
}

/**
 * Writes the digest that the image's tag stands for now into the spec, so that every node runs the
 * same bytes, and the platforms it exists for. A registry that does not answer is only warned about.
 */
export async function pinImage(client: Client, spec: ApiServiceSpec): Promise<void> {
  const container = spec.TaskTemplate.ContainerSpec;
  if (container.Image.includes("@")) return;
  const image = withTag(container.Image);
  try {
    const found = await client.get<Distribution>(`/distribution/${image}/json`);
    container.Image = `${image}@${found.Descriptor.digest}`;
    const platforms = (found.Platforms ?? []).map(({ architecture, os }) => ({
      Architecture: architecture,
      OS: os,
    }));
    if (platforms.length > 0)
      spec.TaskTemplate.Placement = { ...spec.TaskTemplate.Placement, Platforms: platforms };
  } catch {
    process.stderr.write(
      `image ${image} could not be accessed on a registry to record\nits digest. Each node will access ${image} independently,\n` +
        "possibly leading to different nodes running different\nversions of the image.\n\n",
    );
  }
}

function withTag(image: string): string {
  return image.lastIndexOf(":") > image.lastIndexOf("/") ? image : `${image}:latest`;
}
