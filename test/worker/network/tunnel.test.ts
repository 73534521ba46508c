import { createPublicKey } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { Run } from "../../../worker/network/command.ts";
import { newPair, Tunnel } from "../../../worker/network/tunnel.ts";
import { VirtualClock } from "../../sim/clock.ts";

/** A host that has some programs, and perhaps the kernel's WireGuard. */
function hostWith(programs: readonly string[], kernel: "with" | "without"): { run: Run; lines: string[] } {
  const lines: string[] = [];
  const run: Run = async (argv) => {
    const [program = ""] = argv;
    lines.push(argv.join(" "));
    if (program !== "ip" && !programs.includes(program)) {
      throw new ClusterError("unavailable", `cannot run ${program}: there is no such program on the PATH`);
    }
    const isTrial = argv.includes("wireguard") && kernel === "without";
    const isAbsent = argv.includes("show") || (argv.includes("delete") && kernel === "without");
    return { code: isTrial || isAbsent ? 2 : 0, stdout: "", stderr: "" };
  };
  return { run, lines };
}

const abilities = [
  { name: "the kernel's own", programs: ["wg"], kernel: "with", tun: false, want: /^$/ },
  { name: "a process", programs: ["wg", "wireguard-go"], kernel: "without", tun: true, want: /^$/ },
  { name: "no wg", programs: [], kernel: "with", tun: true, want: /cannot run wg/ },
  {
    name: "neither",
    programs: ["wg"],
    kernel: "without",
    tun: true,
    want: /kernel has no WireGuard.*wireguard-go/,
  },
  {
    name: "no tun",
    programs: ["wg", "wireguard-go"],
    kernel: "without",
    tun: false,
    want: /no \/dev\/net\/tun/,
  },
] as const;

for (const { name, programs, kernel, tun, want } of abilities) {
  t.test(`what a host can do: ${name}`, async (t) => {
    const { run, lines } = hostWith(programs, kernel);
    const deps = { clock: new VirtualClock(), run, directory: t.testdir(), hasTun: async () => tun };
    const tunnel = new Tunnel(deps);
    await tunnel.open();
    const { keys, problem = "" } = tunnel.offer;
    t.match(problem, want);
    t.equal(keys.length, problem === "" ? 1 : 0);
    if (kernel === "with" && problem === "") t.ok(lines.includes("ip link delete dev shoal-wgtest"));
  });
}

t.test("what a killed process left of the test does not hide the kernel's own", async (t) => {
  let isThere = true;
  const { run: others } = hostWith(["wg"], "with");
  const run: Run = async (argv, input) => {
    if (!argv.includes("shoal-wgtest")) return await others(argv, input);
    const isRefused = argv.includes("add") === isThere;
    if (!isRefused) isThere = !isThere;
    return { code: isRefused ? 2 : 0, stdout: "", stderr: isRefused ? "RTNETLINK answers: File exists" : "" };
  };
  const deps = { clock: new VirtualClock(), run, directory: t.testdir(), hasTun: async () => false };
  const tunnel = new Tunnel(deps);
  await tunnel.open();
  t.equal(tunnel.offer.problem, undefined);
  t.equal(isThere, false, "and nothing is left of this one");
});

t.test("a host that can make no tunnels tries again after a while", async (t) => {
  const programs: string[] = [];
  const clock = new VirtualClock();
  const tunnel = new Tunnel({ clock, run: hostWith(programs, "with").run, directory: t.testdir() });
  await tunnel.open();
  let calls = 0;
  const stop = tunnel.watch(() => (calls += 1));
  programs.push("wg");
  await tunnel.turn([], "unused");
  t.equal(tunnel.offer.keys.length, 0, "not at once");
  await clock.advance(300_000);
  await tunnel.turn([], "unused");
  t.equal(tunnel.offer.keys.length, 1);
  t.equal(calls, 1, "whoever tells the managers hears of it");
  stop();
});

t.test("keys are Curve25519's, are kept for a successor, and nobody else can read them", async (t) => {
  const { privateKey, publicKey } = newPair();
  t.equal(Buffer.from(privateKey, "base64").length, 32);
  const x = Buffer.from(publicKey, "base64").toString("base64url");
  t.equal(
    createPublicKey({ key: { kty: "OKP", crv: "X25519", x }, format: "jwk" }).asymmetricKeyType,
    "x25519",
  );

  const directory = t.testdir();
  const deps = { clock: new VirtualClock(), run: hostWith(["wg"], "with").run, directory, overlapMs: 0 };
  const first = new Tunnel(deps);
  await first.open();
  const before = first.offer.keys;
  const second = new Tunnel(deps);
  await second.open();
  t.strictSame(second.offer.keys, before);
  for (const name of readdirSync(directory)) t.equal(statSync(`${directory}/${name}`).mode & 0o077, 0, name);

  second.replaceKey();
  const told = (): string[] => second.offer.keys.map((key) => key.publicKey);
  const orders: string[] = [];
  for (let step = 0; step < 6; step += 1) {
    orders.push(second.offer.keys.map(({ slot }) => slot).join(" "));
    await second.turn(told(), "used");
  }
  t.strictSame([...new Set(orders)], ["0", "0 1", "1 0", "1"]);
  t.strictSame(
    readdirSync(directory).toSorted(),
    ["keys.json", "shoal-wg1.key"],
    "what is not used any more is gone",
  );
  t.notMatch(readFileSync(`${directory}/keys.json`, "utf8"), before[0]?.publicKey);
});

t.test("a kernel that refuses is trouble in words, and what was done is not believed", async (t) => {
  const { run, lines } = hostWith(["wg"], "with");
  let refuses = true;
  const tunnel = new Tunnel({
    clock: new VirtualClock(),
    run: async (argv) => {
      const done = await run(argv);
      const isRefused = refuses && argv.includes("listen-port");
      return isRefused ? { code: 1, stdout: "", stderr: "Address already in use\n" } : done;
    },
    directory: t.testdir(),
    settle: async () => [],
  });
  await tunnel.open();
  const device = { name: "shoal-wg0", address: "198.18.0.1", port: 51_822, publicKey: "k", mtu: 1440 };
  const trouble = await tunnel.raise({ devices: [device], peers: [] });
  t.match(trouble, [/^wg set shoal-wg0 .*Address already in use$/]);
  refuses = false;
  lines.length = 0;
  t.strictSame(await tunnel.raise({ devices: [device], peers: [] }), []);
  t.ok(
    lines.some((line) => line.startsWith("ip -j address show")),
    "it reads the kernel again",
  );
});

t.test("a device that goes while it is looked at is gone, and not one without a key", async (t) => {
  let state: "present" | "going" | "gone" = "present";
  const address = "198.18.0.1";
  const link = [
    { mtu: 1420, flags: ["UP"], group: "21320", addr_info: [{ family: "inet", local: address }] },
  ];
  const run: Run = async (argv) => {
    const line = argv.join(" ");
    if (line === "ip -j address show dev shoal-wg0") {
      return { code: state === "gone" ? 1 : 0, stdout: JSON.stringify(link), stderr: "" };
    }
    if (line !== "wg show shoal-wg0 dump")
      return { code: line.includes("show") ? 1 : 0, stdout: "", stderr: "" };
    if (state === "going") state = "gone";
    return { code: state === "gone" ? 1 : 0, stdout: "private\tpublic\t51822\toff\n", stderr: "" };
  };
  const tunnel = new Tunnel({
    clock: new VirtualClock(),
    run,
    directory: t.testdir(),
    settle: async () => [],
  });
  await tunnel.open();
  const device = { name: "shoal-wg0", address, port: 51_822, publicKey: "public", mtu: 1420 };
  await tunnel.raise({ devices: [device], peers: [] });
  t.strictSame(await tunnel.look(), [], "as it was made");
  state = "going";
  t.strictSame(await tunnel.look(), ["the device shoal-wg0 is gone"]);
});
