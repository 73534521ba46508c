/** Secrets and configs of containers: files in memory, `<runDir>/payloads/<container id>/<n>`, mounted read-only. */
import { chmod, chown, mkdir, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { PayloadFile } from "../engine/engine.ts";
import type { OciMount } from "../engine/oci.ts";
import { bindMount, cleanPath } from "./plan.ts";
import { runTool } from "./tool.ts";

const tmpfsMagic = 0x0102_1994;
const ramfsMagic = 0x8584_58f6;
const idPattern = /^\d{1,10}$/;

export interface Payloads {
  write(id: string, files: PayloadFiles): Promise<OciMount[]>;
  remove(id: string): Promise<void>;
}

export interface PayloadFiles {
  readonly secrets: readonly PayloadFile[];
  readonly configs: readonly PayloadFile[];
}

/** @param directory - Becomes memory-backed (a tmpfs of its own, unless it lies on one) with the first payload. */
export function openPayloads(directory: string): Payloads {
  let prepared: Promise<void> | undefined;
  return {
    async write(id, { secrets, configs }) {
      const files = [
        ...secrets.map((file) => ({ ...file, path: targetOf(file, "/run/secrets") })),
        ...configs.map((file) => ({ ...file, path: targetOf(file, "/") })),
      ];
      if (files.length === 0) return [];
      prepared ??= prepareMemory(directory).catch((error: unknown) => {
        prepared = undefined;
        throw error;
      });
      await prepared;
      await mkdir(join(directory, id), { recursive: true, mode: 0o700 });
      return Promise.all(
        files.map(async ({ target, data, path }, index) => {
          const file = join(directory, id, String(index));
          await writeFile(file, data, { mode: 0o600 });
          await chown(file, ownerOf(target.uid), ownerOf(target.gid));
          await chmod(file, target.mode & 0o7777);
          return bindMount(file, path, true);
        }),
      );
    },

    async remove(id) {
      await rm(join(directory, id), { recursive: true, force: true });
    },
  };
}

function targetOf({ target }: PayloadFile, base: string): string {
  const path = cleanPath(target.name.startsWith("/") ? target.name : `${base}/${target.name}`);
  if (path === "/" || target.name === "") {
    throw new ClusterError(
      "invalid-argument",
      `invalid target of a secret or config: ${JSON.stringify(target.name)}`,
    );
  }
  return path;
}

function ownerOf(text: string): number {
  if (text === "") return 0;
  if (!idPattern.test(text)) {
    throw new ClusterError(
      "invalid-argument",
      `invalid owner of a secret or config: ${text}: a number is accepted`,
    );
  }
  return Number(text);
}

async function prepareMemory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { type } = await statfs(directory);
  if (type === tmpfsMagic || type === ramfsMagic) return;
  try {
    await runTool("mount", [
      "-t",
      "tmpfs",
      "-o",
      "mode=0700,nosuid,nodev,noexec",
      "shoal-payloads",
      directory,
    ]);
  } catch (cause) {
    throw new ClusterError(
      "failed-precondition",
      `cannot keep secrets in memory at ${directory}: ${errorText(cause)}`,
      { cause },
    );
  }
}
