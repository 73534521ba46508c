import t from "tap";

import { seededRandom } from "../../../runtime/random.ts";
import { Flows, hasOpenConnection, untilUnused } from "../../../worker/network/flows.ts";
import { VirtualClock } from "../../sim/clock.ts";

const service = (...backends: readonly string[]) =>
  ({
    services: [{ bridge: "ov4097", address: "10.0.1.2", backends }],
    mesh: [{ protocol: "udp", publishedPort: 5353, targetPort: 53, within: [], backends }],
    ports: [],
  }) as const;

const table = [
  "udp      17 29 src=10.0.1.9 dst=10.0.1.2 sport=4000 dport=53 src=10.0.1.5 dst=10.0.1.9 sport=53 dport=4000 mark=0 use=1",
  "udp      17 9 src=192.0.2.9 dst=192.0.2.1 sport=4000 dport=5353 [UNREPLIED] src=192.0.2.1 dst=192.0.2.9 sport=5353 dport=4000 mark=0 use=1",
].join("\n");

/** What is deleted at each step of a history. */
async function deleted(...history: readonly ReturnType<typeof service>[]): Promise<string[][]> {
  let argvs: string[] = [];
  const run = async (argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    if (argv[1] === "-D") argvs.push(argv.slice(4).join(" "));
    return { code: 0, stdout: argv[1] === "-L" ? table : "", stderr: "" };
  };
  const flows = new Flows({ clock: new VirtualClock(), run, warn: (text) => t.fail(text) });
  const all: string[][] = [];
  for (const rules of history) {
    argvs = [];
    await flows.follow(rules);
    all.push(argvs);
  }
  return all;
}

/** Of `table`: what began before there were rules. */
const bare = "--orig-dst 192.0.2.1 --orig-port-dst 5353 --reply-src 192.0.2.1";

t.test("flows to a task that serves no more are forgotten, where there are any", async (t) => {
  const first = service("10.0.1.5", "10.0.1.6");
  t.strictSame(await deleted(first, service("10.0.1.6")), [[bare], ["--reply-src 10.0.1.5"]]);
  t.strictSame(await deleted(first, service("10.0.1.5")), [[bare], []]);
});

t.test("flows that led to nobody are forgotten once there is somebody", async (t) => {
  t.strictSame(await deleted(service(), service("10.0.1.5")), [
    [],
    ["--orig-dst 10.0.1.2", "--orig-port-dst 5353"],
  ]);
});

t.test("each family is looked at by itself", async (t) => {
  const argvs: string[] = [];
  const run = async (argv: readonly string[]) => {
    argvs.push(argv.join(" "));
    const line =
      "udp 17 29 src=fd00::9 dst=fd00::2 sport=4000 dport=53 src=fd00::5 dst=fd00::9 sport=53 dport=4000";
    return { code: 0, stdout: argv.includes("ipv6") ? line : table, stderr: "" };
  };
  const flows = new Flows({ clock: new VirtualClock(), run, warn: (text) => t.fail(text) });
  const both = (...backends: string[]) => ({
    services: ["10.0.1.2", "fd00::2"].map((address, index) => ({
      bridge: "ov4097",
      address,
      backends: backends.slice(index, index + 1),
    })),
    mesh: [],
    ports: [],
  });
  await flows.follow(both("10.0.1.5", "fd00::5"));
  await flows.follow(both());
  flows.close();
  t.strictSame(argvs, [
    "conntrack -L -p udp",
    "conntrack -D -p udp --reply-src 10.0.1.5",
    "conntrack -L -p udp -f ipv6",
    "conntrack -D -p udp -f ipv6 --reply-src fd00::5",
  ]);
});

t.test("a port of both families is looked for in both", async (t) => {
  const argvs: string[] = [];
  const run = async (argv: readonly string[]) => {
    argvs.push(argv.join(" "));
    return {
      code: 0,
      stdout: argv[1] === "-L" ? table.replaceAll("192.0.2.1 ", "2001:db8::1 ") : "",
      stderr: "",
    };
  };
  const flows = new Flows({ clock: new VirtualClock(), run, warn: (text) => t.fail(text) });
  const mesh = (...families: readonly (readonly string[])[]) => ({
    services: [],
    mesh: families.map((backends) => ({
      protocol: "udp" as const,
      publishedPort: 5353,
      targetPort: 53,
      within: [],
      backends,
    })),
    ports: [],
  });
  await flows.follow(mesh([], []));
  await flows.follow(mesh(["10.0.1.5"], ["fd00::5"]));
  await flows.follow(mesh(["10.0.1.5"], []));
  flows.close();
  t.strictSame(argvs, [
    "conntrack -L -p udp",
    "conntrack -D -p udp --orig-port-dst 5353",
    "conntrack -L -p udp -f ipv6",
    "conntrack -D -p udp -f ipv6 --orig-port-dst 5353",
    "conntrack -L -p udp -f ipv6",
  ]);
});

t.test("a new process leaves alone what its predecessor sent on, not what no rule did", async (t) => {
  t.strictSame(await deleted(service("10.0.1.5")), [[bare]]);
});

t.test("what was sent to a port before its rule was loaded meets the rule next", async (t) => {
  const listing = [
    "udp 17 29 src=192.0.2.9 dst=192.0.2.1 sport=1 dport=514 [UNREPLIED] src=192.0.2.1 dst=192.0.2.9 sport=514 dport=1",
    "udp 17 29 src=192.0.2.8 dst=192.0.2.1 sport=1 dport=514 [UNREPLIED] src=192.0.2.1 dst=192.0.2.8 sport=514 dport=1",
    // At another address of the host, translated, answered, and of a task that asked outside under the host's address.
    "udp 17 29 src=192.0.2.9 dst=192.0.2.2 sport=1 dport=514 [UNREPLIED] src=192.0.2.2 dst=192.0.2.9 sport=514 dport=1",
    "udp 17 29 src=192.0.2.9 dst=192.0.2.3 sport=1 dport=514 [UNREPLIED] src=10.0.1.5 dst=192.0.2.9 sport=514 dport=1",
    "udp 17 29 src=192.0.2.9 dst=192.0.2.4 sport=1 dport=514 src=192.0.2.4 dst=192.0.2.9 sport=514 dport=1",
    "udp 17 29 src=10.0.1.5 dst=192.0.2.5 sport=1 dport=514 [UNREPLIED] src=192.0.2.5 dst=192.0.2.1 sport=514 dport=1",
  ].join("\n");
  let argvs: string[] = [];
  const run = async (argv: readonly string[]) => {
    argvs.push(argv.slice(1).join(" "));
    return { code: 0, stdout: argv[1] === "-L" ? listing : "", stderr: "" };
  };
  const flows = new Flows({ clock: new VirtualClock(), run, warn: (text) => t.fail(text) });
  const port = (protocol: "udp" | "tcp", hostAddress?: string) => ({
    services: [],
    mesh: [],
    ports: [
      {
        protocol,
        publishedPort: 514,
        targetPort: 1514,
        address: "10.0.1.5",
        ...(hostAddress !== undefined && { hostAddress }),
      },
    ],
  });
  const follow = async (rules: ReturnType<typeof port>): Promise<string[]> => {
    argvs = [];
    await flows.follow(rules);
    return argvs;
  };
  const at = (address: string): string =>
    `-D -p udp --orig-dst ${address} --orig-port-dst 514 --reply-src ${address}`;
  t.strictSame(await follow(port("udp", "192.0.2.1")), ["-L -p udp", at("192.0.2.1")]);
  t.strictSame(await follow(port("udp", "192.0.2.1")), [], "rules that stay cost nothing");
  t.strictSame(await follow(port("udp")), ["-L -p udp", at("192.0.2.1"), at("192.0.2.2")]);
  t.strictSame(await follow(port("tcp")), []);
  t.strictSame(await follow(port("udp")), ["-L -p udp", at("192.0.2.1"), at("192.0.2.2")]);
  flows.startOver();
  t.strictSame(await follow(port("udp")), ["-L -p udp", at("192.0.2.1"), at("192.0.2.2")]);
});

t.test(
  "who waits for an answer of a host that is lost is led to another task at his next attempt",
  async (t) => {
    const clock = new VirtualClock();
    const deleted: string[] = [];
    const waiting = (from: number, to: string): string =>
      `tcp      6 110 SYN_SENT src=192.0.2.9 dst=192.0.2.1 sport=${from} dport=80 [UNREPLIED] src=${to} dst=192.0.2.9 sport=80 dport=${from}`;
    const run = async (
      argv: readonly string[],
    ): Promise<{ code: number; stdout: string; stderr: string }> => {
      if (argv[1] === "-D") deleted.push(argv.slice(2).join(" "));
      const isAsked = argv[1] === "-L" && argv.includes("SYN_SENT");
      return {
        code: 0,
        stdout: isAsked ? [waiting(1, "10.0.1.5"), waiting(2, "10.0.1.7")].join("\n") : "",
        stderr: "",
      };
    };
    const flows = new Flows({ clock, run, warn: (text) => t.fail(text) });
    const mesh = (...backends: readonly string[]) =>
      ({
        services: [],
        mesh: [{ protocol: "tcp", publishedPort: 80, targetPort: 80, within: [], backends }],
        ports: [],
      }) as const;
    await flows.follow(mesh("10.0.1.5", "10.0.1.6", "10.0.1.7"));
    await clock.advance(5_000);
    await flows.follow(mesh("10.0.1.6"));
    await flows.follow(mesh("10.0.1.6", "10.0.1.7"));
    await clock.advance(999);
    t.strictSame(deleted, [], "one that is alive has a second to answer");
    await clock.advance(1);
    t.strictSame(
      deleted,
      ["-p tcp --state SYN_SENT --reply-src 10.0.1.5"],
      "none of a task that serves again",
    );
    await flows.follow(mesh());
    flows.close();
    t.equal(clock.waiting, 0);
  },
);

t.test(
  "a task drains until no connection leads to it, and is looked at less often the longer it takes",
  async (t) => {
    const clock = new VirtualClock();
    const looksAtMs: number[] = [];
    const open = "tcp      6 431999 ESTABLISHED src=10.0.1.9 dst=10.0.1.5 sport=4000 dport=80 …";
    const run = async (): Promise<{ code: number; stdout: string; stderr: string }> => {
      looksAtMs.push(clock.monotonic());
      return { code: 0, stdout: clock.monotonic() - (looksAtMs[0] ?? 0) < 20_000 ? open : "", stderr: "" };
    };
    const parts = { run, clock, random: seededRandom(1) };
    const drained = untilUnused(
      parts,
      { addresses: ["10.0.1.5"], leaving: new Set() },
      new AbortController().signal,
    );
    await clock.advance(22_000);
    await drained;
    const gaps = looksAtMs.slice(1).map((atMs, index) => atMs - (looksAtMs[index] ?? 0));
    t.ok((gaps[0] ?? 0) <= 100 && Math.max(...gaps) <= 1_000, gaps.join(" "));
    t.ok(looksAtMs.length < 40, `${looksAtMs.length} looks`);
  },
);

t.test("a connection that one side alone has closed is not over", (t) => {
  const inState = (state: string, leaving: readonly string[] = []): boolean =>
    hasOpenConnection(
      `tcp      6 100 ${state} src=10.0.1.9 dst=10.0.1.5 sport=1 dport=80 src=10.0.1.5 dst=10.0.1.9\n`,
      new Set(leaving),
    );
  for (const state of ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"]) t.ok(inState(state), state);
  for (const state of ["SYN_SENT", "LAST_ACK", "TIME_WAIT", "CLOSE"]) t.notOk(inState(state), state);
  t.notOk(hasOpenConnection("", new Set()));
  t.notOk(inState("ESTABLISHED", ["10.0.1.9"]), "its client waits for this one's connections as well");
  t.ok(inState("ESTABLISHED", ["10.0.1.5"]));
  t.end();
});
