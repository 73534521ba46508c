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
export async function firewallHint(run: Run, readText: ReadText): Promise<string> {
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
  found.push(...(await legacyHint(run, readText)));
  if (found.length === 0) return "";
  const needs = `4789/udp from other hosts, 53 from tasks, and what devices of group ${deviceGroup} send and get`;
  const firewalld = foreign.some(({ table }) => table === "firewalld")
    ? "; with firewalld: firewall-cmd --permanent --zone=trusted --add-interface=ov+ --add-interface=vx+ " +
      "--add-interface=shoal0 --add-interface=br-+; firewall-cmd --permanent --add-port=4789/udp; firewall-cmd --reload"
    : "";
  return `this host's firewall stops in ${found.join(", ")} what no rule there accepts; needed are ${needs}${firewalld}`;
}

/** Rules of the older iptables, which nft does not list: the kernel has both, and what either drops is dropped. */
type Legacy =
  | { readonly state: "absent" }
  | { readonly state: "unreadable"; readonly tool: string }
  /** Lines as `iptables-legacy -S` prints them. */
  | { readonly state: "read"; readonly tool: string; readonly lines: readonly string[] };

type ReadText = (path: string) => Promise<string>;

async function legacyOf(run: Run, readText: ReadText, family: Family): Promise<Legacy> {
  // Asking the program would make the tables where there are none.
  const names = await readText(`/proc/net/${family === "ip6" ? "ip6" : "ip"}_tables_names`);
  if (!names.split("\n").includes("filter")) return { state: "absent" };
  const tool = `${toolOf(family)}-legacy`;
  try {
    const text = await must(run, `read the rules of ${tool}`, [tool, "-w", "2", "-S"]);
    return { state: "read", tool, lines: text.split("\n").map((line) => line.trim()) };
  } catch (reason) {
    if (reason instanceof ClusterError && reason.code === "unavailable") return { state: "unreadable", tool };
    throw reason;
  }
}

/** Chains of the older iptables that stop what no rule of theirs accepts, but for the one that `Coexistence` sees to. */
async function legacyHint(run: Run, readText: ReadText): Promise<string[]> {
  const legacy = await legacyOf(run, readText, "ip");
  switch (legacy.state) {
    case "absent":
      return [];
    case "unreadable":
      return [`perhaps the rules of ${legacy.tool}, which is not installed to read them`];
    case "read": {
      const ends = (chain: string): boolean => {
        const last = legacy.lines.findLast((line) => line.startsWith(`-A ${chain} `)) ?? "";
        return /^-A \S+ -j (DROP|REJECT)\b/.test(last);
      };
      const drops = (chain: string): boolean => legacy.lines.includes(`-P ${chain} DROP`);
      const strict = [
        ...(drops("INPUT") || ends("INPUT") ? ["INPUT"] : []),
        ...(!drops("FORWARD") && ends("FORWARD") ? ["FORWARD"] : []),
      ];
      return strict.map((chain) => `filter ${chain} of ${legacy.tool}`);
    }
  }
}

function toolOf(family: Family): "iptables" | "ip6tables" {
  return family === "ip6" ? "ip6tables" : "iptables";
}

export class Coexistence {
  readonly #run: Run;
  readonly #readText: ReadText;
  readonly #warn: (text: string) => void;
  readonly #said = new Map<string, string>();

  constructor({ run, readText, warn }: { run: Run; readText: ReadText; warn: (text: string) => void }) {
    this.#run = run;
    this.#readText = readText;
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
    const { chain, advice: written } = admissionOf(foreign, family);
    this.#sayOnce(`${family} by hand`, written.join("; "));
    // First, so that trouble with the other program is not in its way.
    const found = chain === undefined ? [] : await this.#accept(toolOf(family), chain);
    const legacy = await legacyOf(this.#run, this.#readText, family);
    const unread =
      legacy.state === "unreadable"
        ? `this host has rules of ${legacy.tool}, and no such program to read them: if they drop what is forwarded, tasks are not ` +
          `reached; install it (Debian: apt install iptables), and they are seen to`
        : "";
    this.#sayOnce(`${family} legacy`, unread);
    if (legacy.state !== "read" || !legacy.lines.includes("-P FORWARD DROP")) return found;
    const own = legacy.lines.includes(`-N ${dockerChain}`) ? dockerChain : "FORWARD";
    return [...found, ...(await this.#accept(legacy.tool, own))];
  }

  /** Until there is something else to say of it. */
  #sayOnce(of: string, text: string): void {
    if (text !== "" && text !== this.#said.get(of)) this.#warn(text);
    this.#said.set(of, text);
  }

  async #accept(tool: string, chain: string): Promise<string[]> {
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
