/** What goes over a device, as a raw socket sees it, and packets that no honest host would send. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/** Debian's own; Node.js has no raw sockets. */
const python = "/usr/bin/python3";

const captureProgram = `
import json, select, socket, sys
device, *markers = sys.argv[1:]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
wire.bind((device, 0))
print("ready", flush=True)
kinds, found = {}, set()
while True:
    ready = select.select([wire, sys.stdin], [], [])[0]
    if wire not in ready:
        break
    data = wire.recv(65535)
    found.update(marker for marker in markers if marker.encode() in data)
    kind = "ether " + data[12:14].hex()
    if data[12:14] == b"\\x08\\x00":
        ports = 14 + (data[14] & 15) * 4
        kind = f"ip {data[23]}"
        if data[23] in (6, 17):
            kind += f" {int.from_bytes(data[ports + 2:ports + 4], 'big')}"
    kinds[kind] = kinds.get(kind, 0) + 1
print(json.dumps({"kinds": kinds, "found": sorted(found)}), flush=True)
`;

const injectProgram = `
import socket, sys
host, vni, mac, text = sys.argv[1:]
frame = bytes.fromhex(mac.replace(":", "")) + b"\\x02" * 6 + b"\\x08\\x00" + text.encode().ljust(60)
packet = b"\\x08\\0\\0\\0" + int(vni).to_bytes(3, "big") + b"\\0" + frame
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(packet, (host, 4789))
`;

export interface Captured {
  /** How many packets: "ip 17 4789" is UDP to port 4789, "ether 0806" is ARP. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Those of the markers that some packet had in clear. */
  readonly found: readonly string[];
}

/** Settles once it captures. */
export async function capture(
  namespace: string,
  device: string,
  markers: readonly string[],
): Promise<{ stop(): Promise<Captured> }> {
  const child = spawn(
    "nsenter",
    [`--net=${namespace}`, python, "-u", "-c", captureProgram, device, ...markers],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const lines = createInterface({ input: child.stdout });
  const next = async (): Promise<string> => String((await once(lines, "line"))[0]);
  if ((await next()) !== "ready") throw new Error(`cannot capture on ${device}`);
  return {
    async stop() {
      const printed = next();
      child.stdin.end();
      return JSON.parse(await printed) as Captured;
    },
  };
}

/** A frame of an overlay with that text in it, in clear, as from anybody who reaches the host. */
export function inject(
  namespace: string,
  to: { readonly host: string; readonly vni: number; readonly mac: string; readonly text: string },
): void {
  const { status, stderr } = spawnSync(
    "nsenter",
    [`--net=${namespace}`, python, "-c", injectProgram, to.host, String(to.vni), to.mac, to.text],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Error(`cannot inject: ${stderr}`);
}
