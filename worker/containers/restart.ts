/** Whether a container that has ended is started again, and when. Pure. */
import type { RestartPolicy } from "./config.ts";

const firstDelayMs = 100;
const longestDelayMs = 60_000;
/** One that ran this long is no longer failing at its start. */
const steadyMs = 10_000;

export interface Ended {
  readonly policy: RestartPolicy;
  readonly exitCode: number;
  /** Somebody asked for its end. */
  readonly wasStopped: boolean;
  /** Restarts by policy since somebody last started it. */
  readonly restartCount: number;
  /** How long it ran. */
  readonly ranMs: number;
  /** The delay before its last restart; 0 when there was none. */
  readonly lastDelayMs: number;
}

/** @returns The pause before the restart; undefined when it stays as it is. */
export function restartDelayMs(ended: Ended): number | undefined {
  const { policy, exitCode, wasStopped, restartCount, ranMs, lastDelayMs } = ended;
  if (wasStopped) return undefined;
  const delayMs =
    ranMs >= steadyMs || lastDelayMs === 0 ? firstDelayMs : Math.min(lastDelayMs * 2, longestDelayMs);
  switch (policy.Name) {
    case "no":
      return undefined;
    case "always":
    case "unless-stopped":
      return delayMs;
    case "on-failure": {
      const { MaximumRetryCount: most } = policy;
      const mayRestart = exitCode !== 0 && (most === 0 || restartCount < most);
      return mayRestart ? delayMs : undefined;
    }
  }
}
