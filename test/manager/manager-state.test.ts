/** What a manager has on its disk, and what it does without. */
import { readFile, writeFile } from "node:fs/promises";
import t from "tap";
import { clusterVersion, labelOf, setLabel, tokensOf } from "./calls.ts";
import { eventually, ManagerProcesses } from "./processes.ts";

t.setTimeout(150_000);

t.test("the snapshot interval of the cluster's spec is followed at once, and after a restart", async (t) => {
  const processes = await ManagerProcesses.create(t);
  const manager = processes.bootstrap();
  await manager.message("ready");
  const { identity } = manager;
  const snapshots = async (): Promise<readonly string[]> =>
    (await manager.dataFiles()).filter((path) => path.endsWith(".snap")).toSorted();
  t.strictSame(await snapshots(), [], "far from the default of 10,000 entries");
  const updated = await manager.call("POST", `/swarm/update?version=${await clusterVersion(manager)}`, {
    Raft: { SnapshotInterval: 5 },
  });
  t.equal(updated.status, 200);
  for (let count = 0; count < 6; count += 1) await setLabel(manager, identity.nodeId, `${count}`);
  const before = await eventually("a snapshot", async () => (await snapshots()).at(-1));
  await manager.kill("SIGTERM");
  const again = processes.start(manager.address, { kind: "restart", identity });
  await again.message("ready");
  for (let count = 0; count < 6; count += 1) await setLabel(again, identity.nodeId, `again ${count}`);
  await eventually("a newer one", async () => ((await snapshots()).at(-1) !== before ? true : undefined));
});

t.test("a damaged log is refused with what to do, and left as it is", async (t) => {
  const processes = await ManagerProcesses.create(t);
  const manager = processes.bootstrap();
  await manager.message("ready");
  const { identity } = manager;
  for (const value of ["one", "two", "three"]) await setLabel(manager, identity.nodeId, value);
  await manager.kill("SIGKILL");
  const files = await manager.dataFiles();
  const log = files.find((path) => /wal|log|seg/.test(path));
  if (log === undefined) throw new Error(`no log among ${files.join(", ")}`);
  const bytes = await readFile(log);
  const damaged = Buffer.from(bytes);
  // In the first record behind the header: what follows it proves that it was whole once.
  damaged.fill(0xff, 200, 260);
  await writeFile(log, damaged);
  const again = processes.start(manager.address, { kind: "restart", identity });
  t.match(await again.message("failed"), { code: "data-loss", retry: false });
  t.equal(await again.exited, "1");
  t.strictSame(await readFile(log), damaged, "nothing was cut off");
  await writeFile(log, bytes);
  const repaired = processes.start(manager.address, { kind: "restart", identity });
  await repaired.message("ready");
  t.equal(await eventually("the state is back", () => labelOf(repaired, identity.nodeId)), "three");
});

t.test("what a manager cannot start with is said, with what to do", async (t) => {
  const processes = await ManagerProcesses.create(t);
  const first = processes.bootstrap();
  await first.message("ready");
  const taken = processes.bootstrap(first.address);
  t.match(await taken.message("failed"), { code: "unavailable", message: /port is taken/, retry: true });
  t.equal(await taken.exited, "1");

  const tokens = await tokensOf(first);
  const worker = await processes.issue(first.address, tokens.Worker);
  const refused = processes.start(worker.listenAddress, { kind: "join", identity: worker });
  t.match(await refused.message("failed"), { code: "permission-denied", retry: false });

  const stranger = processes.nextAddress();
  const lost = processes.start(stranger, {
    kind: "restart",
    identity: { ...first.identity, listenAddress: stranger, advertiseAddress: stranger },
  });
  t.match(
    await lost.message("failed"),
    { code: "failed-precondition", retry: false },
    "nothing on disk to restart from",
  );
});
