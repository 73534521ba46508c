/** The kernel takes whatever ruleset we may write; each is loaded in a namespace of its own. */
import { spawnSync } from "node:child_process";
import * as fc from "fast-check";
import t from "tap";

import { rulesetOf, rulesText } from "../../worker/network/rules.ts";
import { hookRules, parseRules, tableDifferences } from "../../worker/network/rules-observe.ts";
import { changeText, type Family, rulesetText, rulesTables } from "../../worker/network/ruleset.ts";
import type { RulesMeshPort, RulesState } from "../../worker/network/rules.ts";

if (process.getuid?.() !== 0) {
  t.plan(0, "needs root for a network namespace");
  process.exit(0);
}

const number = fc.integer({ min: 1, max: 250 });
const port = fc.integer({ min: 1, max: 65_535 });
const addresses = (base: string): fc.Arbitrary<string[]> =>
  fc.uniqueArray(
    number.map((last) => `${base}.${last}`),
    { maxLength: 12 },
  );

const own = {
  bridge: "shoal0",
  subnet: "172.20.0.0/16",
  internal: false,
  ingress: false,
  masquerade: true,
  mutual: true,
};
const alone = { masquerade: false, mutual: false };

const networks = fc
  .uniqueArray(number, { maxLength: 6 })
  .chain((numbers) =>
    fc.tuple(fc.constant(numbers), fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }), fc.boolean()),
  )
  .map(([numbers, internal, withBridge]) => [
    ...numbers.map((each, index) => ({
      bridge: `ov${4096 + each}`,
      vxlan: `vx${4096 + each}`,
      subnet: `10.0.${each}.0/24`,
      internal: index > 0 && internal[index] === true,
      ingress: index === 0,
      masquerade: true,
      mutual: true,
    })),
    ...(withBridge ? [own, { ...own, bridge: "br-1", subnet: "172.21.0.0/16", ...alone }] : []),
  ]);

const mesh = fc.uniqueArray(
  fc.record({
    protocol: fc.constantFrom("tcp" as const, "udp" as const, "sctp" as const),
    publishedPort: port,
    targetPort: port,
    backends: addresses("10.0.0"),
    within: fc.constantFrom<readonly string[]>(
      [],
      ["192.0.2.0/24"],
      ["10.0.0.0/8", "192.0.2.7"],
      ["2001:db8::/32"],
    ),
  }),
  { maxLength: 20, selector: (each: RulesMeshPort) => `${each.publishedPort}/${each.protocol}` },
);

const hostAddress = fc.constantFrom({}, { hostAddress: "127.0.0.1" });

const states: fc.Arbitrary<RulesState> = fc.record({
  networks,
  mesh,
  ports: fc.uniqueArray(
    fc
      .record({
        protocol: fc.constantFrom("tcp" as const, "udp" as const, "sctp" as const),
        publishedPort: port,
        targetPort: port,
        address: number.map((last) => `10.0.1.${last}`),
      })
      .chain((each) => hostAddress.map((at) => ({ ...each, ...at }))),
    { maxLength: 8, selector: ({ publishedPort }) => publishedPort },
  ),
  services: fc.uniqueArray(
    fc.record({
      bridge: number.map((each) => `ov${4096 + each}`),
      address: number.map((last) => `10.0.2.${last}`),
      backends: addresses("10.0.2"),
    }),
    { maxLength: 20, selector: ({ bridge, address }) => `${bridge} ${address}` },
  ),
  hosts: fc.uniqueArray(
    fc.record({
      address: number.map((last) => `192.0.2.${last}`),
      index: fc.integer({ min: 1, max: 65_535 }),
    }),
    { maxLength: 12, selector: ({ address }) => address },
  ),
  tasks: addresses("10.0.1"),
  ownAddress: fc.constantFrom("", "192.0.2.251"),
});

const families = fc.constantFrom<Family>("ip", "ip6");

/** The state, with an address and a block of IPv6 in the place of each of IPv4; but hosts reach each other by IPv4. */
function inFamily(state: RulesState, family: Family): RulesState {
  if (family === "ip") return state;
  const text = JSON.stringify({ ...state, ownAddress: "" }).replaceAll(
    /"(\d+)\.(\d+)\.(\d+)\.(\d+)(?:\/(\d+))?"/g,
    (address: string, ...parts: string[]) => {
      if (address === '"127.0.0.1"') return '"::1"';
      const [a, b, c, d] = parts.map((part) => (Number(part) + 1).toString(16)); // No zeros: these have one spelling.
      switch (parts[4]) {
        case undefined:
          return `"fd00:${a}:${b}:${c}::${d}"`;
        case "24":
          return `"fd00:${a}:${b}:${c}::/64"`;
        case "16":
          return `"fd00:${a}:${b}::/48"`;
        default:
          return `"fd00:${a}::/32"`;
      }
    },
  );
  return { ...(JSON.parse(text) as RulesState), hosts: state.hosts };
}

t.test("any state gives a text that nft accepts, in both families", (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(states, families, (state, family) => {
        const text = rulesText(inFamily(state, family), family);
        const { status, stderr } = spawnSync("unshare", ["--net", "nft", "-f", "-"], { input: text });
        if (status !== 0) throw new Error(`${stderr.toString()}\n${text}`);
      }),
      { numRuns: 40 },
    ),
  );
  t.end();
});

function usesSctp({ ports }: RulesState): boolean {
  return ports.some(({ protocol }) => protocol === "sctp");
}

/** Texts loaded one after another in a namespace of their own, and what `nft` lists then. */
function load(family: Family, ...texts: readonly string[]): string {
  const script = texts
    .map((_, index) => `nft -f - <<< "$TEXT${index}" || exit 1`)
    .concat(`nft -j list table ${family} shoal_net`)
    .join("\n");
  const env = Object.fromEntries(texts.map((text, index) => [`TEXT${index}`, text]));
  const { status, stdout, stderr } = spawnSync("unshare", ["--net", "bash", "-c", script], {
    env: { ...process.env, ...env },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`${stderr}\n${texts.join("\n---\n")}`);
  return stdout;
}

t.test(
  "a change leads to the same rules as the whole table does, which the look then finds in place",
  (t) => {
    t.doesNotThrow(() =>
      fc.assert(
        fc.property(states, states, families, (one, other, family) => {
          // Networks, hosts and whether any port is of SCTP shape the table; the rest comes and goes by element.
          fc.pre(usesSctp(one) === usesSctp(other));
          const { networks, hosts, ownAddress } = one;
          const before = rulesetOf(inFamily(one, family), family);
          const after = rulesetOf(inFamily({ ...other, networks, hosts, ownAddress }, family), family);
          const table = rulesTables[family];
          const change = changeText(before, after, table);
          if (change === undefined) throw new Error("the whole table would be loaded");
          const observed = parseRules(load(family, rulesetText(before, table), change), table);
          const whole = parseRules(load(family, rulesetText(after, table)), table);
          const known = hookRules(after, whole);
          const found = tableDifferences(after, observed, known);
          if (found.length > 0) throw new Error(`${found.join("\n")}\n${change}`);
        }),
        { numRuns: 25 },
      ),
    );
    t.end();
  },
);

t.test("the look finds what somebody else took or added", (t) => {
  const base = rulesetOf({
    networks: [
      {
        bridge: "ov4097",
        vxlan: "vx4097",
        subnet: "10.0.1.0/24",
        internal: false,
        ingress: false,
        masquerade: true,
        mutual: true,
      },
    ],
    ports: [],
    services: [{ bridge: "ov4097", address: "10.0.1.2", backends: ["10.0.1.5", "10.0.1.6"] }],
    mesh: [],
    hosts: [],
    tasks: [],
    ownAddress: "192.0.2.1",
  });
  const chain = [...base.chains.keys()][0] ?? "";
  const known = hookRules(base, parseRules(load("ip", rulesetText(base))));
  const cases = [
    { tamper: "flush chain ip shoal_net forward", want: ["the rules of the chain forward were changed"] },
    {
      tamper: "insert rule ip shoal_net forward drop",
      want: ["the rules of the chain forward were changed"],
    },
    { tamper: "flush set ip shoal_net task_devices", want: ["the set task_devices lacks ov4097, vx4097"] },
    {
      tamper: "add element ip shoal_net outward_subnets { 10.9.0.0/16 }",
      want: ["the set outward_subnets has 10.9.0.0/16"],
    },
    {
      tamper: `flush chain ip shoal_net ${chain}\nadd rule ip shoal_net ${chain} dnat to numgen random mod 1 map { 0 : 10.0.1.5 }`,
      want: [`the rules of the chain ${chain} were changed`],
    },
    { tamper: "add chain ip shoal_net mine", want: ["the chain mine is not ours"] },
    {
      tamper: 'delete element ip shoal_net virtual_ips { "ov4097" . 10.0.1.2 }',
      want: ["the map virtual_ips lacks ov4097 . 10.0.1.2"],
    },
  ];
  for (const { tamper, want } of cases) {
    t.strictSame(
      tableDifferences(base, parseRules(load("ip", rulesetText(base), tamper)), known),
      want,
      tamper,
    );
  }
  t.end();
});
