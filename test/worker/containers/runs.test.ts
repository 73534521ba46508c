import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { silentLog } from "../../../runtime/log.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { orAborted } from "../../../runtime/signal.ts";
import type { Connections } from "../../../worker/containers/connections.ts";
import { type Entry, lastOutcome } from "../../../worker/containers/entry.ts";
import { Runs } from "../../../worker/containers/runs.ts";
import { sharedMemoryPath } from "../../../worker/containers/shared-memory.ts";
import type { ExitStatus } from "../../../worker/engine/engine.ts";
import type { LocalEngine } from "../../../worker/engine/local.ts";
import type { HostNetwork } from "../../../worker/network/network.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { startedRecord } from "./record.ts";

const id = "a".repeat(64);
const none = new AbortController().signal;

/** One container whose network is given back by `detach`, and whose process ends when it is told to. */
function fixture(detach: () => Promise<void>, restart: string) {
  const clock = new VirtualClock();
  const directory = mkdtempSync(join(tmpdir(), "shoal-runs-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  let exit: ExitStatus | undefined;
  let end = (_exit: ExitStatus): void => undefined;
  const seen = { starts: 0 };
  const engine = {
    inspect: async () => ({ id, status: { state: "stopped", startedAtMs: 0, exit } }),
    start: async () => void seen.starts++,
    wait: (_id: string, signal: AbortSignal) =>
      orAborted(new Promise<ExitStatus>((resolve) => (end = resolve)), signal),
    list: async () => [],
  } as unknown as LocalEngine;
  const connections: { attach: () => Promise<object>; detach: () => Promise<void> } = {
    attach: async () => ({ kind: "host", files: undefined }),
    detach,
  };
  const runs = new Runs({
    clock,
    random: systemRandom,
    log: silentLog,
    engine,
    network: {} as HostNetwork,
    connections: connections as unknown as Connections,
    directory,
    daemonRun: "1",
    facts: { swapLimit: true, cgroupVersion: 2 },
    emit: async () => undefined,
  });
  runs.add(startedRecord(id, { RestartPolicy: { Name: restart } }));
  const entry = runs.entry(id) as Entry;
  const ended = async (atMs = 0): Promise<void> => {
    exit = { exitCode: 1, atMs, oomKilled: false, error: "" };
    end(exit);
    await new Promise(setImmediate);
    await runs.settle(entry);
  };
  return { runs, entry, clock, directory, seen, ended, connections };
}

t.test("why a start failed is kept until one goes through, and has an exit code", async (t) => {
  const { runs, entry, connections } = fixture(async () => undefined, "no");
  connections.attach = () => Promise.reject(new Error("failed to set up container networking: no way"));
  await t.rejects(runs.launch(entry, none));
  const [kept] = await runs.store.load();
  t.equal(kept?.startError, "failed to set up container networking: no way");
  const exit = { exitCode: 3, atMs: 0, oomKilled: false, error: "" };
  t.match(lastOutcome(undefined, kept), { exitCode: 128, error: /no way$/ });
  t.match(lastOutcome(exit, kept), { exitCode: 3, error: /no way$/ }, "that of the last run stays");
  const given = AbortSignal.abort(new Error("the client is gone"));
  connections.attach = () => Promise.reject(new Error("other"));
  await t.rejects(runs.launch(entry, given));
  t.match(entry.record.startError, /no way$/, "who gave up is no reason");
  connections.attach = async () => ({ kind: "host", files: undefined });
  await runs.launch(entry, none);
  t.strictSame(lastOutcome(exit, entry.record), { exitCode: 3, error: "" });
  await runs.close();
});

t.test("a network that could not be given back once does not hold up the next start", async (t) => {
  let isBroken = true;
  let detached = 0;
  const { runs, entry, seen, ended } = fixture(async () => {
    if (isBroken) throw new Error("umount: busy");
    detached++;
  }, "no");
  await runs.launch(entry, none);
  await ended();
  await t.rejects(runs.launch(entry, none), /busy/, "what is still there is in the way, and said");
  t.equal(seen.starts, 1);
  isBroken = false;
  await runs.launch(entry, none);
  t.equal(detached, 1, "given back before the start");
  t.equal(seen.starts, 2);
  await runs.close();
});

t.test("one whose network could not be given back is started again by its policy", async (t) => {
  let fails = 1;
  const { runs, entry, clock, seen, ended } = fixture(async () => {
    if (fails-- > 0) throw new Error("umount: busy");
  }, "always");
  await runs.launch(entry, none);
  await ended();
  t.equal(entry.isRestarting, true);
  await clock.advance(100);
  await entry.locked(async () => undefined);
  t.equal(seen.starts, 2);
  t.equal(entry.isRestarting, false);
  await runs.close();
});

t.test("pauses before restarts grow while starts fail, however long the last run was", async (t) => {
  const { runs, entry, clock, ended, connections } = fixture(async () => undefined, "always");
  await runs.launch(entry, none);
  connections.attach = () => Promise.reject(new Error("no network"));
  await ended(60_000);
  const delays: number[] = [];
  for (let pauseMs = 100; pauseMs <= 400; pauseMs *= 2) {
    await clock.advance(pauseMs);
    await entry.locked(async () => undefined);
    delays.push(entry.record.restartDelayMs);
  }
  t.strictSame(delays, [100, 200, 400]);
  await runs.close();
});

t.test("a start that failed gives back what it had", async (t) => {
  let detached = 0;
  const { runs, entry, seen, directory } = fixture(async () => void detached++, "no");
  const failing = { ...entry.record.hostConfig, PidMode: "container:gone", IpcMode: "shareable" };
  const shm = sharedMemoryPath(directory, id);
  mkdirSync(shm);
  entry.record = { ...entry.record, hostConfig: failing };
  await t.rejects(runs.launch(entry, none), /No such container: gone/);
  t.strictSame([detached, seen.starts], [1, 0]);
  t.notOk(existsSync(shm), "its /dev/shm too");
  await runs.close();
});

t.test("that many containers run is nothing to warn of", async (t) => {
  const { runs, entry } = fixture(async () => undefined, "no");
  const warnings: string[] = [];
  const listen = ({ message }: Error): void => void warnings.push(message);
  process.on("warning", listen);
  t.teardown(() => void process.off("warning", listen));
  for (let index = 0; index < 20; index += 1) {
    const { record } = entry;
    runs.add({ ...record, id: index.toString(16).padStart(64, "b"), name: `c${index}` });
  }
  for (const each of runs.all()) await runs.launch(each, none);
  await new Promise(setImmediate);
  await runs.close();
  t.strictSame(warnings, []);
});
