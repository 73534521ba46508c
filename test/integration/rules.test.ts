/** The kernel takes whatever ruleset we may write; each is loaded in a namespace of its own. */
import { spawnSync } from "node:child_process";
import * as fc from "fast-check";
import t from "tap";

import { rulesText } from "../../worker/network/rules.ts";
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

t.test("any state gives a text that nft accepts", (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(states, (state) => {
        const text = rulesText(state);
        const { status, stderr } = spawnSync("unshare", ["--net", "nft", "-f", "-"], { input: text });
        if (status !== 0) throw new Error(`${stderr.toString()}\n${text}`);
      }),
      { numRuns: 40 },
    ),
  );
  t.end();
});
