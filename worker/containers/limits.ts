/** What `docker update` makes of a container's limits. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { Limits } from "./config.ts";
import type { Fields } from "./fields.ts";

/** A limit that is 0 or not named stays as it was; the number of processes may be set back to 0. */
export function mergedLimits(before: Limits, changes: Limits, given: Fields): Limits {
  const named = Object.entries(changes).filter(
    ([name, value]) =>
      given.has(name) && (name === "PidsLimit" || (value !== 0 && value !== "" && value !== false)),
  );
  refuseBoth(before, changes);
  const { Memory, MemorySwap } = before;
  const keptSwap =
    changes.Memory > 0 && !given.has("MemorySwap") && MemorySwap > 0 && MemorySwap < changes.Memory;
  if (keptSwap && Memory > 0) {
    throw new ClusterError(
      "invalid-argument",
      "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
    );
  }
  const limits: Limits = {
    CpuShares: before.CpuShares,
    CpuPeriod: before.CpuPeriod,
    CpuQuota: before.CpuQuota,
    CpuRealtimePeriod: before.CpuRealtimePeriod,
    CpuRealtimeRuntime: before.CpuRealtimeRuntime,
    CpusetCpus: before.CpusetCpus,
    CpusetMems: before.CpusetMems,
    NanoCpus: before.NanoCpus,
    Memory,
    MemoryReservation: before.MemoryReservation,
    MemorySwap,
    MemorySwappiness: before.MemorySwappiness,
    OomKillDisable: before.OomKillDisable,
    PidsLimit: before.PidsLimit,
    BlkioWeight: before.BlkioWeight,
  };
  return { ...limits, ...Object.fromEntries(named) };
}

/** One way to say how much processor time: what was said the other way is not overruled. */
function refuseBoth(before: Limits, changes: Limits): void {
  const conflicts: readonly (readonly [boolean, string])[] = [
    [changes.NanoCpus > 0 && before.CpuPeriod > 0, "Nano CPUs cannot be updated as CPU Period"],
    [changes.NanoCpus > 0 && before.CpuQuota > 0, "Nano CPUs cannot be updated as CPU Quota"],
    [changes.CpuPeriod > 0 && before.NanoCpus > 0, "CPU Period cannot be updated as NanoCPUs"],
    [changes.CpuQuota > 0 && before.NanoCpus > 0, "CPU Quota cannot be updated as NanoCPUs"],
  ];
  const conflict = conflicts.find(([isGiven]) => isGiven);
  if (conflict !== undefined)
    throw new ClusterError("invalid-argument", `Conflicting options: ${conflict[1]} has already been set`);
}
