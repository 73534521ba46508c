import {
  anything,
  array,
  assert,
  constantFrom,
  dictionary,
  oneof,
  property,
  record,
  string,
} from "fast-check";
import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { parseCreate } from "../../../worker/containers/config.ts";
import { Fields } from "../../../worker/containers/fields.ts";
import { mergedLimits } from "../../../worker/containers/limits.ts";
import { plannedMounts } from "../../../worker/containers/mounts.ts";
import {
  atStart,
  inSandbox,
  limitsOf,
  specOf,
  startLimits,
  withDefaults,
} from "../../../worker/containers/sandbox.ts";
import { validate, type ValidationFacts } from "../../../worker/containers/validate.ts";
import type { MountRecord } from "../../../worker/engine/engine.ts";
import type { OciSpec } from "../../../worker/engine/oci.ts";
import { ociSpec } from "../../../worker/engine/spec.ts";

const facts: ValidationFacts = {
  cpuCount: 2,
  lastCapability: 40,
  swapLimit: true,
  cgroupVersion: 1,
  blockWeight: true,
  memoryNodes: 1,
};
const second: ValidationFacts = { ...facts, cgroupVersion: 2, swapLimit: false };
/** Inputs of each generated test; `FUZZ_RUNS` for longer ones. */
const numRuns = Number(process.env["FUZZ_RUNS"] ?? 1_000);

function parsed(hostConfig: object, config: object = {}) {
  return parseCreate({ Image: "x", ...config, HostConfig: hostConfig });
}

t.test("what cannot be done is refused by name", (t) => {
  const cases: readonly (readonly [object, string])[] = [
    [{ VolumeDriver: "nope" }, 'plugin "nope" not found'],
    [{ Runtime: "kata" }, "unknown or invalid runtime name: kata"],
    [{ Isolation: "hyperv" }, "invalid isolation mode: hyperv"],
    [{ Cgroup: "container:x" }, "invalid cgroup mode: container:x"],
    [{ StorageOpt: { size: "1g" } }, "--storage-opt is supported only for overlay"],
    [
      { DeviceRequests: [{ Driver: "cdi", Capabilities: [["gpu", "nvidia"]] }] },
      'could not select device driver "cdi" with capabilities: [[gpu nvidia]]',
    ],
    [{ CgroupParent: "/x/../y" }, "invalid cgroup parent"],
    [{ CpuPercent: 5 }, "CpuPercent is for Windows containers only"],
    [{ DeviceCgroupRules: ["c 1:3"] }, "invalid device cgroup rule format: 'c 1:3'"],
    [
      { Mounts: [{ Type: "tmpfs", Target: "/x", TmpfsOptions: { Options: [["a", "b", "c"]] } }] },
      "invalid option array",
    ],
  ];
  for (const [hostConfig, text] of cases) {
    t.throws(
      () => validate(parsed(hostConfig), facts),
      { message: new RegExp(text.replace(/[[\]()"]/g, "\\$&")) },
      text,
    );
  }
  for (const harmless of [
    { Runtime: "runc" },
    { Isolation: "default" },
    { VolumeDriver: "local" },
    { Links: [] },
    { CpuCount: 0 },
  ]) {
    t.doesNotThrow(() => validate(parsed(harmless), facts), JSON.stringify(harmless));
  }
  t.throws(() => validate(parsed({}, { StopSignal: "SIGNOPE" }), facts), /SIGNOPE/);
  t.end();
});

t.test("what the kernel does not have is warned of and left out, or refused", (t) => {
  const hostConfig = {
    Memory: 8e6,
    MemorySwap: 9e6,
    MemorySwappiness: 10,
    OomKillDisable: true,
    KernelMemoryTCP: 1e6,
  };
  const request = parsed(hostConfig);
  t.strictSame(validate(request, facts), []);
  t.equal(validate(request, second).length, 4);
  t.match(startLimits(request.hostConfig, facts, undefined), {
    memory: { limit: 8e6, swap: 9e6, swappiness: 10, disableOOMKiller: true, kernelTCP: 1e6 },
  });
  t.strictSame(startLimits(request.hostConfig, second, undefined), { memory: { limit: 8e6 } });
  t.throws(() => validate(parsed({ CpuRealtimeRuntime: 1000 }), second), /real-time scheduler/);
  for (const MemorySwap of [undefined, 8e6])
    t.match(validate(parsed({ Memory: 8e6, MemorySwap }), second), [/Memory limited without swap\.$/]);
  t.strictSame(validate(parsed({ Memory: 8e6, MemorySwap: -1 }), second), []);
  const without = { ...facts, blockWeight: false };
  t.match(
    validate(parsed({ BlkioWeight: 5 }), without),
    [/does not support Block I\/O weight/],
    "whatever it is",
  );
  t.equal(withDefaults(parsed({ BlkioWeight: 100 }).hostConfig, without).BlkioWeight, 0);
  t.equal(withDefaults(parsed({}).hostConfig, facts).CgroupnsMode, "host");
  t.equal(withDefaults(parsed({}).hostConfig, second).CgroupnsMode, "private");
  t.throws(
    () => validate(parsed({ CpusetMems: "0,1" }), facts),
    /Requested memory nodes are not available - requested 0,1, available: 0/,
  );
  t.strictSame(limitsOf(parsed({ BlkioWeight: 100 }).hostConfig, facts), { blockIO: { weight: 100 } });
  const readBps = { throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 5 }] };
  t.strictSame(startLimits(parsed({ BlkioWeight: 100 }).hostConfig, facts, readBps).blockIO, {
    weight: 100,
    ...readBps,
  });
  t.end();
});

t.test("an update keeps to the way in which processor time was given", (t) => {
  const merged = (before: object, change: object) =>
    mergedLimits(parsed(before).hostConfig, parsed(change).hostConfig, new Fields(change));
  t.throws(() => merged({ CpuQuota: 50_000 }, { NanoCpus: 1e9 }), {
    message: "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
  });
  t.throws(() => merged({ NanoCpus: 1e9 }, { CpuPeriod: 50_000 }), {
    message: "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
  });
  t.equal(merged({ NanoCpus: 1e9 }, { NanoCpus: 5e8 }).NanoCpus, 5e8);
  t.equal(merged({ PidsLimit: 5 }, { PidsLimit: 0 }).PidsLimit, 0);
  t.equal(merged({ CpuShares: 5 }, { CpuShares: 0 }).CpuShares, 5);
  t.end();
});

t.test("mounts of images: all of one or what is below a path in it, read-only whatever was asked", (t) => {
  const mounts = (mount: object, borrowed: Parameters<typeof plannedMounts>[2] = []) =>
    plannedMounts(parsed({ Mounts: [{ Type: "image", Target: "/x", ...mount }] }), [], borrowed);
  const planned = { type: "image", reference: "bb:1", subpath: "", target: "/x", readOnly: true } as const;
  t.strictSame(mounts({ Source: "bb:1", ReadOnly: false }), [planned]);
  for (const Subpath of ["a/b", "a/../b", "./a"])
    t.strictSame(mounts({ Source: "bb:1", ImageOptions: { Subpath } }), [{ ...planned, subpath: Subpath }]);
  for (const Subpath of ["/etc", "..", "a/../../b"])
    t.throws(() => mounts({ Source: "bb:1", ImageOptions: { Subpath } }), {
      code: "invalid-argument",
      message: 'invalid mount config for type "image": subpath must be a relative path within the image',
    });
  t.throws(() => mounts({}), { message: /type "image": field Source must not be empty/ });
  const record = {
    type: "image",
    name: "bb:1",
    imageId: "sha256:1",
    subpath: "a",
    source: "/s",
    target: "/y",
  } as const;
  t.strictSame(mounts({ Source: "bb:1" }, [{ ...record, readOnly: true, anonymous: false }]), [
    planned,
    { type: "image", reference: "sha256:1", subpath: "a", target: "/y", readOnly: true },
  ]);
  t.end();
});

t.test("mounts of another container are taken over as it has them", (t) => {
  const borrowed = (record: object): unknown => {
    const rest = { source: "/s", target: "/y", readOnly: false, anonymous: false };
    return plannedMounts(parsed({}), [], [{ ...rest, ...record } as MountRecord])[0];
  };
  const bind = { type: "bind", options: ["bind", "rw", "rslave"], createSource: true } as const;
  t.match(borrowed(bind), { options: ["bind", "rw", "rslave"], createSource: true });
  t.match(borrowed({ ...bind, readOnly: true }), { options: ["bind", "ro", "rslave"], readOnly: true });
  t.match(borrowed({ type: "volume", name: "v", subpath: "a" }), { name: "v", volume: { subpath: "a" } });
  const tmpfs = { type: "tmpfs", source: "", options: ["nosuid", "size=64k"] };
  t.match(borrowed(tmpfs), { options: ["nosuid", "size=64k"] });
  t.match(borrowed({ ...tmpfs, readOnly: true }), { options: ["nosuid", "size=64k", "ro"] });
  t.match(borrowed({ type: "bind" }), { options: ["rbind", "rw", "rprivate"] }, "records of older versions");
  t.end();
});

t.test("at a start our files change and the user's own mounts at their places do not", (t) => {
  const mount = (destination: string) => ({ destination, type: "bind", source: "/before", options: [] });
  const spec = {
    mounts: ["/etc/hosts", "/etc/hostname"].map(mount),
    linux: { namespaces: [], resources: { devices: [] } },
  } as unknown as OciSpec;
  const files = { hosts: "/ours/hosts", resolvConf: "/ours/resolv.conf", hostname: "/ours/hostname" };
  const facts = { join: {}, network: "own", files, limits: {}, devices: [] } as const;
  const sources = atStart(spec, facts, new Set(["/etc/hosts"])).mounts.map(({ source }) => source);
  t.strictSame(sources, ["/before", "/ours/hostname"]);
  t.end();
});

t.test("at a start devices have the numbers that the host gives them now", (t) => {
  const node = { type: "c", fileMode: 0o660, uid: 0, gid: 0 } as const;
  const old = { ...node, path: "/dev/usb", major: 188, minor: 0 };
  const standard = { allow: true, type: "c", major: 1, minor: 3, access: "rwm" };
  const byHand = { allow: true, type: "b", major: 8, access: "r" };
  const specWith = (rules: object[]): OciSpec =>
    ({
      mounts: [],
      linux: { namespaces: [], resources: { devices: rules }, devices: [old] },
    }) as unknown as OciSpec;
  const now = { ...old, minor: 4, access: "rw" };
  const facts = { join: {}, network: "own", files: undefined, limits: {}, devices: [now] } as const;
  const none = new Set<string>();
  const rules = [{ allow: false, access: "rwm" }, standard];
  const given = specWith([...rules, { allow: true, type: "c", major: 188, minor: 0, access: "rwm" }, byHand]);
  t.match(atStart(given, facts, none).linux, {
    devices: [{ path: "/dev/usb", minor: 4 }],
    resources: {
      devices: [...rules, byHand, { allow: true, type: "c", major: 188, minor: 4, access: "rw" }],
    },
  });
  const open = [{ allow: true, access: "rwm" }];
  t.strictSame(
    atStart(specWith(open), facts, none).linux.resources.devices,
    open,
    "a privileged one has all",
  );
  t.end();
});

t.test("who joins another's network leaves its settings alone", (t) => {
  const joining = parsed({ NetworkMode: "container:x" });
  const spec = {
    process: { capabilities: { bounding: [], effective: [], permitted: [] } },
    mounts: [],
    linux: { namespaces: [], resources: { devices: [] }, cgroupsPath: "/x/y", sysctl: { a: "1" } },
  } as unknown as OciSpec;
  const { sysctl } = inSandbox(spec, joining, { ...facts, held: [], devices: [] }).linux;
  t.strictSame(Object.keys(sysctl), []);
  t.end();
});

t.test("mounts: options of a tmpfs, read-only all the way down", (t) => {
  const mounts = (mount: object) => plannedMounts(parsed({ Mounts: [{ Target: "/x", ...mount }] }), [], []);
  t.match(mounts({ Type: "tmpfs", TmpfsOptions: { Options: [["exec"], ["uid", "7"]] } }), [
    { options: ["nosuid", "nodev", "rw", "exec", "uid=7"] },
  ]);
  const bind = { Type: "bind", Source: "/s", ReadOnly: true };
  t.match(mounts({ ...bind, BindOptions: { ReadOnlyForceRecursive: true } }), [
    { options: ["rbind", "rro", "rprivate"] },
  ]);
  t.throws(
    () => mounts({ ...bind, ReadOnly: false, BindOptions: { ReadOnlyForceRecursive: true } }),
    /needs a read-only/,
  );
  t.throws(
    () => mounts({ ...bind, BindOptions: { ReadOnlyForceRecursive: true, Propagation: "shared" } }),
    /rprivate/,
  );
  t.end();
});

const names = [
  "Image",
  "Env",
  "Cmd",
  "Labels",
  "Healthcheck",
  "StopSignal",
  "HostConfig",
  "ExposedPorts",
  "Volumes",
  "User",
  "Tty",
];
const hostNames = [
  "Binds",
  "Mounts",
  "Tmpfs",
  "Memory",
  "NanoCpus",
  "PortBindings",
  "RestartPolicy",
  "Devices",
  "CapAdd",
  "SecurityOpt",
  "Ulimits",
  "Sysctls",
  "LogConfig",
  "IpcMode",
  "NetworkMode",
  "DeviceRequests",
  "StorageOpt",
  "BlkioDeviceReadBps",
];

t.test("no body makes the parser do anything but refuse or read", (t) => {
  const value = oneof(
    anything({ maxDepth: 3 }),
    string(),
    array(string()),
    array(dictionary(string(), anything())),
  );
  const host = dictionary(oneof(constantFrom(...hostNames), string()), value);
  const body = oneof(
    anything(),
    record({ HostConfig: host }),
    dictionary(oneof(constantFrom(...names), string()), oneof(value, host)),
  );
  assert(
    property(body, (given) => {
      try {
        const request = parseCreate(JSON.parse(JSON.stringify(given) ?? "null"));
        validate(request, facts);
        plannedMounts(request, [], []);
        const plain = ociSpec({
          id: "f".repeat(64),
          spec: specOf(request),
          image: {
            env: [],
            entrypoint: [],
            cmd: ["sh"],
            user: "",
            workingDir: "",
            labels: {},
            exposedPorts: [],
            volumes: [],
          },
          resources: {},
          network: { kind: "none" },
          user: { uid: 0, gid: 0, additionalGids: [] },
          mounts: [],
          cgroupPath: "/x",
          host: { ...facts, machine: "x86_64", kernelVersion: "6.1.0", apparmor: false, hostname: "h" },
        });
        inSandbox(plain, request, { held: [], ...facts, devices: [] });
      } catch (error) {
        return error instanceof ClusterError && error.code !== "internal";
      }
      return true;
    }),
    { numRuns },
  );
  t.end();
});
