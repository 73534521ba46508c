/** Capabilities that this process can give away: a host that is a container itself has not all of its kernel's. */
import { readFile } from "node:fs/promises";

import { capabilitiesOf } from "../engine/process.ts";

/** By the highest of the kernel; what a process holds at its start it never gets more of. */
const known = new Map<number, Promise<readonly string[]>>();

/** @param lastCapability - Highest of the kernel. */
export function heldCapabilities(lastCapability: number): Promise<readonly string[]> {
  const held = known.get(lastCapability) ?? readHeld(lastCapability);
  known.set(lastCapability, held);
  held.catch(() => known.delete(lastCapability)); // Asked again by the next container.
  return held;
}

async function readHeld(lastCapability: number): Promise<readonly string[]> {
  const status = await readFile("/proc/self/status", "utf8");
  const mask = BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  return capabilitiesOf(["ALL"], [], lastCapability).filter(
    (_name, bit) => ((mask >> BigInt(bit)) & 1n) === 1n,
  );
}
