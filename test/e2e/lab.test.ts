import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { labCgroups } from "../lab/cgroup.ts";
import { clearLab, Lab, labPlace, type ClusterFile } from "../lab/lab.ts";
import { run, tryRun, waitFor } from "../lab/shell.ts";
import { noLab } from "./fixture.ts";

const name = "e-lab";
const place = labPlace({ name });
const main = fileURLToPath(new URL("../lab/main.js", import.meta.url));

t.test("the lab", { skip: noLab }, async (t) => {
  t.teardown(() => clearLab(place));
  const lab = await Lab.up({ name, managers: 1, workers: 2, payload: "containerd" });
  const [one, two, three] = lab.hosts;
  if (one === undefined || two === undefined || three === undefined)
    throw new Error("three hosts were asked for");
  /** Whether a connection from one host to another's test port comes about. */
  const reaches = async (from: typeof one, to: typeof one): Promise<boolean> =>
    (
      await tryRun(
        inside(from.netns, ["timeout", "1", "busybox", "wget", "-qO-", `http://${to.addr}:9/lab.json`]),
      )
    ).code === 0;
  for (const host of lab.hosts) {
    await host.exec(["sh", "-c", `setsid busybox httpd -f -p 9 -h ${place.dir} >/dev/null 2>&1 &`]);
  }
  await waitFor(
    "test ports",
    { timeoutMs: 5_000 },
    async () => (await reaches(one, two)) && reaches(two, three),
  );

  t.test("writes cluster.json in the form that benchmarks read", async (t) => {
    const cluster = JSON.parse(await readFile(`${lab.dir}/cluster.json`, "utf8")) as ClusterFile;
    t.equal(cluster.image, "10.230.0.254:5000/bb:1");
    t.match(cluster.hosts[2], { name: "host3", addr: "10.230.0.3", netns: "e-lab3", role: "worker" });
    t.match(cluster.hosts[2]?.kill, /kill host3/);
  });

  t.test("its registry has every image, each tag with a digest of its own", async (t) => {
    const digests = new Set<string>();
    for (const [repository, tag] of ["bb 1", "bb 2", "web 1", "web 2", "web broken"].map((pair) =>
      pair.split(" "),
    )) {
      const url = `http://10.230.0.254:5000/v2/${repository}/manifests/${tag}`;
      digests.add(
        await lab.lan.run([
          "busybox",
          "wget",
          "-qO-",
          "--header",
          "Accept: application/vnd.oci.image.manifest.v1+json",
          url,
        ]),
      );
    }
    t.equal(digests.size, 5);
  });

  t.test("a cut host reaches nobody, until it is healed", async (t) => {
    await lab.cut(one);
    t.notOk(await reaches(one, two));
    t.notOk(await reaches(two, one));
    t.ok(await reaches(two, three), "the others do not notice");
    await lab.heal(one);
    t.ok(await reaches(one, two));
  });

  t.test("a cut between two hosts leaves the third to both", async (t) => {
    await lab.cut(one, two);
    t.notOk(await reaches(one, two));
    t.ok(await reaches(one, three));
    t.ok(await reaches(two, three));
    await lab.heal();
    t.ok(await reaches(one, two));
  });

  t.test("a one-way cut drops only what the host sends", async (t) => {
    await lab.cutOneWay(one, two);
    t.strictSame(await lab.lan.cuts(), [{ from: one.addr, to: two.addr }]);
    await lab.heal(two);
    t.strictSame(await lab.lan.cuts(), []);
  });

  t.test("a paused host stands still, and goes on when resumed", async (t) => {
    await two.pause();
    t.equal(await two.state(), "paused");
    await two.resume();
    t.equal(await two.state(), "up");
  });

  t.test(
    "a killed host is gone with all its processes; restarted it has its disk and an empty /run",
    async (t) => {
      await two.exec(["sh", "-c", `echo kept >${two.dir}/disk; echo lost >/run/lost`]);
      await two.exec(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"]);
      await two.kill();
      t.equal(await two.state(), "dead");
      t.strictSame(await two.processes(), []);
      await lab.restart(two);
      t.equal(await two.exec(["cat", `${two.dir}/disk`]), "kept\n");
      t.notMatch(await two.exec(["ls", "/run"]), "lost");
      t.equal(await two.exec(["hostname"]), "host2\n");
    },
  );

  t.test("a killed process is started again", async (t) => {
    const old = await three.signalProcess("containerd");
    await waitFor("new containerd", { timeoutMs: 10_000 }, async () => {
      const pid = (await three.ownProcesses()).containerd?.pid;
      return pid !== undefined && pid !== old;
    });
    t.pass();
  });

  t.test("down leaves nothing", async (t) => {
    await lab.down();
    await leavesNothing(t);
  });

  t.test("what an interrupted up has left, the next one clears", async (t) => {
    const child = spawn(process.execPath, [main, "up", "--bare", "--name", name], { stdio: "ignore" });
    await waitFor("first host of the interrupted lab", { timeoutMs: 10_000, everyMs: 1 }, () =>
      existsSync(`/run/netns/${name}1`),
    );
    child.kill("SIGKILL");
    const again = await Lab.up({ name, managers: 1, workers: 0, payload: "containerd" });
    t.equal(await again.hosts[0]?.state(), "up");
    await again.down();
    await leavesNothing(t);
  });
});

t.test("a directory that no lab has made is not touched", { skip: noLab }, async (t) => {
  const dir = t.testdir({ "thesis.txt": "years of work" });
  await t.rejects(Lab.up({ name, dir, payload: "containerd" }), /no lab made it/);
  t.ok(existsSync(`${dir}/thesis.txt`));
});

async function leavesNothing(t: {
  strictSame(found: unknown, wanted: unknown, message: string): unknown;
}): Promise<void> {
  const ours = (entries: readonly string[]): string[] => entries.filter((entry) => entry.startsWith(name));
  t.strictSame(ours(await readdir("/run/netns")), [], "no namespace");
  t.strictSame(ours(await labCgroups()), [], "no cgroup");
  t.strictSame(existsSync(place.dir), false, "no file");
  const mounts = (await readFile("/proc/self/mounts", "utf8"))
    .split("\n")
    .filter((line) => line.includes(place.dir));
  t.strictSame(mounts, [], "no mount");
  const processes = await run(["ps", "-eo", "args"]);
  t.strictSame(
    processes.split("\n").filter((line) => line.includes(place.dir)),
    [],
    "no process",
  );
}

function inside(netns: string, argv: readonly string[]): string[] {
  return ["nsenter", `--net=/run/netns/${netns}`, ...argv];
}
