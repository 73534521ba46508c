/** Capabilities that this process can give away: a host that is a container itself has not all of its kernel's. */
import { readFile } from "node:fs/promises";

import { capabilitiesOf } from "../engine/process.ts";

/** @param lastCapability - Highest of the kernel. */
export async function heldCapabilities(lastCapability: number): Promise<string[]> {
  const status = await readFile("/proc/self/status", "utf8");
  const mask = BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  return capabilitiesOf(["ALL"], [], lastCapability).filter(
    (_name, bit) => ((mask >> BigInt(bit)) & 1n) === 1n,
  );
}
