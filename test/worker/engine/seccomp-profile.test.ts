import t from "tap";
import { customSeccomp, type SeccompFacts } from "../../../worker/engine/seccomp-profile.ts";

const facts: SeccompFacts = {
  machine: "x86_64",
  kernelVersion: "6.1.0-18-amd64",
  capabilities: ["CAP_CHOWN", "CAP_SYS_PTRACE"],
};

/** Which of the calls named after their conditions are left. */
function left(rules: readonly object[], more: Partial<SeccompFacts> = {}): string[] {
  const syscalls = rules.map((conditions, at) => ({
    names: [`call${at}`],
    action: "SCMP_ACT_ALLOW",
    comment: "why",
    ...conditions,
  }));
  const profile = JSON.stringify({ defaultAction: "SCMP_ACT_ERRNO", syscalls });
  const made = customSeccomp(profile, { ...facts, ...more });
  for (const rule of made.syscalls) t.strictSame(Object.keys(rule).toSorted(), ["action", "names"]);
  return made.syscalls.flatMap(({ names }) => names);
}

for (const { name, rule, holds } of [
  { name: "no condition", rule: {}, holds: true },
  { name: "empty conditions", rule: { includes: {}, excludes: {} }, holds: true },
  { name: "a capability that is held", rule: { includes: { caps: ["CAP_CHOWN"] } }, holds: true },
  { name: "one that is not", rule: { includes: { caps: ["CAP_SYS_ADMIN"] } }, holds: false },
  { name: "all of several", rule: { includes: { caps: ["CAP_CHOWN", "CAP_SYS_ADMIN"] } }, holds: false },
  {
    name: "excluded by one held",
    rule: { excludes: { caps: ["CAP_SYS_ADMIN", "CAP_CHOWN"] } },
    holds: false,
  },
  { name: "not excluded by one that is not", rule: { excludes: { caps: ["CAP_SYS_ADMIN"] } }, holds: true },
  { name: "this architecture", rule: { includes: { arches: ["amd64", "x32"] } }, holds: true },
  { name: "others", rule: { includes: { arches: ["s390", "s390x"] } }, holds: false },
  { name: "excluded here", rule: { excludes: { arches: ["amd64"] } }, holds: false },
  { name: "excluded elsewhere", rule: { excludes: { arches: ["arm"] } }, holds: true },
  { name: "from a kernel that is older", rule: { includes: { minKernel: "4.8" } }, holds: true },
  { name: "from this kernel", rule: { includes: { minKernel: "6.1" } }, holds: true },
  {
    name: "from one that is newer by its second number",
    rule: { includes: { minKernel: "6.10" } },
    holds: false,
  },
  { name: "up to an older kernel", rule: { excludes: { minKernel: "4.8" } }, holds: false },
  { name: "up to a newer one", rule: { excludes: { minKernel: "6.10" } }, holds: true },
  {
    name: "several conditions, of which one fails",
    rule: { includes: { caps: ["CAP_CHOWN"], arches: ["amd64"] }, excludes: { caps: ["CAP_SYS_PTRACE"] } },
    holds: false,
  },
]) {
  t.test(`a rule with ${name} ${holds ? "stays" : "goes"}`, (t) => {
    t.strictSame(left([rule]), holds ? ["call0"] : []);
    t.end();
  });
}

t.test("the map of architectures gives this one and those that it also runs", (t) => {
  const archMap = [
    { architecture: "SCMP_ARCH_AARCH64", subArchitectures: ["SCMP_ARCH_ARM"] },
    { architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
    { architecture: "SCMP_ARCH_RISCV64", subArchitectures: null },
  ];
  const of = (machine: string): unknown =>
    customSeccomp(JSON.stringify({ defaultAction: "SCMP_ACT_ERRNO", archMap }), { ...facts, machine });
  t.strictSame(of("x86_64"), {
    defaultAction: "SCMP_ACT_ERRNO",
    architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    syscalls: [],
  });
  t.match(of("riscv64"), { architectures: ["SCMP_ARCH_RISCV64"] });
  t.match(of("mips"), { architectures: [] });
  t.end();
});

t.test("the form of the OCI specification is taken as it is", (t) => {
  const profile = {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 38,
    architectures: ["SCMP_ARCH_X86_64"],
    flags: ["SECCOMP_FILTER_FLAG_LOG"],
    syscalls: [
      {
        names: ["read", "write"],
        action: "SCMP_ACT_ALLOW",
        args: [{ index: 0, value: 40, op: "SCMP_CMP_NE" }],
      },
    ],
  };
  t.strictSame(customSeccomp(JSON.stringify(profile), facts), profile);
  t.end();
});

t.test("older profiles name one call a rule", (t) => {
  t.strictSame(left([{ name: "read", names: undefined }]), ["read"]);
  t.end();
});

for (const { profile, message } of [
  { profile: "no", message: "opening seccomp profile failed: it is not JSON" },
  { profile: "[]", message: /the profile: not an object/ },
  { profile: "{}", message: /no defaultAction/ },
  {
    profile: { architectures: ["SCMP_ARCH_X86"], archMap: [{ architecture: "SCMP_ARCH_X86_64" }] },
    message: /both 'architectures' and 'archMap' are specified/,
  },
  { profile: { syscalls: {} }, message: /syscalls: not a list/ },
  { profile: { syscalls: [null] }, message: /syscalls: not an object/ },
  { profile: { syscalls: [{ names: ["read"] }] }, message: /a rule has no action/ },
  {
    profile: { syscalls: [{ names: [1], action: "SCMP_ACT_ALLOW" }] },
    message: /names: not a list of texts/,
  },
  {
    profile: { syscalls: [{ name: "a", names: ["b"], action: "SCMP_ACT_ALLOW" }] },
    message: /both 'name' and 'names'/,
  },
  {
    profile: { syscalls: [{ names: ["a"], action: "SCMP_ACT_ALLOW", includes: { minKernel: "new" } }] },
    message: /minKernel is not a version/,
  },
  {
    profile: { syscalls: [{ names: ["a"], action: "SCMP_ACT_ALLOW", includes: { caps: "CAP_CHOWN" } }] },
    message: /caps: not a list/,
  },
]) {
  t.test(`refused: ${JSON.stringify(profile)}`, (t) => {
    const text =
      typeof profile === "string" ? profile : JSON.stringify({ defaultAction: "SCMP_ACT_ERRNO", ...profile });
    t.throws(() => customSeccomp(text, facts), { code: "invalid-argument", message });
    t.end();
  });
}
