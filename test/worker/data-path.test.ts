import t from "tap";
import type { HostInterface } from "../../worker/api/deps.ts";
import { type Addressed, dataPathNow } from "../../worker/data-path.ts";

const identity: Addressed = {
  dataPathAddress: "10.0.0.5",
  advertiseAddress: "10.0.0.5:2377",
  managers: ["10.0.0.1:2377"],
};

/** "eth0=10.0.0.5,10.0.0.6 lo=127.0.0.1" */
function interfaces(text: string): HostInterface[] {
  return text.split(" ").map((each) => {
    const [name = "", list = ""] = each.split("=");
    return { name, addresses: list.split(",").filter((address) => address !== "") };
  });
}

const own = { managers: ["10.0.0.5:2377"] };
const named = { dataPathSource: { kind: "interface", name: "eth0" } } as const;
const chosen = { dataPathSource: { kind: "chosen" } } as const;
const cases: readonly {
  readonly name: string;
  readonly has: string;
  readonly identity?: Partial<Addressed>;
  /** By which the manager is reached. */
  readonly towards?: string;
  readonly want: RegExp;
}[] = [
  { name: "the address is there", has: "eth0=10.0.0.9,10.0.0.5", identity: chosen, want: /^kept$/ },
  { name: "it is on loopback", has: "lo=127.0.0.1,10.0.0.5", identity: chosen, want: /^kept$/ },
  {
    name: "it is all of loopback",
    has: "eth0=10.0.0.9",
    identity: { ...chosen, dataPathAddress: "127.0.0.1" },
    want: /^kept$/,
  },
  {
    name: "given, and gone",
    has: "eth0=10.0.0.9",
    want: /10\.0\.0\.5 is not on this host.*was given.*join again/,
  },
  {
    name: "its interface has another",
    has: "eth0=10.0.0.9 eth1=10.1.0.1",
    identity: named,
    want: /^10\.0\.0\.9$/,
  },
  {
    name: "its interface waits for DHCP",
    has: "eth0=169.254.3.4 eth1=10.1.0.1",
    identity: named,
    want: /interface eth0 has no other/,
  },
  {
    name: "its interface is gone",
    has: "eth1=10.1.0.1",
    identity: named,
    want: /interface eth0 has no other/,
  },
  {
    name: "chosen: by the way to a manager",
    has: "eth0=10.0.0.9 eth1=10.1.0.1",
    identity: chosen,
    towards: "10.1.0.1",
    want: /^10\.1\.0\.1$/,
  },
  {
    name: "chosen, no way to a manager",
    has: "eth0=10.0.0.9",
    identity: chosen,
    want: /no other leads to a manager/,
  },
  {
    name: "chosen, the only manager: the only address, whatever our own devices have",
    has: "lo=127.0.0.1 eth0=10.0.0.9 shoal0=172.17.0.1",
    identity: { ...chosen, ...own },
    want: /^10\.0\.0\.9$/,
  },
  {
    name: "chosen, the only manager: one of several",
    has: "eth0=10.0.0.9 eth1=10.1.0.1",
    identity: { ...chosen, ...own },
    want: /no other/,
  },
];

for (const { name, has, identity: more = {}, towards, want } of cases) {
  t.test(name, async (t) => {
    const deps = { interfaces: () => interfaces(has), sourceTowards: async () => towards };
    const now = await dataPathNow(deps, { ...identity, ...more });
    t.match(now.kind === "moved" ? now.address : now.kind === "gone" ? now.problem : now.kind, want);
  });
}
