import { mkdir, writeFile } from "node:fs/promises";
import { spawnInside } from "./process.ts";
import { LabCgroup } from "./cgroup.ts";
import { run, type RunOptions, tryRun } from "./shell.ts";

export const registryAddress = "10.230.0.254:5000";
const bridgeAddress = "10.230.0.254";
const table = "bridge faults";

/** The bridge's of IPv6, by which clients may come; hosts reach each other by IPv4. */
export const bridgeIpv6 = "fd00:230::fe";

/** The IPv6 address of host number `index`, from 1. */
export function hostIpv6(index: number): string {
  return `fd00:230::${index}`;
}

/** The address of host number `index`, from 1. */
export function hostAddress(index: number): string {
  return `10.230.0.${index}`;
}

/**
 * The wire between the hosts: a bridge in a network namespace of its own, the registry on it, and the faults of the wire.
 * Faults are rules on the bridge, so that nothing a host does to its own ruleset heals them.
 */
export class Lan {
  readonly netns: string;
  readonly #cgroup: LabCgroup;

  constructor(name: string) {
    this.netns = `${name}-lan`;
    this.#cgroup = new LabCgroup(this.netns);
  }

  async create(): Promise<void> {
    await run(["ip", "netns", "add", this.netns]);
    await this.#ip([
      "link set lo up",
      // An address of its own: else it takes the lowest of its ports, and when the host with that one is killed, the others
      // do not reach the registry until they have forgotten the old address, a minute later.
      "link add br0 address 02:53:68:6f:61:6c type bridge",
      `addr add ${bridgeAddress}/24 dev br0`,
      `addr add ${bridgeIpv6}/64 dev br0 nodad`,
      "link set br0 up",
    ]);
    const drop = "ip saddr . ip daddr @cut drop; arp saddr ip . arp daddr ip @cut drop;";
    const hooks = ["forward", "input", "output"].map(
      (hook) => `chain at_${hook} { type filter hook ${hook} priority 0; policy accept; jump verdict; };`,
    );
    await this.#nft(
      `table ${table} { set cut { type ipv4_addr . ipv4_addr; }; chain verdict { ${drop} }; ${hooks.join(" ")} }`,
    );
  }

  /** Starts the registry; its blobs lie in `dir/registry`. It may take a moment until it answers. */
  async startRegistry(dir: string): Promise<void> {
    await mkdir(`${dir}/registry`, { recursive: true });
    const config = {
      version: "0.1",
      log: { level: "error" },
      storage: { filesystem: { rootdirectory: `${dir}/registry` } },
      http: { addr: registryAddress },
    };
    await writeFile(`${dir}/registry.yml`, JSON.stringify(config)); // JSON is YAML
    await this.#cgroup.create();
    spawnInside({ procsFile: this.#cgroup.procsFile, netns: this.netns, logFile: `${dir}/registry.log` }, [
      "docker-registry",
      "serve",
      `${dir}/registry.yml`,
    ]);
  }

  /** Plugs in a host: `eth0` in its namespace, `bN` here. */
  async plug(netns: string, index: number): Promise<void> {
    await this.unplug(index);
    await run([
      "ip",
      "link",
      "add",
      "eth0",
      "netns",
      netns,
      "type",
      "veth",
      "peer",
      "name",
      `b${index}`,
      "netns",
      this.netns,
    ]);
    await this.#ip([`link set b${index} master br0 up`]);
  }

  /** Pulls a host's plug: both ends of its cable are gone when this returns. */
  async unplug(index: number): Promise<void> {
    await tryRun(["ip", "-n", this.netns, "link", "del", `b${index}`]);
  }

  /** Drops what `from` sends to each of `to`; the way back is another cut. */
  async cut(from: string, to: readonly string[]): Promise<void> {
    if (to.length === 0) return;
    await this.#nft(`add element ${table} cut { ${to.map((address) => `${from} . ${address}`).join(", ")} }`);
  }

  /** Heals all cuts that touch the address, or all. */
  async heal(address?: string): Promise<void> {
    if (address === undefined) return this.#nft(`flush set ${table} cut`);
    const touched = (await this.cuts()).filter(({ from, to }) => from === address || to === address);
    if (touched.length === 0) return;
    await this.#nft(
      `delete element ${table} cut { ${touched.map(({ from, to }) => `${from} . ${to}`).join(", ")} }`,
    );
  }

  async cuts(): Promise<{ from: string; to: string }[]> {
    const listed = await this.run(["nft", "list", "set", ...table.split(" "), "cut"]);
    const pairs = listed.matchAll(/([\d.]+) \. ([\d.]+)/g);
    return [...pairs].map(([, from = "", to = ""]) => ({ from, to }));
  }

  /** Runs a command on the wire, such as a web client that reaches every host. */
  run(argv: readonly string[], options: RunOptions = {}): Promise<string> {
    return run(["nsenter", `--net=/run/netns/${this.netns}`, ...argv], options);
  }

  async remove(): Promise<void> {
    await this.#cgroup.killAll();
    await this.#cgroup.remove();
    await tryRun(["ip", "netns", "del", this.netns]);
  }

  async #ip(commands: readonly string[]): Promise<void> {
    await run(["ip", "-n", this.netns, "-batch", "-"], { input: commands.join("\n") });
  }

  /** As an argument: nft cannot read its rules from the socket that Node gives a child as standard input. */
  async #nft(rules: string): Promise<void> {
    await this.run(["nft", rules]);
  }
}
