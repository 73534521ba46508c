import t from "tap";

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

t.test("only who drops what is forwarded needs anything", (t) => {
  t.strictSame(admissionOf([chain("ip", "filter", "FORWARD", "forward", "accept"), docker]), { advice: [] });
  t.strictSame(admissionOf([chain("inet", "filter", "input", "input", "drop")]), { advice: [] });
  t.equal(admissionOf([forward]).chain, "FORWARD");
  t.equal(admissionOf([forward, docker]).chain, "DOCKER-USER");
  t.strictSame(admissionOf([chain("ip6", "filter", "FORWARD", "forward", "drop")]), { advice: [] });
  const { chain: none, advice } = admissionOf([chain("inet", "own", "fwd", "forward", "drop")]);
  t.equal(none, undefined);
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
  const coexistence = new Coexistence({ run, warn: (text) => warnings.push(text) });
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
  const coexistence = new Coexistence({ run, warn: (text) => t.fail(text) });
  t.strictSame(await coexistence.admit([strict], "ip6"), []);
  t.strictSame(programs, ["ip6tables", "ip6tables"]);
});

t.test("a busy iptables does not say that there is no accept", async (t) => {
  const actions: (string | undefined)[] = [];
  const run = async (argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    actions.push(argv[3]);
    return { code: 4, stdout: "", stderr: "Another app is currently holding the xtables lock" };
  };
  const coexistence = new Coexistence({ run, warn: (text) => t.fail(text) });
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
      });
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
