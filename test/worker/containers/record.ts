import { parseCreate } from "../../../worker/containers/config.ts";
import type { LocalRecord } from "../../../worker/containers/store.ts";

/** Of a container that somebody has started and nobody stopped. */
export function startedRecord(id: string, host: Readonly<Record<string, unknown>>): LocalRecord {
  const { config, hostConfig } = parseCreate({ Image: "x", HostConfig: host });
  return { id, name: "one", config, hostConfig, wantsToRun: true, restartCount: 0, restartDelayMs: 0 };
}
