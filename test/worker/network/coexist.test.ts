import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import type { Run } from "../../../worker/network/command.ts";
import { admissionOf, Coexistence, firewallHint } from "../../../worker/network/coexist.ts";

const chain = (family: string, table: string, name: string, hook = "", policy = "") => ({
  family,
  table,
  name,
  hook,
  policy,
});
const forward = chain("ip", "filter", "FORWARD", "forward", "drop");
const docker = chain("ip", "filter", "DOCKER-USER");
/** No tables of the older iptables. */
const none = async (): Promise<string> => "";

t.test("only who drops what is forwarded needs anything", (t) => {
  t.strictSame(admissionOf([chain("ip", "filter", "FORWARD", "forward", "accept"), docker]), { advice: [] });
  t.strictSame(admissionOf([chain("inet", "filter", "input", "input", "drop")]), { advice: [] });
  t.equal(admissionOf([forward]).chain, "FORWARD");
  t.equal(admissionOf([forward, docker]).chain, "DOCKER-USER");
  t.strictSame(admissionOf([chain("ip6", "filter", "FORWARD", "forward", "drop")]), { advice: [] });
  const { chain: unasked, advice } = admissionOf([chain("inet", "own", "fwd", "forward", "drop")]);
  t.equal(unasked, undefined);
  t.match(advice, [/inet own fwd drops .*iifgroup 21320 accept; .*oifgroup 21320 accept/]);
  t.end();
});

t.test("accepts are put where they are not, once", async (t) => {
  const rules = new Set<string>();
  const run = async (argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    const rule = argv.slice(4).join(" ");
    if (argv[3] === "-I") rules.add(rule);
    return { code: rules.has(rule) ? 0 : 1, stdout: "", stderr: "" };
  };
  const warnings: string[] = [];
  const coexistence = new Coexistence({ run, readText: none, warn: (text) => warnings.push(text) });
  t.equal((await coexistence.admit([forward])).length, 2);
  t.strictSame(await coexistence.admit([forward]), []);
  t.strictSame(
    [...rules],
    ["FORWARD -m devgroup --src-group 21320 -j ACCEPT", "FORWARD -m devgroup --dst-group 21320 -j ACCEPT"],
  );
  const own = chain("inet", "own", "fwd", "forward", "drop");
  await coexistence.admit([own]);
  await coexistence.admit([own]);
  t.equal(warnings.length, 1);
});

t.test("what drops IPv6 is asked for accepts of its own, once there are networks with it", async (t) => {
  const strict = chain("ip6", "filter", "FORWARD", "forward", "drop");
  t.equal(admissionOf([strict, docker], "ip6").chain, "FORWARD");
  t.strictSame(admissionOf([forward, chain("inet", "own", "fwd", "forward", "drop")], "ip6"), { advice: [] });
  t.match(admissionOf([chain("ip6", "own", "fwd", "forward", "drop")], "ip6").advice, [/ip6 own fwd drops/]);
  const programs: (string | undefined)[] = [];
  const run = async ([program]: readonly string[]) => {
    programs.push(program);
    return { code: 0, stdout: "", stderr: "" };
  };
  const coexistence = new Coexistence({ run, readText: none, warn: (text) => t.fail(text) });
  t.strictSame(await coexistence.admit([strict], "ip6"), []);
  t.strictSame(programs, ["ip6tables", "ip6tables"]);
});

t.test("a busy iptables does not say that there is no accept", async (t) => {
  const actions: (string | undefined)[] = [];
  const run = async (argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    actions.push(argv[3]);
    return { code: 4, stdout: "", stderr: "Another app is currently holding the xtables lock" };
  };
  const coexistence = new Coexistence({ run, readText: none, warn: (text) => t.fail(text) });
  await t.rejects(coexistence.admit([forward]), { code: "unavailable", message: /holding the xtables lock/ });
  t.strictSame(actions, ["-C"]);
});

t.test(
  "what is broken may be so in chains that stop what no rule accepts, whatever their policy",
  async (t) => {
    const reject = { reject: { type: "icmpx", expr: "admin-prohibited" } };
    const related = { match: { op: "in", left: { ct: { key: "state" } }, right: "established" } };
    const hintWith = (foreign: readonly ReturnType<typeof chain>[], ...rules: readonly object[][]) =>
      firewallHint(async (argv) => {
        const nftables = argv.includes("chains")
          ? foreign.map(({ hook, policy, ...rest }) => ({
              chain: { ...rest, ...(hook !== "" && { type: "filter", hook, prio: 0, policy }) },
            }))
          : rules.map((expr) => ({ rule: { chain: argv.at(-1), expr } }));
        return { code: 0, stdout: JSON.stringify({ nftables }), stderr: "" };
      }, none);
    const firewalld = chain("inet", "firewalld", "filter_FORWARD", "forward", "accept");
    t.match(
      await hintWith([firewalld], [related, { accept: null }], [{ counter: {} }, reject]),
      /stops in inet firewalld filter_FORWARD what no rule there accepts; .* --zone=trusted --add-interface=ov\+/,
    );
    t.equal(await hintWith([firewalld], [reject], [related, { accept: null }]), "");
    t.equal(await hintWith([firewalld], [related, { drop: null }]), "", "what it stops is not all");
    t.equal(await hintWith([firewalld]), "");
    t.match(
      await hintWith([chain("ip", "filter", "INPUT", "input", "drop")]),
      /in ip filter INPUT .*4789\/udp/,
    );
    t.equal(await hintWith([forward, docker]), "", "we are let pass there");
    t.equal(await hintWith([chain("ip6", "shoal_net", "forward", "forward", "drop")]), "", "our own");
  },
);

/** A host with rules of the older iptables; `undefined`: and without its program. */
function olderHost(listing: readonly string[] | undefined) {
  const lines: string[] = [];
  const run: Run = async (argv) => {
    if (argv[0] === "nft") return { code: 0, stdout: '{"nftables":[]}', stderr: "" };
    if (listing === undefined) throw new ClusterError("unavailable", "cannot run iptables-legacy");
    const line = argv.join(" ");
    if (!line.endsWith("-S")) lines.push(line);
    return { code: argv[3] === "-C" ? 1 : 0, stdout: listing.join("\n"), stderr: "" };
  };
  const readText = async (path: string): Promise<string> =>
    path === "/proc/net/ip_tables_names" ? "nat\nfilter\n" : "";
  return { run, readText, lines };
}

t.test("rules of the older iptables, which nft does not list, get our accepts where they drop", async (t) => {
  const policies = ["-P INPUT ACCEPT", "-P FORWARD DROP", "-P OUTPUT ACCEPT"];
  const fail = (text: string): void => void t.fail(text);
  for (const [listing, chain] of [
    [policies, "FORWARD"],
    [[...policies, "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"], "DOCKER-USER"],
  ] as const) {
    const { run, readText, lines } = olderHost(listing);
    const found = await new Coexistence({ run, readText, warn: fail }).admit([]);
    t.match(found, [/of iptables-legacy did not accept what tasks send/, /get/]);
    t.strictSame(
      lines.filter((line) => line.includes("-I")),
      ["src", "dst"].map(
        (end) => `iptables-legacy -w 2 -I ${chain} -m devgroup --${end}-group 21320 -j ACCEPT`,
      ),
    );
  }
  const open = olderHost(["-P INPUT DROP", "-P FORWARD ACCEPT"]);
  t.strictSame(await new Coexistence({ ...open, warn: fail }).admit([]), []);
  const other = olderHost(policies);
  t.strictSame(await new Coexistence({ ...other, warn: fail }).admit([], "ip6"), [], "of the other family");
  t.strictSame([open.lines, other.lines], [[], []]);
});

t.test("without its program it is said once what to install", async (t) => {
  const warnings: string[] = [];
  const { run, readText } = olderHost(undefined);
  const coexistence = new Coexistence({ run, readText, warn: (text) => warnings.push(text) });
  for (let look = 0; look < 2; look += 1) t.strictSame(await coexistence.admit([]), []);
  t.equal(warnings.length, 1);
  t.match(warnings, [/rules of iptables-legacy, and no such program .*apt install iptables/]);
  t.match(await firewallHint(run, readText), /perhaps the rules of iptables-legacy, which is not installed/);
});

t.test(
  "trouble with the older iptables does not keep our accepts out of the newer, and is told",
  async (t) => {
    const { readText } = olderHost([]);
    const added: string[] = [];
    const run: Run = async (argv) => {
      if (argv[0] === "iptables-legacy")
        return { code: 4, stdout: "", stderr: "Another app is currently holding the xtables lock" };
      if (argv[3] === "-I") added.push(argv.join(" "));
      return { code: argv[3] === "-C" ? 1 : 0, stdout: "", stderr: "" };
    };
    const coexistence = new Coexistence({ run, readText, warn: (text) => t.fail(text) });
    await t.rejects(coexistence.admit([forward]), /xtables lock/);
    t.equal(added.length, 2);
  },
);

t.test("what is said of two kinds of rules is said once each", async (t) => {
  const { run, readText } = olderHost(undefined);
  const warnings: string[] = [];
  const coexistence = new Coexistence({ run, readText, warn: (text) => warnings.push(text) });
  const own = chain("inet", "own", "fwd", "forward", "drop");
  for (let look = 0; look < 3; look += 1) await coexistence.admit([own]);
  t.equal(warnings.length, 2);
});

t.test("chains of the older iptables that stop what no rule accepts are named", async (t) => {
  const hint = async (...listing: readonly string[]): Promise<string> => {
    const { run, readText } = olderHost(listing);
    return await firewallHint(run, readText);
  };
  t.match(await hint("-P INPUT DROP"), /stops in filter INPUT of iptables-legacy what no rule there accepts/);
  t.match(
    await hint(
      "-P FORWARD ACCEPT",
      "-A FORWARD -i eth9 -j ACCEPT",
      "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
    ),
    /filter FORWARD of iptables-legacy/,
  );
  t.equal(await hint("-P INPUT ACCEPT", "-P FORWARD DROP", "-A INPUT -s 192.0.2.1/32 -j DROP"), "");
});
