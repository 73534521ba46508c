import { ClusterError } from "../../model/errors.ts";

/** VXLAN network identifiers below are left to other users of the same links. */
export const lowestVni = 4096;
export const highestVni = 16_777_215;
/** Driver option by which a user asks for one. */
export const vniOption = "com.docker.network.driver.overlay.vxlanid_list";

/**
 * The identifier a network's options ask for, or the lowest free one.
 * @throws {ClusterError} `invalid-argument`, `conflict` or `resource-exhausted`.
 */
export function pickVni(options: Readonly<Record<string, string>>, taken: ReadonlySet<number>): number {
  const asked = options[vniOption];
  if (asked !== undefined) {
    const vni = Number(asked.split(",")[0]);
    if (!Number.isInteger(vni) || vni < 1 || vni > highestVni) {
      throw new ClusterError("invalid-argument", `invalid vxlan id ${asked}: 1 to ${highestVni} is accepted`);
    }
    if (taken.has(vni)) throw new ClusterError("conflict", `vxlan id ${vni} is used by another network`);
    return vni;
  }
  for (let vni = lowestVni; vni <= highestVni; vni += 1) if (!taken.has(vni)) return vni;
  throw new ClusterError("resource-exhausted", "no vxlan id is left");
}
