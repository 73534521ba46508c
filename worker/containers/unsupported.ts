/** Parts of a request that this engine cannot do: refused by name, so that nobody takes them for done. Pure. */
import { ClusterError } from "../../model/errors.ts";
import type { Fields } from "./fields.ts";

/** Other names for what every container here runs under. */
const runtimes = ["", "crun", "runc", "io.containerd.runc.v2"];
/** For Windows; Docker's Linux engine takes them and does nothing. */
const windowsLimits = ["CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth"];

/** @throws {ClusterError} in Docker's words where it refuses as well. */
export function refuseUnsupported(host: Fields): void {
  const driver = host.text("VolumeDriver");
  if (driver !== "" && driver !== "local") throw refusal(`plugin ${JSON.stringify(driver)} not found`);
  const runtime = host.text("Runtime");
  if (!runtimes.includes(runtime)) throw refusal(`unknown or invalid runtime name: ${runtime}`);
  const isolation = host.text("Isolation");
  if (!["", "default"].includes(isolation.toLowerCase()))
    throw refusal(`invalid isolation mode: ${isolation}`);
  const cgroup = host.text("Cgroup");
  if (cgroup !== "") throw refusal(`invalid cgroup mode: ${cgroup}`);
  const [options] = host.entries("StorageOpt");
  if (options !== undefined) {
    throw refusal("--storage-opt is supported only for overlay over xfs with 'pquota' mount option");
  }
  const [request] = host.objects("DeviceRequests");
  if (request !== undefined) {
    const capabilities = request.list("Capabilities").map((all) => `[${[all].flat().join(" ")}]`);
    throw refusal(
      `could not select device driver ${JSON.stringify(request.text("Driver"))} with capabilities: [${capabilities.join(" ")}]`,
    );
  }
  const windows = windowsLimits.find((name) => host.whole(name) !== 0);
  if (windows !== undefined) throw refusal(`${windows} is for Windows containers only`);
}

function refusal(text: string): ClusterError {
  return new ClusterError("invalid-argument", text);
}
