import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { Clock } from "../../../runtime/clock.ts";
import { ForwardAccepts } from "../../../worker/network/accepts.ts";
import type { Run } from "../../../worker/network/command.ts";

/** A packet filter with rules by chain. */
class Filter {
  policy = "ACCEPT";
  refusal = "";
  calls = 0;
  readonly chains = new Map<string, string[]>([["FORWARD", []]]);

  readonly run: Run = async (argv) => {
    this.calls += 1;
    const [, , , verb = "", chain = "", ...rule] = argv;
    const rules = this.chains.get(chain);
    const ended = (code: number, stdout = "", stderr = "") => ({ code, stdout, stderr });
    if (rules === undefined) return ended(1, "", "No chain/target/match by that name.");
    if (verb === "-S") return ended(0, chain === "FORWARD" ? `-P FORWARD ${this.policy}\n` : `-N ${chain}\n`);
    if (verb === "-C") return ended(rules.includes(rule.join(" ")) ? 0 : 1);
    if (this.refusal !== "") return ended(2, "", this.refusal);
    rules.unshift(rule.join(" "));
    return ended(0);
  };
}

function opened(run: Run) {
  let nowMs = 0;
  const warnings: string[] = [];
  const clock = { monotonic: () => nowMs } as Clock;
  const accepts = new ForwardAccepts({ clock, run, warn: (text) => void warnings.push(text) });
  const later = async (): Promise<void> => {
    nowMs += 60_001;
    await accepts.keep();
  };
  return { accepts, warnings, later };
}

t.test(
  "where forwarded packets are dropped, ours are accepted, once, where Docker leaves room",
  async (t) => {
    const filter = new Filter();
    const { accepts, warnings, later } = opened(filter.run);
    await accepts.keep();
    t.strictSame(filter.chains.get("FORWARD"), [], "nobody drops anything yet");
    filter.policy = "DROP";
    await accepts.keep();
    t.strictSame(filter.chains.get("FORWARD"), [], "not looked at again so soon");
    await later();
    await later();
    const rules = ["-m devgroup --dst-group 21320 -j ACCEPT", "-m devgroup --src-group 21320 -j ACCEPT"];
    t.strictSame(filter.chains.get("FORWARD"), rules);
    filter.chains.set("DOCKER-USER", []);
    await later();
    t.strictSame(filter.chains.get("DOCKER-USER"), rules);
    t.strictSame(warnings, []);
  },
);

t.test("a host that refuses is told of once, one without the program not at all", async (t) => {
  const filter = new Filter();
  filter.policy = "DROP";
  filter.refusal = "Couldn't load match `devgroup'";
  const { accepts, warnings, later } = opened(filter.run);
  await accepts.keep();
  await later();
  t.equal(warnings.length, 1);
  t.match(warnings[0], /drops forwarded packets.*devgroup.*group 21320/);
  const none = opened(async () => {
    throw new ClusterError("unavailable", "no such program");
  });
  await none.accepts.keep();
  t.strictSame(none.warnings, []);
});
