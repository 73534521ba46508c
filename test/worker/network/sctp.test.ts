import t from "tap";

import { requireSctp } from "../../../worker/network/sctp.ts";

const port = { protocol: "sctp", targetPort: 9000, publishedPort: 9001, publishMode: "ingress" } as const;
const sctp = { host: false, none: false, ports: [{ ...port, protocol: "tcp" as const }, port] };
const bare = {
  "/proc/net/protocols": "protocol  size sockets\nTCP  2560  3\nUDP  1280  2\n",
  "/proc/sys/kernel/osrelease": "6.1.0-9\n",
  "/lib/modules/6.1.0-9/modules.dep": "kernel/net/sctp/sctp_diag.ko: kernel/net/sctp/other.ko\n",
};
const reader =
  (files: Readonly<Record<string, string>>) =>
  async (path: string): Promise<string> =>
    files[path] ?? "";

t.test(
  "a port of SCTP is refused where the kernel has none, with the port, the reason and a way out",
  async (t) => {
    await t.rejects(requireSctp(reader(bare), sctp), {
      code: "unimplemented",
      message:
        /port 9000\/sctp: the kernel of this host \(6\.1\.0-9\) has no SCTP; .*modprobe sctp.*--constraint-add/,
    });
  },
);

for (const [name, files] of [
  ["it is loaded", { ...bare, "/proc/net/protocols": "protocol  size\nSCTPv6  1\nSCTP  1  0\n" }],
  ["it is built in", { ...bare, "/lib/modules/6.1.0-9/modules.builtin": "kernel/net/sctp/sctp.ko\n" }],
  [
    "it is a module",
    { ...bare, "/lib/modules/6.1.0-9/modules.dep": "kernel/net/sctp/sctp.ko.xz: kernel/lib/a.ko\n" },
  ],
] as const) {
  t.test(`one is published where ${name}`, async (t) => {
    await t.resolves(requireSctp(reader(files), sctp));
  });
}

t.test("nothing is asked of hosts for other ports, nor where none is published", async (t) => {
  const read = async (path: string): Promise<string> => {
    t.fail(path);
    return "";
  };
  await requireSctp(read, { ...sctp, ports: sctp.ports.slice(0, 1) });
  await requireSctp(read, { ...sctp, host: true });
  await requireSctp(read, { ...sctp, none: true });
});
