import { ClusterError } from "../../model/errors.ts";
import type { OciResources } from "../engine/oci.ts";

/** "c 1:3 rwm", "a *:* rwm". @throws {ClusterError} `invalid-argument`. */
export function parseDeviceRule(text: string): OciResources["devices"][number][] {
  const [, type, major, minor, access] = /^([acb]) (\d+|\*):(\d+|\*) ([rwm]{1,3})$/.exec(text) ?? [];
  if (type === undefined || major === undefined || minor === undefined || access === undefined)
    throw new ClusterError("invalid-argument", `invalid device cgroup rule format: '${text}'`);
  return [
    {
      allow: true,
      type,
      ...(major !== "*" && { major: Number(major) }),
      ...(minor !== "*" && { minor: Number(minor) }),
      access,
    },
  ];
}
