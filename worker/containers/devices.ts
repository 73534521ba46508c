/** Device files of the host that a container is given. */
import { type Stats } from "node:fs";
import { lstat, readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError } from "../../model/errors.ts";
import { cleanPath } from "../mounts/plan.ts";
import type { OciResources, OciThrottle } from "../engine/oci.ts";
import type { DeviceLimit, DeviceLimits, HostConfig } from "./config.ts";
import type { GivenDevice } from "./sandbox.ts";

/** What every container has in its /dev already, or must not share with the host. */
const ownNames = new Set([
  "pts",
  "shm",
  "mqueue",
  "fd",
  "console",
  "ptmx",
  "stdin",
  "stdout",
  "stderr",
  "core",
]);
const standardNames = new Set(["null", "zero", "full", "random", "urandom", "tty"]);
const depthLimit = 8;

/** @throws {ClusterError} `invalid-argument` for what is no device. */
export async function devicesOf({ Privileged, Devices }: HostConfig): Promise<GivenDevice[]> {
  const found = new Map<string, GivenDevice>();
  if (Privileged) await collect("/dev", "/dev", "rwm", found, 0);
  for (const { PathOnHost, PathInContainer, CgroupPermissions } of Devices) {
    const access = CgroupPermissions === "" ? "rwm" : CgroupPermissions;
    if (!/^[rwm]{1,3}$/.test(access)) throw invalid(`invalid device mode: ${access}`);
    if (!PathOnHost.startsWith("/")) throw missing(PathOnHost, "is not an absolute path");
    const target = cleanPath(PathInContainer === "" ? PathOnHost : PathInContainer);
    const info = await stat(PathOnHost).catch(() => undefined);
    if (info === undefined) throw missing(PathOnHost, "no such file or directory");
    if (info.isDirectory()) await collect(PathOnHost, target, access, found, 0);
    else if (info.isCharacterDevice() || info.isBlockDevice())
      found.set(target, deviceOf(info, target, access));
    else throw missing(PathOnHost, "not a device node");
  }
  return [...found.values()];
}

/**
 * Limits of single block devices, by their numbers; undefined when there are none.
 *
 * @throws {ClusterError} `invalid-argument` for what is no block device of the host.
 */
export async function blockLimitsOf(limits: DeviceLimits): Promise<OciResources["blockIO"]> {
  const of = async (list: readonly DeviceLimit[] = []): Promise<OciThrottle[]> =>
    Promise.all(
      list.map(async ({ Path, Value }) => {
        const info = await stat(Path).catch(() => undefined);
        if (info === undefined) throw invalid(`${JSON.stringify(Path)}: no such file or directory`);
        if (!info.isBlockDevice()) throw invalid(`${JSON.stringify(Path)}: not a block device`);
        if (!(Value >= 0)) throw invalid(`invalid limit ${Value} of ${Path}`);
        const { major, minor } = deviceOf(info, Path, "rwm");
        return { major, minor, rate: Value };
      }),
    );
  const [weights, readBytes, writeBytes, reads, writes] = await Promise.all([
    of(limits.BlkioWeightDevice),
    of(limits.BlkioDeviceReadBps),
    of(limits.BlkioDeviceWriteBps),
    of(limits.BlkioDeviceReadIOps),
    of(limits.BlkioDeviceWriteIOps),
  ]);
  const found = {
    ...(weights.length > 0 && {
      weightDevice: weights.map(({ rate, ...device }) => ({ ...device, weight: rate })),
    }),
    ...(readBytes.length > 0 && { throttleReadBpsDevice: readBytes }),
    ...(writeBytes.length > 0 && { throttleWriteBpsDevice: writeBytes }),
    ...(reads.length > 0 && { throttleReadIOPSDevice: reads }),
    ...(writes.length > 0 && { throttleWriteIOPSDevice: writes }),
  };
  return Object.keys(found).length > 0 ? found : undefined;
}

async function collect(
  directory: string,
  target: string,
  access: string,
  found: Map<string, GivenDevice>,
  depth: number,
): Promise<void> {
  if (depth > depthLimit) return;
  for (const name of await readdir(directory).catch(() => [])) {
    if (directory === "/dev" && (ownNames.has(name) || standardNames.has(name))) continue;
    const path = join(directory, name);
    const info = await lstat(path).catch(() => undefined); // Devices come and go.
    if (info === undefined) continue;
    if (info.isDirectory()) await collect(path, join(target, name), access, found, depth + 1);
    else if (info.isCharacterDevice() || info.isBlockDevice()) {
      found.set(join(target, name), deviceOf(info, join(target, name), access));
    }
  }
}

/** The numbers of a device as the kernel packs them (linux/kdev_t.h, new_decode_dev and glibc's gnu_dev_major). */
function deviceOf(info: Stats, path: string, access: string): GivenDevice {
  const { rdev, mode, uid, gid } = info;
  const major = ((rdev >>> 8) & 0xfff) | (Math.floor(rdev / 2 ** 32) & ~0xfff);
  const minor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  const type = info.isBlockDevice() ? "b" : "c";
  return { path, type, major, minor, fileMode: mode & 0o777, uid, gid, access };
}

function missing(path: string, why: string): ClusterError {
  return invalid(`error gathering device information while adding custom device "${path}": ${why}`);
}

function invalid(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
