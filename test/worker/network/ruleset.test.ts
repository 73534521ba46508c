import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { Test } from "tap";

import type { CommandResult } from "../../../worker/network/command.ts";
import { Rules } from "../../../worker/network/nftables.ts";
import { rulesetOf } from "../../../worker/network/rules.ts";
import { changeText } from "../../../worker/network/ruleset.ts";
import { VirtualClock } from "../../sim/clock.ts";

const network = {
  bridge: "ov4097",
  vxlan: "vx4097",
  subnet: "10.0.1.0/24",
  internal: false,
  ingress: false,
  masquerade: true,
  mutual: true,
};
const service = (index: number, ...backends: readonly string[]) => ({
  bridge: "ov4097",
  address: `10.0.1.${index}`,
  backends,
});
const ruleset = (...services: readonly ReturnType<typeof service>[]) =>
  rulesetOf({ networks: [network], ports: [], services, mesh: [], hosts: [], tasks: [], ownAddress: "" });

t.test("a change names what changed and nothing else", (t) => {
  const others = Array.from({ length: 100 }, (_, index) => service(100 + index, "10.0.1.90"));
  const before = ruleset(...others, service(2, "10.0.1.50"));
  t.equal(changeText(before, ruleset(service(2, "10.0.1.50"), ...others)), "", "order is nothing");
  const more = changeText(before, ruleset(...others, service(2, "10.0.1.50", "10.0.1.51")));
  t.match(
    more,
    /^flush chain ip shoal_net (vip_\w+)\nadd rule ip shoal_net \1 dnat to numgen random mod 2 map \{ 0 : 10\.0\.1\.50, 1 : 10\.0\.1\.51 \}\n$/,
  );
  const none = changeText(before, ruleset(...others, service(2)));
  t.match(
    none,
    /^delete element ip shoal_net virtual_ips \{ "ov4097" \. 10\.0\.1\.2 \}\nflush chain ip shoal_net (vip_\w+)\ndelete chain ip shoal_net \1\n$/,
  );
  const fresh = changeText(before, ruleset(...others, service(2, "10.0.1.50"), service(3, "10.0.1.60")));
  t.match(
    fresh,
    /^add chain ip shoal_net (vip_\w+)\nadd rule .*\nadd element ip shoal_net virtual_ips \{ "ov4097" \. 10\.0\.1\.3 : goto \1 \}\n$/,
  );
  t.end();
});

t.test("another network is another table", (t) => {
  const other = rulesetOf({
    networks: [{ ...network, bridge: "ov4098", vxlan: "vx4098", subnet: "10.0.2.0/24" }],
    ports: [],
    services: [],
    mesh: [],
    hosts: [],
    tasks: [],
    ownAddress: "",
  });
  t.equal(changeText(ruleset(), other), undefined);
  t.end();
});

/** What was handed to `nft`, by a kernel that refuses changes while told to, and lists what it is told. */
async function withRules(
  t: Test,
  answer: { refuses: boolean; listing: string },
): Promise<{ rules: Rules; clock: VirtualClock; loaded: string[]; looked: string[] }> {
  const directory = await mkdtemp(join(tmpdir(), "shoal-rules-"));
  t.teardown(() => rm(directory, { recursive: true }));
  const loaded: string[] = [];
  const looked: string[] = [];
  const run = async (argv: readonly string[]): Promise<CommandResult> => {
    if (argv[1] === "-f") {
      const text = await readFile(argv[2] ?? "", "utf8");
      loaded.push(text.startsWith("table") ? "whole" : "change");
      const code = answer.refuses && !text.startsWith("table") ? 1 : 0;
      return { code, stdout: "", stderr: "Error: No such file or directory" };
    }
    looked.push(argv.slice(2).join(" "));
    return { code: 0, stdout: answer.listing, stderr: "" };
  };
  const clock = new VirtualClock();
  return { rules: new Rules({ clock, run, file: join(directory, "rules.nft") }), clock, loaded, looked };
}

t.test("the first load is of the whole table, later ones are changes", async (t) => {
  const { rules, loaded } = await withRules(t, { refuses: false, listing: "" });
  await rules.load(ruleset());
  await rules.load(ruleset());
  await rules.load(ruleset(service(2, "10.0.1.5")));
  t.strictSame(loaded, ["whole", "change"]);
});

t.test("a change that the kernel does not take is followed by the whole table", async (t) => {
  const { rules, loaded } = await withRules(t, { refuses: true, listing: "" });
  await rules.load(ruleset());
  await rules.load(ruleset(service(2, "10.0.1.5")));
  t.strictSame(loaded, ["whole", "change", "whole"]);
});

t.test("a table that somebody flushed is found and loaded whole", async (t) => {
  const { rules, loaded } = await withRules(t, { refuses: false, listing: '{"nftables": []}' });
  t.strictSame(await rules.look(), [], "nothing was loaded yet");
  await rules.load(ruleset());
  t.strictSame(await rules.look(), ["the table ip shoal_net is gone"]);
  await rules.load(ruleset());
  t.strictSame(loaded, ["whole", "whole"]);
});
