import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run, waitFor } from "../lab/shell.ts";
import { cpuSeconds, freePort } from "./raft-group.ts";
import type { LoadFigures } from "./raft.ts";

/** Streams of one connection; h2load spreads what is in flight over as many connections as that takes. */
const streamsPerConnection = 50;
const warmupSeconds = 1;

interface EtcdMember {
  readonly child: ChildProcess;
  readonly clientUrl: string;
}

/** What is missing to measure etcd here; undefined when nothing is. */
export function etcdMissing(): string | undefined {
  const missing = ["etcd", "h2load"].filter((name) => !existsSync(`/usr/bin/${name}`));
  return missing.length === 0 ? undefined : missing.join(" and ");
}

/** Three etcd servers on loopback without TLS, and h2load, which puts one key again and again through the leader. */
export class EtcdGroup implements AsyncDisposable {
  readonly #members: readonly EtcdMember[];
  readonly #directory: string;

  private constructor(members: readonly EtcdMember[], directory: string) {
    this.#members = members;
    this.#directory = directory;
  }

  static async start(): Promise<EtcdGroup> {
    const directory = await mkdtemp(join(tmpdir(), "shoal-bench-etcd-"));
    const places = [];
    for (const name of ["e1", "e2", "e3"]) {
      const [client, peer] = [await freePort(), await freePort()];
      places.push({ name, clientUrl: `http://127.0.0.1:${client}`, peerUrl: `http://127.0.0.1:${peer}` });
    }
    const initial = places.map(({ name, peerUrl }) => `${name}=${peerUrl}`).join(",");
    const members = places.map(({ name, clientUrl, peerUrl }) => {
      const flags = {
        name,
        "data-dir": join(directory, name),
        "listen-client-urls": clientUrl,
        "advertise-client-urls": clientUrl,
        "listen-peer-urls": peerUrl,
        "initial-advertise-peer-urls": peerUrl,
        "initial-cluster": initial,
        "log-level": "error",
      };
      const argv = Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`);
      return { child: spawn("/usr/bin/etcd", argv, { stdio: "ignore" }), clientUrl };
    });
    const group = new EtcdGroup(members, directory);
    try {
      await group.#leader();
      return group;
    } catch (error) {
      await group[Symbol.asyncDispose]();
      throw error;
    }
  }

  async load(options: { inFlight: number; bytes: number; seconds: number }): Promise<LoadFigures> {
    const { inFlight, bytes, seconds } = options;
    const leader = await this.#leader();
    const body = join(this.#directory, "put");
    const log = join(this.#directory, "requests");
    await writeFile(body, putRequest(bytes));
    await rm(log, { force: true });
    const connections = Math.ceil(inFlight / streamsPerConnection);
    const streams = Math.ceil(inFlight / connections);
    const pids = this.#members.map(({ child }) => child.pid ?? 0);
    const before = { cpu: await cpuSeconds(pids), metrics: await metricsOf(leader) };
    const argv = ["h2load", "-c", connections, "-m", streams, "-D", seconds, "-d", body, "--log-file", log];
    argv.push("--warm-up-time", warmupSeconds, "-H", "content-type: application/grpc", "-H", "te: trailers");
    await run([...argv.map(String), `${leader.clientUrl}/etcdserverpb.KV/Put`], {
      timeoutMs: (seconds + 20) * 1000,
    });
    const after = { cpu: await cpuSeconds(pids), metrics: await metricsOf(leader) };
    const latencies = (await readFile(log, "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => Number(line.split("\t")[2]) / 1000) // start (µs), HTTP status, duration (µs)
      .toSorted((a, b) => a - b);
    // Of the whole run, so that a call which etcd refused is not taken for a commit.
    const puts = after.metrics.puts - before.metrics.puts;
    const at = (part: number): number => latencies[Math.floor((latencies.length - 1) * part)] ?? Number.NaN;
    return {
      perSecond: puts / (seconds + warmupSeconds),
      p50Ms: at(0.5),
      meanMs: latencies.reduce((sum, ms) => sum + ms, 0) / latencies.length,
      p99Ms: at(0.99),
      cpuUsPerCommit: ((after.cpu - before.cpu) * 1e6) / puts,
      syncsPerCommit: (after.metrics.syncs - before.metrics.syncs) / puts,
    };
  }

  #leader(): Promise<EtcdMember> {
    return waitFor("etcd has a leader", { timeoutMs: 20_000 }, async () => {
      for (const member of this.#members) {
        const response = await fetch(`${member.clientUrl}/v3/maintenance/status`, {
          method: "POST",
          body: "{}",
        });
        const status = (await response.json()) as { header: { member_id: string }; leader?: string };
        if (status.leader === status.header.member_id) return member;
      }
      return undefined;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { child } of this.#members) {
      if (child.exitCode !== null) continue;
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
    }
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** A gRPC message by hand: not compressed, length, then `PutRequest { key = 1, value = 2 }`. */
function putRequest(valueBytes: number): Buffer {
  const key = Buffer.from("bench");
  const value = Buffer.alloc(valueBytes, "x");
  const message = Buffer.concat([
    Buffer.from([0x0a, key.length]),
    key,
    Buffer.from([0x12, (valueBytes & 0x7f) | 0x80, valueBytes >> 7]), // A varint of two bytes: 128..16383.
    value,
  ]);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

async function metricsOf({ clientUrl }: EtcdMember): Promise<{ puts: number; syncs: number }> {
  const text = await (await fetch(`${clientUrl}/metrics`)).text();
  const value = (name: string): number => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
  return {
    puts: value("etcd_mvcc_put_total") || value("etcd_debugging_mvcc_put_total"),
    syncs: value("etcd_disk_wal_fsync_duration_seconds_count"),
  };
}
