import t from "tap";

import type { NetworkId, NodeId, TaskId } from "../../../model/ids.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { ownBridge } from "../../../worker/network/bridges.ts";
import type { Run } from "../../../worker/network/command.ts";
import { Fabric } from "../../../worker/network/fabric.ts";
import { portName } from "../../../worker/network/objects.ts";
import { VirtualClock } from "../../sim/clock.ts";

const bridge = (name: string, number: number) => ({
  ...ownBridge(`10.${number}.0.0/16`),
  id: name as NetworkId,
  name,
  device: name,
});

t.test(
  "a device of the host that has the name of a bridge is left alone, the other bridges are made",
  async (t) => {
    const lines: string[] = [];
    const run = async (argv: readonly string[], input = "") => {
      if (argv.includes("-j")) return { code: 0, stdout: "[]\n", stderr: "" };
      const batch = input.trimEnd().split("\n");
      lines.push(...batch);
      const refused = batch.findIndex((line) => line.startsWith("link add eth0 "));
      const stderr = refused < 0 ? "" : `RTNETLINK answers: File exists\nCommand failed -:${refused + 1}\n`;
      return { code: refused < 0 ? 0 : 1, stdout: "", stderr };
    };
    const settled: string[] = [];
    const fabric = new Fabric({
      clock: systemClock,
      run,
      settle: async (links) => {
        settled.push(...links.map(({ device }) => device));
        return [];
      },
    });
    const port = {
      taskId: "t" as never,
      networkId: "eth0" as NetworkId,
      bridge: "eth0",
      device: "eth0",
      address: "10.1.0.2/16",
      gateway: "10.1.0.1",
      mac: "02:42:0a:01:00:02",
    };
    const bridges = [bridge("eth0", 1), bridge("br-a", 2)];
    const state = { wanted: undefined, ports: [port], bridges, underlayMtu: 1500 };
    const { bridges: failures, absent, tasks } = await fabric.sync(state, new Set());
    t.match(failures.get("eth0"), /link add eth0 .*File exists/);
    t.equal(failures.size, 1);
    t.match(tasks.get("t" as never), /eth0 could not be made/);
    t.strictSame([...absent], ["eth0"]);
    t.strictSame(
      lines.filter((line) => /(?:dev|master) eth0\b/.test(line)),
      [],
    );
    t.ok(lines.some((line) => line.includes("dev br-a")));
    t.notOk(settled.includes("eth0"));
    t.ok(settled.includes("br-a"));
  },
);

const overlay = (name: string, number: number) => ({
  id: name as NetworkId,
  name,
  subnet: `10.9.${number}.0/24`,
  gateway: `10.9.${number}.1`,
  vni: 4096 + number,
  internal: false,
  mtu: 0,
  ingress: false,
});

/** A kernel with one address that refuses lines; what it was told. */
function kernel(refuses: RegExp): { run: Run; lines: string[]; reads: () => number } {
  const lines: string[] = [];
  let reads = 0;
  const links = [{ ifname: "eth0", mtu: 1500, addr_info: [{ local: "192.0.2.1", prefixlen: 24 }] }];
  const run: Run = async (argv, input = "") => {
    if (argv.includes("-j")) {
      if (argv.includes("-batch")) reads += 1;
      return { code: 0, stdout: `${JSON.stringify(argv.includes("-batch") ? links : [])}\n`, stderr: "" };
    }
    const batch = input.trimEnd().split("\n");
    lines.push(...batch);
    const stderr = batch
      .map((line, index) =>
        refuses.test(line) ? `Error: It already exists.\nCommand failed -:${index + 1}\n` : "",
      )
      .join("");
    return { code: stderr === "" ? 0 : 1, stdout: "", stderr };
  };
  return { run, lines, reads: () => reads };
}

function stateOf(networks: readonly ReturnType<typeof overlay>[], address = "192.0.2.1") {
  const self = { nodeId: "node1" as NodeId, address };
  const wanted = { self, networks, endpoints: [], services: [], hosts: [] };
  return { wanted, ports: [], bridges: [], underlayMtu: 1500 };
}

t.test(
  "an overlay whose VXLAN number another program has: it alone is refused, with the reason",
  async (t) => {
    const { run, lines, reads } = kernel(/^link add vx4097 /);
    const fabric = new Fabric({ clock: systemClock, run, settle: async () => [] });
    const state = stateOf([overlay("red", 1), overlay("blue", 2)]);
    const { networks, rest, tasks, bridges } = await fabric.sync(state, new Set());
    t.strictSame([...networks.keys()], ["red"]);
    t.match(networks.get("red"), [
      /link add vx4097 .*already exists\. \(another program.*Docker's own swarm.*VXLAN 4097 at port 4789/,
    ]);
    t.strictSame([rest, tasks.size, bridges.size], [[], 0, 0]);
    t.ok(lines.includes("address replace 10.9.2.1/24 dev ov4098 noprefixroute"), "the other one is made");
    t.equal(reads(), 2, "a refusal is looked at a second time");
    lines.length = 0;
    t.strictSame((await fabric.sync(state, new Set())).networks, networks);
    t.equal(reads(), 3, "one that is known already is not");
    t.equal(lines.filter((line) => line.startsWith("link add vx4097")).length, 1);
  },
);

t.test("without its address on the data path, a host says so of every overlay", async (t) => {
  for (const [address, reason] of [
    ["192.0.2.7", /need the data path address 192\.0\.2\.7 on this host: its addresses are 192\.0\.2\.1/],
    ["", /none is known/],
    ["2001:db8::1", /need an IPv4 address/],
  ] as const) {
    const { run } = kernel(/^$/);
    const fabric = new Fabric({ clock: systemClock, run, settle: async () => [] });
    const { networks } = await fabric.sync(
      stateOf([overlay("red", 1), overlay("blue", 2)], address),
      new Set(),
    );
    t.strictSame([...networks.keys()], ["red", "blue"]);
    for (const reasons of networks.values()) t.match(reasons, [reason]);
  }
});

t.test(
  "what is left of a link that is made anew is taken away before, and not taken for the new one",
  async (t) => {
    const port = {
      taskId: "t" as TaskId,
      networkId: "br-a" as NetworkId,
      bridge: "br-a",
      device: "eth0",
      address: "10.1.0.2/16",
      gateway: "10.1.0.1",
      mac: "02:42:0a:01:00:02",
    };
    const device = portName(port.taskId, port.bridge);
    let lines: string[] = [];
    const run = async (argv: readonly string[], input = "") => {
      if (argv.includes("-j")) return { code: 0, stdout: "[]\n", stderr: "" };
      const batch = input.trimEnd().split("\n");
      lines.push(...batch);
      const absent = batch.indexOf(`link delete dev ${device}`) + 1;
      const stderr = absent === 0 ? "" : `Cannot find device "${device}"\nCommand failed -:${absent}\n`;
      return { code: absent === 0 ? 0 : 1, stdout: "", stderr };
    };
    const clock = new VirtualClock();
    const fabric = new Fabric({ clock, run, settle: async () => [] });
    const during = async (what: () => Promise<unknown>): Promise<string[]> => {
      lines = [];
      await what();
      return lines;
    };
    const sync = (dying: string[], ...ports: (typeof port)[]) =>
      fabric.sync(
        { wanted: undefined, ports, bridges: [bridge("br-a", 1)], underlayMtu: 1500 },
        new Set(dying),
      );
    const removal = [`link delete dev ${device}`];
    t.strictSame(await during(() => fabric.makeRoom([device])), removal, "a new process does not know");
    await sync([], port);
    t.strictSame(
      await during(() => fabric.makeRoom(["sv-other"])),
      [],
      "names of no former link cost nothing",
    );
    t.strictSame(await during(() => sync([device])).then((all) => all.includes(removal[0] ?? "")), false);
    t.strictSame(await during(() => fabric.makeRoom([device])), removal, "left to the kernel before");
    t.ok((await during(() => sync([], port))).includes(`link set dev ${device} master br-a up`));
    t.strictSame(await during(() => fabric.makeRoom([device])), removal, "in one round");
    t.ok((await during(() => sync([], port))).includes(`link set dev ${device} master br-a up`));
  },
);
