/**
 * Makes way through the host's own packet filter where it drops what is forwarded, as Docker sets it up: no table of ours can
 * overrule a drop of another's. What is accepted there still has to pass our own rules.
 */
import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { CommandResult, Run } from "./command.ts";
import { deviceGroup } from "./objects.ts";

/** After this long it is looked at again: a Docker that starts later sets the policy then. */
const trustMs = 60_000;
/** Where Docker leaves room for rules of others; it never changes what is there. */
const roomForOthers = "DOCKER-USER";

const accepts = [
  ["-m", "devgroup", "--src-group", String(deviceGroup), "-j", "ACCEPT"],
  ["-m", "devgroup", "--dst-group", String(deviceGroup), "-j", "ACCEPT"],
] as const;

export class ForwardAccepts {
  readonly #clock: Clock;
  readonly #run: Run;
  readonly #warn: (text: string) => void;
  #lookedAtMs: number | undefined;
  /** What was said last, so that it is said once. */
  #said = "";

  constructor({ clock, run, warn }: { clock: Clock; run: Run; warn: (text: string) => void }) {
    this.#clock = clock;
    this.#run = run;
    this.#warn = warn;
  }

  /** Never fails: a host that refuses is told of in the log, and its tasks are cut off from elsewhere. */
  async keep(): Promise<void> {
    const nowMs = this.#clock.monotonic();
    if (this.#lookedAtMs !== undefined && nowMs - this.#lookedAtMs < trustMs) return;
    this.#lookedAtMs = nowMs;
    const problem = await this.#make();
    if (problem !== "" && problem !== this.#said) this.#warn(problem);
    this.#said = problem;
  }

  /** @returns why it could not. */
  async #make(): Promise<string> {
    const policy = await this.#iptables("-S", "FORWARD");
    if (policy === undefined || !/^-P FORWARD DROP$/m.test(policy.stdout)) return "";
    const room = await this.#iptables("-S", roomForOthers);
    const chain = room?.code === 0 ? roomForOthers : "FORWARD";
    for (const rule of accepts) {
      if ((await this.#iptables("-C", chain, ...rule))?.code === 0) continue;
      const made = await this.#iptables("-I", chain, ...rule);
      if (made !== undefined && made.code !== 0) {
        const advice = `accept there what comes from and goes to devices of group ${deviceGroup}`;
        return `this host drops forwarded packets, those of containers too (${made.stderr.trim()}): ${advice}`;
      }
    }
    return "";
  }

  /** Undefined where there is no such program: then nobody has set up a filter with it. */
  async #iptables(...args: string[]): Promise<CommandResult | undefined> {
    try {
      return await this.#run(["iptables", "-w", "5", ...args]);
    } catch (error) {
      if (error instanceof ClusterError && error.code === "unavailable") return undefined;
      throw error;
    }
  }
}
