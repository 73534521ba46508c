import { connect } from "node:net";
import { call } from "../lab/api.ts";
import { type Host, Lab } from "../lab/lab.ts";
import type { NodeSummary } from "../lab/swarm.ts";

export interface ApiBenchOptions {
  readonly managers: number;
  readonly clients: readonly number[];
  readonly seconds: number;
}

export interface ApiRow {
  /** Which socket: every host's front door, or the manager's own behind it. */
  readonly socket: "front door" | "manager";
  readonly clients: number;
  readonly writesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const warmUpSeconds = 3;

/** Writes through the leader's REST API, each client on a connection of its own with one request under way. */
export async function benchApi(options: ApiBenchOptions, say: (line: string) => void): Promise<ApiRow[]> {
  const lab = await Lab.up({ name: "b-api", managers: options.managers, workers: 0 });
  try {
    const leader = await findLeader(lab);
    const manager = (await leader.ownProcesses()).manager;
    if (manager === undefined) throw new Error("no manager runs on the leader's host");
    const sockets = [
      ["manager", `/proc/${manager.pid}/root/run/shoal/manager.sock`],
      ["front door", leader.socket],
    ] as const;
    const rows: ApiRow[] = [];
    for (const [socket, path] of sockets) {
      await load(path, Math.max(...options.clients), warmUpSeconds);
      for (const clients of options.clients) {
        const row = { socket, clients, ...(await load(path, clients, options.seconds)) };
        say(apiLine(row));
        rows.push(row);
      }
    }
    return rows;
  } finally {
    await lab.down();
  }
}

function apiLine({ socket, clients, writesPerSecond, p50Ms, p99Ms }: ApiRow): string {
  return `${socket}, ${clients} clients: ${Math.round(writesPerSecond)}/s, p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms`;
}

export function apiTable(rows: readonly ApiRow[], note: string): string {
  const lines = rows.map(
    ({ socket, clients, writesPerSecond, p50Ms, p99Ms }) =>
      `| ${socket} | ${clients} | ${Math.round(writesPerSecond)} | ${p50Ms.toFixed(2)} | ${p99Ms.toFixed(2)} |`,
  );
  return `${note}\n\n| socket | clients | writes/s | p50 ms | p99 ms |\n|---|--:|--:|--:|--:|\n${lines.join("\n")}\n`;
}

async function findLeader(lab: Lab): Promise<Host> {
  const nodes = await call<NodeSummary[]>(lab.managers[0]?.socket ?? "", "GET", "/nodes");
  const name = nodes.find(({ ManagerStatus }) => ManagerStatus?.Leader === true)?.Description.Hostname;
  const leader = lab.managers.find((host) => host.name === name);
  if (leader === undefined) throw new Error("no manager leads");
  return leader;
}

let created = 0;

/**
 * Creates configs. The requests are written and their answers looked at as bytes, so that the load costs little of the
 * processor that it shares with what it measures.
 */
async function load(
  socket: string,
  clients: number,
  seconds: number,
): Promise<{ writesPerSecond: number; p50Ms: number; p99Ms: number }> {
  const latenciesMs: number[] = [];
  const start = performance.now();
  const end = start + seconds * 1_000;
  await Promise.all(Array.from({ length: clients }, () => client(socket, end, latenciesMs)));
  const elapsedSeconds = (performance.now() - start) / 1_000;
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number): number => latenciesMs[Math.floor(latenciesMs.length * share)] ?? Number.NaN;
  return { writesPerSecond: latenciesMs.length / elapsedSeconds, p50Ms: at(0.5), p99Ms: at(0.99) };
}

function client(path: string, end: number, latenciesMs: number[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let sent = 0;
    let answer = "";
    const send = (): void => {
      created += 1;
      const body = `{"Name":"load-${created}","Data":"aGk="}`;
      sent = performance.now();
      socket.write(
        `POST /configs/create HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
    };
    socket.setEncoding("latin1");
    socket.on("connect", send);
    socket.on("data", (piece: string) => {
      answer += piece;
      const head = answer.indexOf("\r\n\r\n");
      const length = Number(/content-length: (\d+)/i.exec(answer)?.[1]);
      if (head < 0 || answer.length < head + 4 + length) return;
      if (!answer.startsWith("HTTP/1.1 201"))
        return void socket.destroy(new Error(`a write failed: ${answer}`));
      answer = "";
      const now = performance.now();
      latenciesMs.push(now - sent);
      if (now < end) return send();
      socket.destroy();
    });
    socket.on("error", reject);
    socket.on("close", () => resolve());
  });
}
