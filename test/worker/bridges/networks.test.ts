import { readdir } from "node:fs/promises";
import t from "tap";

import { systemClock } from "../../../runtime/clock.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { LocalNetworks } from "../../../worker/bridges/networks.ts";
import type { BridgeNetwork } from "../../../worker/network/network.ts";
import { FakeNetwork } from "../../sim/network.ts";

const never = new AbortController().signal;

/** Refuses bridges by their name. */
class PickyNetwork extends FakeNetwork {
  refused = "";
  /** Consulted once the bridges were taken over. */
  after: () => void = () => undefined;

  override async applyBridges(
    bridges: readonly BridgeNetwork[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, string>> {
    await super.applyBridges(bridges, signal);
    this.after();
    return new Map(bridges.filter(({ name }) => name === this.refused).map(({ id }) => [id, "File exists"]));
  }
}

async function openAt(stateDir: string, network = new PickyNetwork()) {
  const networks = await LocalNetworks.open({
    clock: systemClock,
    random: systemRandom,
    stateDir,
    hostname: "h",
    bridgeSubnet: "172.17.0.0/16",
    readRoutes: async () => "",
  });
  networks.use(network);
  return { networks, network };
}

t.test(
  "networks asked for at once get subnets of their own, and are there for the next process",
  async (t) => {
    const directory = t.testdir();
    const { networks, network } = await openAt(directory);
    const names = Array.from({ length: 20 }, (_, index) => `n${index}`);
    await Promise.all(names.map((Name) => networks.create({ Name }, [], never)));
    t.equal(new Set(network.bridges.map(({ subnet }) => subnet)).size, 20);
    t.notOk(
      network.bridges.some(({ subnet }) => subnet === "172.17.0.0/16"),
      "nor that of the host's own bridge",
    );
    const again = await openAt(directory);
    t.same(new Set(again.networks.bridges), new Set(networks.bridges));
    await t.rejects(again.networks.create({ Name: "n3" }, [], never), { code: "name-conflict" });
    await t.rejects(
      again.networks
        .create({ Name: "x" }, [], never)
        .then(() => again.networks.create({ Name: "x" }, [], never)),
      {
        message: "network with name x already exists",
      },
    );
  },
);

t.test(
  "with IPv6 each has a subnet of both families that no other has, the same in the next process",
  async (t) => {
    const directory = t.testdir();
    const { networks } = await openAt(directory);
    const made = await Promise.all(
      ["a", "b", "c"].map((Name) => networks.create({ Name, EnableIPv6: true }, [], never)),
    );
    const subnets = made.map(({ ipv6 }) => ipv6?.subnet ?? "");
    t.equal(new Set(subnets).size, 3);
    for (const [index, subnet] of subnets.entries()) {
      t.match(subnet, /^fd[0-9a-f:]+::\/64$/);
      t.equal(made[index]?.ipv6?.gateway, subnet.replace("/64", "1"));
    }
    const [first = ""] = subnets;
    const again = (await openAt(directory)).networks;
    const asked = (Subnet: string) => ({ Name: "d", EnableIPv6: true, IPAM: { Config: [{ Subnet }] } });
    await t.rejects(again.create(asked(first), [], never), {
      code: "permission-denied",
      message: new RegExp(`Pool overlaps with other one on this address space: ${first} with network a`),
    });
    t.match(await again.create(asked("fd00:77::/64"), [], never), {
      ownSubnet: false,
      ipv6: { subnet: "fd00:77::/64", gateway: "fd00:77::1", ownSubnet: true },
    });
  },
);

t.test("one that the kernel refuses is not there, nor kept", async (t) => {
  const directory = t.testdir();
  const { networks, network } = await openAt(directory);
  network.refused = "bad";
  await networks.create({ Name: "good" }, [], never);
  await t.rejects(networks.create({ Name: "bad" }, [], never), {
    code: "permission-denied",
    message: /this host has a device br-[0-9a-f]{12} that is no network's; choose another com\.docker/,
  });
  t.strictSame(
    network.bridges.map(({ name }) => name),
    ["good"],
  );
  t.equal((await readdir(`${directory}/networks`)).length, 1);
});

t.test("found by id, name and prefix; two bridges of one name are refused", async (t) => {
  const { networks } = await openAt(t.testdir());
  const options = { "com.docker.network.bridge.name": "mine0" };
  const made = await networks.create({ Name: "a", Options: options }, [], never);
  t.equal(networks.resolve(made.id.slice(0, 6))?.name, "a");
  t.equal(networks.resolve("a")?.id, made.id);
  t.equal(networks.resolve("host")?.driver, "host");
  t.equal(networks.resolve(""), undefined);
  await t.rejects(networks.create({ Name: "b", Options: options }, [], never), {
    message: /networks have same bridge name/,
  });
  await t.rejects(
    networks.create(
      { Name: "c", IPAM: { Config: [{ Subnet: "10.5.0.0/24" }] } },
      [{ block: "10.0.0.0/8", by: "network of the cluster" }],
      never,
    ),
    {
      code: "permission-denied",
      message: /10\.5\.0\.0\/24 with network of the cluster/,
    },
  );
});

t.test(
  "a change that fails or is given up half way is taken back, in the kernel as in the records",
  async (t) => {
    const directory = t.testdir();
    const { networks, network } = await openAt(directory);
    const kept = await networks.create({ Name: "kept" }, [], never);
    const names = () => network.bridges.map(({ name }) => name);
    const leaving = new AbortController();
    network.after = () => {
      network.after = () => undefined;
      leaving.abort(new Error("gone"));
      throw leaving.signal.reason;
    };
    await t.rejects(networks.create({ Name: "late" }, [], leaving.signal), { message: "gone" });
    t.strictSame(names(), ["kept"]);
    network.after = () => {
      network.after = () => undefined;
      throw new Error("nft");
    };
    await t.rejects(
      networks.remove(kept, (id) => id, never),
      { message: "nft" },
    );
    t.strictSame(names(), ["kept"]);
    t.equal(networks.find(kept.id)?.name, "kept");
    t.equal((await readdir(`${directory}/networks`)).length, 1);
  },
);
