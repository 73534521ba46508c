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
