/** What a user sees when the network between hosts breaks, and when it mends. */
import t from "tap";

import { waitFor } from "../lab/shell.ts";
import { shoal } from "./clients.ts";
import { images, labForTests, noLab, quick, unhandledErrors } from "./fixture.ts";

interface Report {
  readonly Healthy: boolean;
  readonly Hosts: readonly {
    readonly Hostname: string;
    readonly Answered: boolean;
    readonly Passed: number;
  }[];
  readonly Findings: readonly { readonly Host: string; readonly Test: string; readonly Peer: string }[];
}

/** A user may count on this; the rest is the machine's. */
const healMs = 10_000;

t.test("shoal net doctor", { skip: noLab || shoal.missing }, async (t) => {
  const { lab, view } = await labForTests(t, { name: "e-doc", managers: 1, workers: 2 });
  const [host1, host2] = lab.hosts;
  if (host1 === undefined || host2 === undefined) throw new Error("hosts were asked for");
  const doctor = async (): Promise<{ code: number; report: Report; text: string }> => {
    const { code, stdout, stderr } = await shoal.try(host1, ["net", "doctor", "--json"]);
    return { code, report: JSON.parse(stdout) as Report, text: `${stdout}${stderr}` };
  };
  const until = (what: string, holds: (report: Report) => boolean): Promise<Report> =>
    waitFor(what, { timeoutMs: 60_000 }, async () => {
      const { report, text } = await doctor();
      if (holds(report)) return report;
      throw new Error(text);
    });

  await shoal.run(host1, ["network", "create", "front"]);
  await shoal.run(host1, ["network", "create", "--opt", "encrypted", "safe"]);
  const where = ["--network", "front", "--network", "safe", "--mode", "global", "--publish", "8080:8080"];
  await shoal.run(host1, ["service", "create", ...quick, ...where, "--name", "web", images.web1]);
  await waitFor("a task on each host", { timeoutMs: 40_000 }, async () => {
    return (await view.running("web")).length === 3;
  });

  t.test("a cluster in order passes every test of every host, and the exit code is 0", async (t) => {
    const report = await until(
      "a healthy cluster",
      ({ Healthy, Findings }) => Healthy && Findings.length === 0,
    );
    t.strictSame(
      report.Hosts.map(({ Hostname, Answered }) => `${Hostname} ${Answered}`).toSorted((a, b) =>
        a.localeCompare(b),
      ),
      ["host1 true", "host2 true", "host3 true"],
    );
    for (const { Hostname, Passed } of report.Hosts) t.ok(Passed >= 8, `${Hostname}: ${Passed} tests`);
    const { code, stdout } = await shoal.try(host1, ["net", "doctor"]);
    t.equal(code, 0);
    t.match(stdout, /Every test passed/);
  });

  t.test(
    "a firewall that stops VXLAN and tunnels is named with both ends and the next command",
    async (t) => {
      await host2.exec([
        "nft",
        "add table inet block; add chain inet block in { type filter hook input priority -10; }; add rule inet block in udp dport { 4789, 51822 } drop",
      ]);
      const report = await until("a broken link", ({ Healthy }) => !Healthy);
      // Each pair is tested from one of its ends.
      const broken = report.Findings.filter(({ Test }) => Test === "vxlan").map(({ Host, Peer }) =>
        [Host, Peer].toSorted((a, b) => a.localeCompare(b)).join(" "),
      );
      t.ok(broken.includes("host1 host2"), broken.join(", "));
      t.notOk(broken.includes("host1 host3"), broken.join(", "));
      t.ok(
        report.Findings.some(({ Test, Host, Peer }) => Test === "tunnel" && [Host, Peer].includes("host2")),
        "the tunnel is named too",
      );
      const { code, stdout } = await shoal.try(host1, ["net", "doctor"]);
      t.equal(code, 2);
      t.match(
        stdout,
        /broken \(vxlan\) (host1 -> host2|host2 -> host1): overlay packets \(VXLAN\) .*\n {2}next: on host\d and host\d: nft insert rule .*4789/,
      );
    },
  );

  t.test("nft flush ruleset takes the block away, and ours, which the host mends by itself", async () => {
    await host2.exec(["nft", "flush", "ruleset"]);
    await waitFor("the mesh's table", { timeoutMs: 3 * healMs }, async () => {
      return (await host2.exec(["nft", "list", "tables"])).includes("shoal_net");
    });
    await until("a healthy cluster again", ({ Healthy }) => Healthy);
  });

  t.test("a host that is gone is shown, and the others are tested all the same", async (t) => {
    await lab.hosts[2]?.kill();
    const report = await until("the lost host", ({ Findings }) =>
      Findings.some(({ Host, Test }) => Host === "host3" && Test === "answer"),
    );
    t.equal(report.Hosts.find(({ Hostname }) => Hostname === "host2")?.Answered, true);
  });

  t.test("none of our processes met an error that nobody handled", async (t) => {
    t.strictSame(await unhandledErrors(lab), []);
  });
});
