/** What Docker said once, and the same asked of a host of ours. */
import { mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { LocalHost } from "../integration/local-host.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { askAll, type AskOptions, type Recorded } from "./ask.ts";
import { allCalls } from "./calls/all.ts";
import { type Ask, partsOf } from "./calls/call.ts";
import { insideCalls } from "./calls/sandbox.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/** Beside the sources. */
export const recordPath = join(root, "test", "golden", "docker-20.10.json");

export async function loadRecord(): Promise<Recorded[]> {
  return JSON.parse(await readFile(recordPath, "utf8")) as Recorded[];
}

/** The image that both engines begin with, at the registry beside them. */
export async function pushBase(registry: string): Promise<void> {
  const config = {
    Cmd: ["sh"],
    Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_IMAGE=yes"],
    Labels: { team: "red" },
  };
  await pushImage(registry, "golden/bb", "1", buildImage([await busyboxLayer()], config));
}

const longAsks = new Set(insideCalls.map((call) => partsOf(call).ask));

/** All but the runs of the client, which leave nothing behind: half of the time, and in other words in the tests of containers. */
export function isQuick(ask: Ask): boolean {
  return !longAsks.has(ask);
}

/** @param host - Without images, containers, networks and volumes. */
export async function askHost(host: LocalHost, options: AskOptions = {}): Promise<Recorded[]> {
  await pushBase(host.host.registry);
  const home = join(host.host.directory, "golden-home");
  await mkdir(home, { recursive: true });
  const { socket, stateDir, runDir } = host.settings;
  return askAll({ socket, home, own: [stateDir, runDir] }, allCalls, options);
}
