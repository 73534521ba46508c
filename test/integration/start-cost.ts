/**
 * What starting, running a command in, and ending containers costs on this machine: wall clock and CPU
 * of everything involved (this process, containerd, shims, runtimes). Prints one line per step.
 *
 * usage: node build/test/integration/start-cost.js [containers] [in flight]
 */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { newContainerId, systemRandom } from "../../runtime/random.ts";
import { Limit } from "../../runtime/limit.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { createLog } from "../../runtime/log.ts";
import { systemClock } from "../../runtime/clock.ts";
import { Attachments } from "../../worker/agent/attachments.ts";
import { LocalNetworks } from "../../worker/bridges/networks.ts";
import { LocalContainers } from "../../worker/containers/containers.ts";
import type { LocalEngine } from "../../worker/engine/local.ts";
import { openHostNetwork } from "../../worker/network/open.ts";
import { hostSettings, insideNamespaces, startTestHost } from "./containerd.ts";

insideNamespaces(import.meta.url);

const count = Number(process.argv[2] ?? 50);
const inFlight = Number(process.argv[3] ?? 8);
/** Beside the test host's own cgroup, in which everything is ended when it starts and stops. */
const group = "/sys/fs/cgroup/cpuacct/shoal-cost-meter";
const containers = "/sys/fs/cgroup/cpuacct/shoal-test-cost";
mkdirSync(group, { recursive: true });
writeFileSync(join(group, "cgroup.procs"), String(process.pid));
// containerd, and all that it starts, is counted apart from the tools that we start.
const daemons = join(group, "containerd");
mkdirSync(daemons, { recursive: true });
writeFileSync(join(daemons, "cgroup.procs"), String(process.pid));
const host = await startTestHost("cost");
writeFileSync(join(group, "cgroup.procs"), String(process.pid));
const none = new AbortController().signal;
try {
  const image = `${host.registry}/bb:1`;
  await pushImage(host.registry, "bb", "1", buildImage([await busyboxLayer()], { Cmd: ["sleep", "600"] }));
  const engine = await host.openEngine();
  await engine.pull(image, {}, none);
  const ids = Array.from({ length: count }, () => newContainerId(systemRandom));
  await step("create", (id) =>
    engine.create(
      {
        id,
        name: id.slice(0, 8),
        image,
        spec: plainSpec,
        resources: {},
        labels: {},
        network: { kind: "none" },
        secrets: [],
        configs: [],
      },
      none,
    ),
  );
  await step("start", (id) => engine.start(id, none));
  await step("exec", (id) =>
    engine.exec(id, { args: ["true"], timeoutMs: 9_999, outputLimitBytes: 99 }, none),
  );
  const before = cpuMs();
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  console.log(`idle    ${((cpuMs() - before) / 3).toFixed(1)} ms CPU per second with ${count} containers`);
  await step("stop", (id) => engine.stop(id, { graceMs: 0 }, none));
  await step("remove", (id) => engine.remove(id));
  await localContainers(engine, image);
  console.log(`node    ${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MiB`);

  /** What `docker run` does, with a network each, short of its connection. */
  async function localContainers(local: LocalEngine, reference: string): Promise<void> {
    const deps = { clock: systemClock, random: systemRandom };
    const warn = (text: string): void => console.log(text);
    const networks = await LocalNetworks.open({ ...deps, ...hostSettings(host) });
    const network = await openHostNetwork({ ...deps, warn }, hostSettings(host), none);
    networks.use(network);
    const containers = await LocalContainers.open({
      ...deps,
      log: createLog("cost", "warn"),
      engine: local,
      network,
      networks,
      cluster: new Attachments(deps),
      directory: join(host.settings.stateDir, "local"),
      daemonRun: "1",
      facts: await local.info(),
    });
    const made = new Map<string, string>();
    const idOf = (key: string): string => made.get(key) ?? "";
    const body = { Image: reference, Cmd: ["sleep", "600"] };
    await step("local: create", async (key) => {
      made.set(key, (await containers.create(undefined, body, none)).id);
    });
    await step("local: start", (key) => containers.start(idOf(key), none));
    await step("local: rm -f", (key) => containers.remove(idOf(key), { force: true, volumes: "removed" }));
    await step("local: run --rm true", async () => {
      const { id } = await containers.create(
        undefined,
        { Image: reference, Cmd: ["true"], HostConfig: { AutoRemove: true } },
        none,
      );
      const gone = containers.wait(id, "removed", none);
      await containers.start(id, none);
      await gone;
    });
    await containers.close();
    await network.close();
  }

  async function step(name: string, work: (id: string) => Promise<unknown>): Promise<void> {
    const places = new Limit(inFlight);
    const cpu = cpuMs();
    const daemonsMs = usageMs(daemons);
    const own = process.cpuUsage();
    const start = performance.now();
    await Promise.all(ids.map((id) => places.run(() => work(id), none)));
    const wallMs = performance.now() - start;
    const { user, system } = process.cpuUsage(own);
    const each = ((cpuMs() - cpu) / count).toFixed(1);
    const node = ((user + system) / 1000 / count).toFixed(1);
    const theirs = ((usageMs(daemons) - daemonsMs) / count).toFixed(1);
    const tools = (Number(each) - Number(theirs) - Number(node)).toFixed(1);
    console.log(
      `${name.padEnd(20)} ${count} in ${(wallMs / 1000).toFixed(2)} s, ${each} ms CPU each: ours ${node}, containerd with shims and runtime ${theirs}, tools and containers ${tools}`,
    );
  }
} finally {
  await host.stop();
  writeFileSync("/sys/fs/cgroup/cpuacct/cgroup.procs", String(process.pid));
  rmdirSync(daemons);
  rmdirSync(group);
}

function cpuMs(): number {
  return usageMs(group) + usageMs(containers);
}

/** Those that have gone count on in their parent; 0 before the first one. */
function usageMs(path: string): number {
  const usage = join(path, "cpuacct.usage");
  return existsSync(usage) ? Number(readFileSync(usage, "utf8")) / 1e6 : 0;
}
