/**
 * What starting, running a command in, and ending containers costs on this machine: wall clock and CPU
 * of everything involved (this process, containerd, shims, runtimes). Prints one line per step.
 *
 * usage: node build/test/integration/start-cost.js [containers] [in flight]
 */
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { newContainerId, systemRandom } from "../../runtime/random.ts";
import { Limit } from "../../runtime/limit.ts";
import { buildImage, busyboxLayer, pushImage } from "../lab/image.ts";
import { plainSpec } from "../worker/engine/plain.ts";
import { insideNamespaces, startTestHost } from "./containerd.ts";

insideNamespaces(import.meta.url);

const count = Number(process.argv[2] ?? 50);
const inFlight = Number(process.argv[3] ?? 8);
const group = "/sys/fs/cgroup/cpuacct/shoal-test-cost";
mkdirSync(group, { recursive: true });
writeFileSync(join(group, "cgroup.procs"), String(process.pid));
const host = await startTestHost("cost");
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
  console.log(`node    ${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MiB`);

  async function step(name: string, work: (id: string) => Promise<unknown>): Promise<void> {
    const places = new Limit(inFlight);
    const cpu = cpuMs();
    const own = process.cpuUsage();
    const start = performance.now();
    await Promise.all(ids.map((id) => places.run(() => work(id), none)));
    const wallMs = performance.now() - start;
    const { user, system } = process.cpuUsage(own);
    const each = ((cpuMs() - cpu) / count).toFixed(1);
    const node = ((user + system) / 1000 / count).toFixed(1);
    console.log(
      `${name.padEnd(7)} ${count} in ${(wallMs / 1000).toFixed(2)} s, ${each} ms CPU each, of which ours ${node}`,
    );
  }
} finally {
  await host.stop();
  writeFileSync("/sys/fs/cgroup/cpuacct/cgroup.procs", String(process.pid));
  rmdirSync(group);
}

function cpuMs(): number {
  return Number(readFileSync(join(group, "cpuacct.usage"), "utf8")) / 1e6;
}
