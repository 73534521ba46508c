/**
 * Other people's firewalls on the same host. What any of them drops is dropped, whatever our table says; so where they drop
 * forwarded packets by default, our devices need accepts of theirs. Our own table still decides what passes between them.
 */
import { ClusterError } from "../../model/errors.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import { deviceGroup } from "./objects.ts";
import type { ForeignChain } from "./rules-observe.ts";

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

/** What to do about chains that drop what is forwarded. */
export function admissionOf(foreign: readonly ForeignChain[]): {
  /** The chain of iptables that needs our accepts. */
  readonly chain?: string;
  /** What only the host's owner should change, with the command. */
  readonly advice: readonly string[];
} {
  const strict = foreign.filter(({ hook, policy }) => hook === "forward" && policy === "drop");
  const isOfIptables = ({ family, table, name }: ForeignChain): boolean =>
    family === "ip" && table === "filter" && name === "FORWARD";
  const hasDocker = foreign.some(
    ({ family, table, name }) => family === "ip" && table === "filter" && name === dockerChain,
  );
  const advice = strict
    .filter((chain) => !isOfIptables(chain) && chain.family !== "ip6" && chain.family !== "bridge")
    .map(({ family, table, name }) => {
      const command = (match: string): string =>
        `nft insert rule ${family} ${table} ${name} ${match} ${deviceGroup} accept`;
      return `${family} ${table} ${name} drops what is forwarded, so tasks are not reached: ${command("iifgroup")}; ${command("oifgroup")}`;
    });
  const chain = hasDocker ? dockerChain : "FORWARD";
  return { ...(strict.some(isOfIptables) && { chain }), advice };
}

export class Coexistence {
  readonly #run: Run;
  readonly #warn: (text: string) => void;
  #said = "";

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
  async admit(foreign: readonly ForeignChain[]): Promise<string[]> {
    const { chain, advice } = admissionOf(foreign);
    const text = advice.join("; ");
    if (text !== "" && text !== this.#said) this.#warn(text);
    this.#said = text;
    if (chain === undefined) return [];
    const found: string[] = [];
    for (const match of matches) {
      const argv = (action: string): string[] => ["iptables", "-w", "2", action, chain, ...match];
      const { code, stderr } = await this.#run(argv("-C"));
      if (code === 0) continue;
      // 4: somebody else held its lock for all the time.
      if (code !== absent) {
        const text = stderr.trim() || `iptables ended with code ${code}`;
        throw new ClusterError("unavailable", `cannot read the chain ${chain} of iptables: ${text}`);
      }
      await must(this.#run, `accept packets of tasks in the chain ${chain} of iptables`, argv("-I"));
      found.push(
        `${chain} of iptables did not accept what tasks ${match.includes("--src-group") ? "send" : "get"}`,
      );
    }
    return found;
  }
}
