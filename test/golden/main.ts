/**
 * `npm run golden`: asks a real dockerd and then a host of ours the same, writes down what Docker said, and prints
 * where we differ without a reason. `golden ours` leaves dockerd out, and compares with what was written down.
 */
import { spawnSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { insideNamespaces } from "../integration/containerd.ts";
import { LocalHost } from "../integration/local-host.ts";
import { askAll } from "./ask.ts";
import { allCalls } from "./calls/all.ts";
import { compare, judge, printDifference } from "./compare.ts";
import { Dockerd } from "./dockerd.ts";
import { expected } from "./expected.ts";
import { askHost, loadRecord, pushBase, recordPath } from "./record.ts";

const [part] = process.argv.slice(2);

function child(name: string): number {
  const { status, error } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), name], {
    stdio: "inherit",
  });
  if (error !== undefined) throw error;
  return status ?? 1;
}

async function askDocker(): Promise<void> {
  const dockerd = await Dockerd.start("golden");
  try {
    await pushBase(dockerd.registry);
    const home = join(dockerd.directory, "home");
    await mkdir(home, { recursive: true });
    const own = [dockerd.dataRoot, dockerd.execRoot];
    const said = await askAll({ socket: dockerd.socket, home, own }, allCalls, {
      onCall: (name) => console.log(name),
    });
    await writeFile(recordPath, `${JSON.stringify(said, null, 1)}\n`);
    console.log(`${said.length} answers of Docker ${await dockerd.version()} in ${recordPath}`);
  } finally {
    await dockerd.stop();
  }
}

async function askOurs(): Promise<void> {
  const host = await LocalHost.start("golden");
  try {
    const ours = await askHost(host, { onCall: (name) => console.error(name) });
    const saved = join(tmpdir(), "shoal-golden-ours.json");
    await writeFile(saved, `${JSON.stringify(ours, null, 1)}\n`);
    console.log(`our answers are in ${saved}`);
    const found = compare(await loadRecord(), ours);
    const { unexpected, idle } = judge(found, expected);
    for (const difference of unexpected) console.log(printDifference(difference));
    for (const { call, at } of idle) console.log(`expected and not found: ${call.source} at ${at.source}`);
    console.log(`${ours.length} calls, ${found.length} differences, ${unexpected.length} without a reason`);
    process.exitCode = unexpected.length + idle.length === 0 ? 0 : 1;
  } finally {
    await host.stop();
  }
}

if (part === undefined) {
  process.exitCode = child("docker") || child("ours");
} else if (part === "docker" && insideNamespaces(import.meta.url)) {
  await askDocker();
} else if (part === "ours" && insideNamespaces(import.meta.url)) {
  await askOurs();
} else {
  console.error(`unknown part ${part}: docker, ours or none is accepted`);
  process.exitCode = 2;
}
