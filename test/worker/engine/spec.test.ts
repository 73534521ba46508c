import t from "tap";

import type { ContainerSpec } from "../../../model/service.ts";
import type { ImageConfig } from "../../../worker/engine/engine.ts";
import {
  capabilitiesOf,
  commandOf,
  defaultCapabilities,
  environmentOf,
  rlimitsOf,
} from "../../../worker/engine/process.ts";
import { defaultSeccomp } from "../../../worker/engine/seccomp.ts";
import { plainSpec } from "./plain.ts";
import { type HostFacts, ociSpec, type SpecInput } from "../../../worker/engine/spec.ts";

const host: HostFacts = {
  cgroupVersion: 1,
  machine: "x86_64",
  kernelVersion: "6.1.0-18-amd64",
  lastCapability: 40,
  swapLimit: true,
  apparmor: false,
  hostname: "host",
};
const image: ImageConfig = {
  env: ["PATH=/image", "A=image"],
  entrypoint: ["/entry"],
  cmd: ["default"],
  user: "",
  workingDir: "/work",
  labels: {},
  exposedPorts: [],
  volumes: [],
};
const id = "f".repeat(64);

function input(fields: Partial<ContainerSpec> = {}, rest: Partial<SpecInput> = {}): SpecInput {
  return {
    id,
    image,
    resources: {},
    network: { kind: "namespace", path: "/run/netns/x" },
    user: { uid: 0, gid: 0, additionalGids: [] },
    mounts: [],
    cgroupPath: `/shoal/${id}`,
    host,
    ...rest,
    spec: { ...plainSpec, ...fields },
  };
}

for (const { name, command, args, want } of [
  {
    name: "nothing given: the image's entrypoint and command",
    command: [],
    args: [],
    want: "/entry default",
  },
  { name: "arguments replace the image's command", command: [], args: ["x"], want: "/entry x" },
  { name: "a command replaces both", command: ["/own"], args: [], want: "/own" },
  { name: "a command with arguments", command: ["/own"], args: ["x"], want: "/own x" },
]) {
  t.test(name, (t) => {
    t.equal(commandOf({ command, args }, image).join(" "), want);
    t.end();
  });
}

t.test("no command anywhere is refused", (t) => {
  t.throws(() => commandOf({ command: [], args: [] }, { entrypoint: [], cmd: [] }), {
    message: "no command specified",
  });
  t.end();
});

t.test("environment: later lines win, a bare name removes", (t) => {
  t.strictSame(environmentOf([["A=1", "B=1"], ["A=2", "C=x=y"], ["B"]]), ["A=2", "C=x=y"]);
  t.end();
});

for (const { name, add, drop, want } of [
  { name: "default", add: [], drop: [], want: defaultCapabilities.length },
  { name: "one added, with or without prefix", add: ["NET_ADMIN", "cap_sys_time"], drop: [], want: 16 },
  { name: "all dropped, one added", add: ["CHOWN"], drop: ["ALL"], want: 1 },
  { name: "all added, one dropped", add: ["ALL"], drop: ["SYS_ADMIN"], want: 40 },
]) {
  t.test(`capabilities: ${name}`, (t) => {
    t.equal(capabilitiesOf(add, drop, 40).length, want);
    t.end();
  });
}

t.test("what no container can have is refused", (t) => {
  t.throws(() => capabilitiesOf(["FLY"], [], 40), { code: "invalid-argument" });
  t.throws(() => rlimitsOf([{ name: "files", soft: 1, hard: 1 }]), { message: "invalid ulimit type: files" });
  t.throws(() => ociSpec(input({ seccomp: { mode: "custom", profile: "no" } })), {
    code: "invalid-argument",
  });
  t.end();
});

t.test("the default sandbox", (t) => {
  const spec = ociSpec(input());
  t.strictSame(spec.process.capabilities.bounding, [...defaultCapabilities]);
  t.ok(spec.linux.maskedPaths.includes("/proc/kcore") && spec.linux.readonlyPaths.includes("/proc/sys"));
  t.equal(spec.linux.resources.devices[0]?.allow, false);
  t.equal(spec.process.oomScoreAdj, 0, "what protects shoald from the kernel is not passed on");
  t.strictSame(
    spec.linux.namespaces.map(({ type }) => type),
    ["pid", "ipc", "uts", "mount", "network"],
  );
  t.equal(spec.hostname, id.slice(0, 12));
  t.equal(spec.process.cwd, "/work");
  t.strictSame(spec.process.env, ["PATH=/image", `HOSTNAME=${id.slice(0, 12)}`, "A=image"]);
  t.equal(spec.linux.resources.memory, undefined);
  t.end();
});

t.test("without privileges there are no effective capabilities", (t) => {
  const { capabilities } = ociSpec(input({}, { user: { uid: 1000, gid: 0, additionalGids: [] } })).process;
  t.strictSame(capabilities.effective, []);
  t.strictSame(capabilities.bounding, [...defaultCapabilities]);
  t.end();
});

t.test("the host's network: no namespace, no sysctl of it, the host's name and a bound /sys", (t) => {
  const spec = ociSpec(input({}, { network: { kind: "host" } }));
  t.notOk(spec.linux.namespaces.some(({ type }) => type === "network"));
  t.strictSame(spec.linux.sysctl, {});
  t.equal(spec.hostname, "host");
  const sys = spec.mounts.find(({ destination }) => destination === "/sys");
  t.equal(sys?.type, "bind");
  t.ok(
    sys?.options.includes("bind") && sys.options.includes("ro"),
    "nothing that is mounted below /sys comes along",
  );
  t.end();
});

t.test("limits: CPU as quota with the kernel's floor, memory with as much swap, processes", (t) => {
  const limits = { nanoCpus: 1_500_000_000, memoryBytes: 1000, pids: 9 };
  t.match(ociSpec(input({}, { resources: { limits } })).linux.resources, {
    cpu: { quota: 150_000, period: 100_000 },
    memory: { limit: 1000, swap: 2000 },
    pids: { limit: 9 },
  });
  const small = ociSpec(
    input({}, { resources: { limits: { nanoCpus: 1 } }, host: { ...host, swapLimit: false } }),
  );
  t.equal(small.linux.resources.cpu?.quota, 1000);
  t.end();
});

t.test("mounts replace standard ones and go in order of depth", (t) => {
  const mount = (destination: string): SpecInput["mounts"][number] => ({
    destination,
    type: "bind",
    source: "/s",
    options: [],
  });
  const spec = ociSpec(input({}, { mounts: [mount("/a/b/c"), mount("/dev/shm"), mount("/a")] }));
  const targets = spec.mounts.map(({ destination }) => destination);
  t.equal(targets.filter((target) => target === "/dev/shm").length, 1);
  t.ok(targets.indexOf("/a") < targets.indexOf("/a/b/c"));
  t.end();
});

t.test("an init goes in front of the command when the host has one", (t) => {
  const spec = ociSpec(input({ init: true }, { host: { ...host, initPath: "/usr/bin/tini" } }));
  t.strictSame(spec.process.args, ["/sbin/docker-init", "--", "/entry", "default"]);
  t.end();
});

t.test("cgroup v2 hosts give a cgroup namespace", (t) => {
  const spec = ociSpec(input({}, { host: { ...host, cgroupVersion: 2 } }));
  t.ok(spec.linux.namespaces.some(({ type }) => type === "cgroup"));
  t.end();
});

t.test("seccomp: namespaces and mounts need SYS_ADMIN, clone3 is said not to exist", (t) => {
  const allowed = (capabilities: readonly string[]): Set<string> =>
    new Set(
      defaultSeccomp("x86_64", capabilities).syscalls.flatMap(({ names, action, args }) =>
        action === "SCMP_ACT_ALLOW" && args === undefined ? names : [],
      ),
    );
  const normal = allowed(defaultCapabilities);
  for (const name of ["read", "execve", "chroot", "futex", "openat2"]) t.ok(normal.has(name), name);
  for (const name of [
    "mount",
    "unshare",
    "setns",
    "clone",
    "bpf",
    "keyctl",
    "io_uring_setup",
    "userfaultfd",
    "reboot",
  ]) {
    t.notOk(normal.has(name), name);
  }
  t.ok(allowed(["CAP_SYS_ADMIN"]).has("mount"));
  t.match(defaultSeccomp("x86_64", []).syscalls.at(-1), { names: ["clone3"], errnoRet: 38 });
  t.notOk(ociSpec(input({ seccomp: { mode: "unconfined" } })).linux.seccomp);
  t.end();
});
