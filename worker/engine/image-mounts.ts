/**
 * Images that containers see as directories. Each is a read-only mount of its layers, made with the container and taken away
 * with it; a snapshot of containerd's, also the container's own, keeps the layers for as long.
 */
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";

import { mountPoints } from "../mounts/mountinfo.ts";
import { runTool } from "../mounts/tool.ts";
import type { Connection } from "./connection.ts";
import type { ContainerRecord, Image } from "./engine.ts";
import { removeSnapshot, snapshotExists, snapshotMounts, viewSnapshot } from "./snapshots.ts";
import { mountLayers } from "./views.ts";

interface ImageMountsDeps {
  readonly connection: Connection;
  /** By reference, as it was asked for. @throws {ClusterError} `not-found`. */
  readonly find: (reference: string) => Promise<Image>;
  /** Below which the mounts are made; gone after a reboot. */
  readonly directory: string;
}

export class ImageMounts {
  readonly #deps: ImageMountsDeps;

  constructor(deps: ImageMountsDeps) {
    this.#deps = deps;
  }

  /**
   * For a container that is being made.
   *
   * @param index - Counts its image mounts from 0, without a gap.
   * @returns Where the image's files are on the host.
   * @throws {ClusterError} `not-found` for the image.
   */
  async make(
    containerId: string,
    index: number,
    reference: string,
  ): Promise<{ readonly path: string; readonly imageId: string }> {
    const { connection, find } = this.#deps;
    const { id: imageId, chainId } = await find(reference);
    await viewSnapshot(connection, keyOf(containerId, index), chainId);
    return { path: await this.#mount(containerId, index), imageId };
  }

  /** Mounts again what a reboot of the host has taken away. */
  async ensure({ id, mounts }: Pick<ContainerRecord, "id" | "mounts">): Promise<void> {
    const count = mounts.filter(({ type }) => type === "image").length;
    if (count === 0) return;
    const mounted = new Set(await mountPoints());
    for (let index = 0; index < count; index++)
      if (!mounted.has(this.#pathOf(id, index))) await this.#mount(id, index);
  }

  /** All of a container's, whatever there is of them; the last one first, so that none is missed when it is done again. */
  async remove(containerId: string): Promise<void> {
    const { connection, directory } = this.#deps;
    const names = await readdir(directory).catch(() => []); // None was ever made.
    const mounted = new Set(await mountPoints());
    for (const name of names.filter((each) => each.startsWith(`${containerId}-`))) {
      const path = join(directory, name);
      if (mounted.has(path)) await runTool("umount", [path]);
      await rmdir(path);
    }
    let count = 0;
    while (await snapshotExists(connection, keyOf(containerId, count))) count += 1;
    while (count > 0) await removeSnapshot(connection, keyOf(containerId, --count));
  }

  async #mount(containerId: string, index: number): Promise<string> {
    const { connection, directory } = this.#deps;
    const path = this.#pathOf(containerId, index);
    const empty = join(directory, "empty");
    for (const each of [empty, path]) await mkdir(each, { recursive: true, mode: 0o700 });
    const layers = await snapshotMounts(connection, keyOf(containerId, index));
    await mountLayers(path, layers, empty);
    return path;
  }

  #pathOf(containerId: string, index: number): string {
    return join(this.#deps.directory, `${containerId}-${index}`);
  }
}

function keyOf(containerId: string, index: number): string {
  return `${containerId}-image-${index}`;
}
