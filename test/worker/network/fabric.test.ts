import t from "tap";

import type { NetworkId } from "../../../model/ids.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { ownBridge } from "../../../worker/network/bridges.ts";
import { Fabric } from "../../../worker/network/fabric.ts";

const bridge = (name: string, number: number) => ({
  ...ownBridge(`10.${number}.0.0/16`),
  id: name as NetworkId,
  name,
  device: name,
});

t.test(
  "a device of the host that has the name of a bridge is left alone, the other bridges are made",
  async (t) => {
    const lines: string[] = [];
    const run = async (argv: readonly string[], input = "") => {
      if (argv.includes("-j")) return { code: 0, stdout: "[]\n", stderr: "" };
      const batch = input.trimEnd().split("\n");
      lines.push(...batch);
      const refused = batch.findIndex((line) => line.startsWith("link add eth0 "));
      const stderr = refused < 0 ? "" : `RTNETLINK answers: File exists\nCommand failed -:${refused + 1}\n`;
      return { code: refused < 0 ? 0 : 1, stdout: "", stderr };
    };
    const settled: string[] = [];
    const fabric = new Fabric({
      clock: systemClock,
      run,
      settle: async (links) => {
        settled.push(...links.map(({ device }) => device));
        return [];
      },
    });
    const port = {
      taskId: "t" as never,
      networkId: "eth0" as NetworkId,
      bridge: "eth0",
      device: "eth0",
      address: "10.1.0.2/16",
      gateway: "10.1.0.1",
      mac: "02:42:0a:01:00:02",
    };
    const bridges = [bridge("eth0", 1), bridge("br-a", 2)];
    const state = { wanted: undefined, ports: [port], bridges, underlayMtu: 1500 };
    const { bridges: failures, absent, tasks } = await fabric.sync(state, new Set());
    t.match(failures.get("eth0"), /link add eth0 .*File exists/);
    t.equal(failures.size, 1);
    t.match(tasks.get("t" as never), /eth0 could not be made/);
    t.strictSame([...absent], ["eth0"]);
    t.strictSame(
      lines.filter((line) => /(?:dev|master) eth0\b/.test(line)),
      [],
    );
    t.ok(lines.some((line) => line.includes("dev br-a")));
    t.notOk(settled.includes("eth0"));
    t.ok(settled.includes("br-a"));
  },
);
