/** /dev/shm of containers that share theirs: a memory file system on the host, for as long as its owner runs. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { mountPoints } from "../mounts/mountinfo.ts";
import { runTool } from "../mounts/tool.ts";

const defaultBytes = 64 * 2 ** 20;

/** @param directory - `<stateDir>/local`. */
export function sharedMemoryPath(directory: string, id: string): string {
  return join(directory, `${id}.shm`);
}

/** Mounts it empty; a former run's is taken away first. @param sizeBytes - 0: Docker's default. */
export async function openSharedMemory(path: string, sizeBytes: number): Promise<void> {
  await closeSharedMemory(path);
  await mkdir(path, { recursive: true, mode: 0o700 });
  const options = `nosuid,nodev,noexec,mode=1777,size=${sizeBytes === 0 ? defaultBytes : sizeBytes}`;
  await runTool("mount", ["-t", "tmpfs", "-o", options, "shm", path]);
}

/** Those who joined keep it until they end. Unknown path: no-op. */
export async function closeSharedMemory(path: string): Promise<void> {
  if (await isMounted(path)) await runTool("umount", ["--lazy", path]);
  await rm(path, { recursive: true, force: true });
}

export async function isMounted(path: string): Promise<boolean> {
  return (await mountPoints()).includes(path);
}
