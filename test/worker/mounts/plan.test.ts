import t from "tap";

import type { BindOptions, Mount } from "../../../model/service.ts";
import { cleanPath, planMounts, propagated } from "../../../worker/mounts/plan.ts";

const base = { target: "/t", readOnly: false } as const;

for (const { name, mount, message } of [
  {
    name: "a relative target",
    mount: { ...base, type: "tmpfs", target: "t" },
    message: "invalid mount target, must be an absolute path: t",
  },
  {
    name: "the root",
    mount: { ...base, type: "tmpfs", target: "/a/.." },
    message: /destination can't be '\/'/,
  },
  {
    name: "a relative bind",
    mount: { ...base, type: "bind", source: "s" },
    message: "invalid bind mount source, must be an absolute path: s",
  },
  {
    name: "a volume that is a path",
    mount: { ...base, type: "volume", source: "../x" },
    message: /invalid characters for a local volume name/,
  },
  {
    name: "an unknown driver",
    mount: { ...base, type: "volume", source: "vol", volume: { driverName: "nfs" } },
    message: 'plugin "nfs" not found',
  },
  {
    name: "driver options",
    mount: { ...base, type: "volume", source: "vol", volume: { driverOptions: { size: "1" } } },
    message: 'invalid option: "size"',
  },
  {
    name: "driver options without a device",
    mount: { ...base, type: "volume", source: "vol", volume: { driverOptions: { o: "x" } } },
    message: 'missing required option: "device"',
  },
  {
    name: "driver options that look like the tool's own",
    mount: {
      ...base,
      type: "volume",
      source: "vol",
      volume: { driverOptions: { type: "-x", device: "/dev/x" } },
    },
    message: /invalid value for a volume option/,
  },
  {
    name: "a bind of a relative path",
    mount: {
      ...base,
      type: "volume",
      source: "vol",
      volume: { driverOptions: { type: "none", o: "bind", device: "x" } },
    },
    message: /invalid device of a bind/,
  },
] satisfies { name: string; mount: Mount; message: string | RegExp }[]) {
  t.test(`${name} is refused`, (t) => {
    t.throws(() => planMounts({ mounts: [mount] }, []), { code: "invalid-argument", message });
    t.end();
  });
}

t.test("two mounts on one place are refused", (t) => {
  const mount: Mount = { ...base, type: "tmpfs" };
  t.throws(() => planMounts({ mounts: [mount, { ...mount, target: "/t/" }] }, []), {
    message: "Duplicate mount point: /t",
  });
  t.end();
});

t.test("the image's volumes are anonymous ones unless a mount covers them", (t) => {
  const mounts: Mount[] = [{ ...base, type: "volume", source: "named", target: "/data" }];
  t.strictSame(
    planMounts({ mounts }, ["/data/", "/more", "relative"]).map((mount) => [
      mount.target,
      mount.type === "volume" && mount.name,
    ]),
    [
      ["/data", "named"],
      ["/more", ""],
    ],
  );
  t.end();
});

t.test("options of binds and tmpfs", (t) => {
  const [bind, tmpfs] = planMounts(
    {
      mounts: [
        {
          type: "bind",
          source: "/s",
          target: "/a",
          readOnly: true,
          bind: { propagation: "rslave", nonRecursive: true },
        },
        { type: "tmpfs", target: "/b", readOnly: false, tmpfs: { sizeBytes: 10, mode: 0o700 } },
      ],
    },
    [],
  );
  t.match(bind, { options: ["bind", "ro", "rslave"] });
  t.match(tmpfs, { options: ["nosuid", "nodev", "noexec", "rw", "size=10", "mode=700"] });
  t.end();
});

t.test("paths are made plain", (t) => {
  for (const [path, want] of [
    ["/a//b/./c/", "/a/b/c"],
    ["/..", "/"],
    ["/a/../../b", "/b"],
    ["a/./b", "a/b"],
  ] as const) {
    t.equal(cleanPath(path), want, path);
  }
  t.end();
});

t.test(
  "a bind that shows the engine's own directories is a slave of the host, unless told otherwise",
  (t) => {
    const options = (source: string, bind: BindOptions = {}): readonly string[] => {
      const [planned] = planMounts({ mounts: [{ ...base, type: "bind", source, bind }] }, []);
      return planned?.type === "bind" ? propagated(planned, ["/var/lib/shoal", "/run/shoal"]) : [];
    };
    for (const source of ["/", "/var/lib", "/run/shoal", "/run/"])
      t.strictSame(options(source), ["rbind", "rw", "rslave"], source);
    for (const source of ["/var/li", "/run/shoal/containers", "/srv"])
      t.strictSame(options(source), ["rbind", "rw", "rprivate"], source);
    t.strictSame(options("/", { propagation: "rprivate" }), ["rbind", "rw", "rprivate"]);
    t.end();
  },
);
