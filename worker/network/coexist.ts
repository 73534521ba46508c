/**
 * Other people's firewalls on the same host. What any of them drops is dropped, whatever our table says; so where they drop
 * forwarded packets by default, our devices need accepts of theirs. Our own table still decides what passes between them.
 */
import { ClusterError } from "../../model/errors.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import { deviceGroup } from "./objects.ts";
import { chainsCommand, endsStrictly, parseRules } from "./rules-observe.ts";
import type { ForeignChain } from "./rules-observe.ts";
import type { Family } from "./ruleset.ts";

/** Where iptables has its rules, and Docker leaves room for those of others. */
const dockerChain = "DOCKER-USER";
/** How `iptables -C` ends when there is no such rule. */
const absent = 1;

const matches = ["--src-group", "--dst-group"].map((option) => [
  "-m",
  "devgroup",
  option,
  String(deviceGroup),
  "-j",
  "ACCEPT",
]);

/** What to do about chains that drop what is forwarded of a family. */
export function admissionOf(
  foreign: readonly ForeignChain[],
  of: Family = "ip",
): {
  /** The chain of iptables, or of ip6tables, that needs our accepts. */
  readonly chain?: string;
  /** What only the host's owner should change, with the command. */
  readonly advice: readonly string[];
} {
  const strict = foreign.filter(({ hook, policy }) => hook === "forward" && policy === "drop");
  const isOfIptables = ({ family, table, name }: ForeignChain): boolean =>
    family === of && table === "filter" && name === "FORWARD";
  const hasDocker = foreign.some(
    ({ family, table, name }) => family === of && table === "filter" && name === dockerChain,
  );
  const isAbout = (family: string): boolean =>
    of === "ip6" ? family === "ip6" : !["ip6", "bridge"].includes(family);
  const advice = strict
    .filter((chain) => !isOfIptables(chain) && isAbout(chain.family))
    .map(({ family, table, name }) => {
      const command = (match: string): string =>
        `nft insert rule ${family} ${table} ${name} ${match} ${deviceGroup} accept`;
      return `${family} ${table} ${name} drops what is forwarded, so tasks are not reached: ${command("iifgroup")}; ${command("oifgroup")}`;
    });
  const chain = hasDocker ? dockerChain : "FORWARD";
  return { ...(strict.some(isOfIptables) && { chain }), advice };
}

/** All tables of ours have such names. */
const ownTable = /^shoal_/;

/**
 * Chains of others that stop what no rule of theirs accepts, but for those of iptables that `Coexistence` sees to: what is broken
 * may be broken there. What their rules accept is theirs to know.
 *
 * @returns that, in words; empty where there are none.
 */
export async function firewallHint(run: Run): Promise<string> {
  const doing = "read the host's firewall";
  const { foreign } = parseRules(await must(run, doing, chainsCommand));
  const { chain: admitted } = admissionOf(foreign);
  const found: string[] = [];
  for (const chain of foreign) {
    const { family, table, name, hook, policy } = chain;
    if (ownTable.test(table) || !["ip", "ip6", "inet"].includes(family)) continue;
    if (hook !== "input" && hook !== "forward") continue;
    if (admitted !== undefined && name === "FORWARD") continue;
    const isStrict =
      policy === "drop" ||
      endsStrictly(await must(run, doing, ["nft", "-j", "list", "chain", family, table, name]));
    if (isStrict) found.push(`${family} ${table} ${name}`);
  }
  if (found.length === 0) return "";
  const needs = `4789/udp from other hosts, 53 from tasks, and what devices of group ${deviceGroup} send and get`;
  const firewalld = foreign.some(({ table }) => table === "firewalld")
    ? "; with firewalld: firewall-cmd --permanent --zone=trusted --add-interface=ov+ --add-interface=vx+ " +
      "--add-interface=shoal0 --add-interface=br-+; firewall-cmd --permanent --add-port=4789/udp; firewall-cmd --reload"
    : "";
  return `this host's firewall stops in ${found.join(", ")} what no rule there accepts; needed are ${needs}${firewalld}`;
}

export class Coexistence {
  readonly #run: Run;
  readonly #warn: (text: string) => void;
  readonly #said = new Map<Family, string>();

  constructor({ run, warn }: { run: Run; warn: (text: string) => void }) {
    this.#run = run;
    this.#warn = warn;
  }

  /**
   * Puts accepts for our devices where iptables drops by default, as Docker does for its own. A firewall written by hand is
   * its owner's: that is said once.
   *
   * @returns what had to be put there, in words.
   * @throws {ClusterError} when iptables is missing, refuses or is busy.
   */
  async admit(foreign: readonly ForeignChain[], family: Family = "ip"): Promise<string[]> {
    const { chain, advice } = admissionOf(foreign, family);
    const text = advice.join("; ");
    if (text !== "" && text !== this.#said.get(family)) this.#warn(text);
    this.#said.set(family, text);
    if (chain === undefined) return [];
    const tool = family === "ip6" ? "ip6tables" : "iptables";
    const found: string[] = [];
    for (const match of matches) {
      const argv = (action: string): string[] => [tool, "-w", "2", action, chain, ...match];
      const { code, stderr } = await this.#run(argv("-C"));
      if (code === 0) continue;
      // 4: somebody else held its lock for all the time.
      if (code !== absent) {
        const text = stderr.trim() || `${tool} ended with code ${code}`;
        throw new ClusterError("unavailable", `cannot read the chain ${chain} of ${tool}: ${text}`);
      }
      await must(this.#run, `accept packets of tasks in the chain ${chain} of ${tool}`, argv("-I"));
      found.push(
        `${chain} of ${tool} did not accept what tasks ${match.includes("--src-group") ? "send" : "get"}`,
      );
    }
    return found;
  }
}
