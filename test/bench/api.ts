import { connect } from "node:net";
import { type ApiPart, type ApiPlace, type ApiSocket, openLab, openProcesses } from "./api-places.ts";
import { type ProcessorTime, processorTime, since } from "./scale-cpu.ts";

export interface ApiBenchOptions {
  readonly managers: number;
  readonly clients: readonly number[];
  readonly seconds: number;
  /** Each load as often, in turn; medians are printed. */
  readonly rounds: number;
  /** Hosts of the lab, or nothing but the processes. */
  readonly place: "lab" | "processes";
  /** Directory for V8 profiles of the processes. */
  readonly profile?: string | undefined;
}

interface Load {
  readonly writesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface ApiRow extends Load {
  readonly socket: ApiSocket;
  readonly clients: number;
  /** Processor time of a write, in microseconds. */
  readonly cpuUs: CpuUs;
}

type CpuUs = Readonly<Record<"leaderMain" | "leaderOthers" | "followers" | "frontDoor", number>>;

/** Of each load, so that V8 has compiled what runs often: before that, a write takes three times the processor time. */
const warmUpSeconds = 6;
const sockets = ["manager", "front door"] as const;

/** Writes through the leader's REST API, each client on a connection of its own with one request under way. */
export async function benchApi(options: ApiBenchOptions, say: (line: string) => void): Promise<ApiRow[]> {
  const { managers, clients, seconds, rounds, profile } = options;
  await using place =
    options.place === "lab" ? await openLab(managers) : await openProcesses(managers, profile);
  const all: ApiRow[] = [];
  for (const socket of sockets) {
    for (const count of clients) await load(place.sockets[socket], count, warmUpSeconds);
  }
  for (let round = 1; round <= rounds; round += 1) {
    for (const socket of sockets) {
      for (const count of clients) {
        const row = await measure(place, { socket, clients: count, seconds });
        say(apiLine(row));
        all.push(row);
      }
    }
  }
  return sockets.flatMap((socket) =>
    clients.map((count) => median(all.filter((row) => row.socket === socket && row.clients === count))),
  );
}

async function measure(
  place: ApiPlace,
  { socket, clients, seconds }: { socket: ApiSocket; clients: number; seconds: number },
): Promise<ApiRow> {
  const look = async (): Promise<ReadonlyMap<number, ProcessorTime>> =>
    new Map(
      await Promise.all(place.processes.map(async ({ pid }) => [pid, await processorTime(pid)] as const)),
    );
  const before = await look();
  const { writes, ...figures } = await load(place.sockets[socket], clients, seconds);
  const after = await look();
  const none = { main: 0, others: 0 };
  const spent = (part: ApiPart): ProcessorTime =>
    place.processes
      .filter(({ who }) => who === part)
      .map(({ pid }) => since(before.get(pid) ?? none, after.get(pid) ?? none))
      .reduce((a, b) => ({ main: a.main + b.main, others: a.others + b.others }), none);
  const us = (cpuSeconds: number): number => (cpuSeconds * 1e6) / writes;
  const [leader, followers, frontDoor] = [spent("leader"), spent("follower"), spent("front door")];
  const cpuUs = {
    leaderMain: us(leader.main),
    leaderOthers: us(leader.others),
    followers: us(followers.main + followers.others),
    frontDoor: us(frontDoor.main + frontDoor.others),
  };
  return { socket, clients, ...figures, cpuUs };
}

/** By its rate. */
function median(rows: readonly ApiRow[]): ApiRow {
  const row = rows.toSorted((a, b) => a.writesPerSecond - b.writesPerSecond)[Math.floor(rows.length / 2)];
  if (row === undefined) throw new Error("assertion failed: nothing was measured");
  return row;
}

function apiLine({ socket, clients, writesPerSecond, p50Ms, p99Ms, cpuUs }: ApiRow): string {
  const figures = `${Math.round(writesPerSecond)}/s, p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms`;
  return `${socket}, ${clients} clients: ${figures}; CPU µs: ${cpuText(cpuUs)}`;
}

function cpuText({ leaderMain, leaderOthers, followers, frontDoor }: CpuUs): string {
  return [leaderMain, leaderOthers, followers, frontDoor].map((us) => us.toFixed(0)).join(", ");
}

export function apiTable(rows: readonly ApiRow[], note: string): string {
  const lines = rows.map(
    ({ socket, clients, writesPerSecond, p50Ms, p99Ms, cpuUs }) =>
      `| ${socket} | ${clients} | ${Math.round(writesPerSecond)} | ${p50Ms.toFixed(2)} | ${p99Ms.toFixed(2)} | ${cpuText(cpuUs)} |`,
  );
  const cpu = "CPU µs/write: leader's main thread, its others, both followers, front door";
  return `${note}\n\n| socket | clients | writes/s | p50 ms | p99 ms | ${cpu} |\n|---|--:|--:|--:|--:|--:|\n${lines.join("\n")}\n`;
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
): Promise<Load & { readonly writes: number }> {
  const latenciesMs: number[] = [];
  const start = performance.now();
  const end = start + seconds * 1_000;
  await Promise.all(Array.from({ length: clients }, () => client(socket, end, latenciesMs)));
  const elapsedSeconds = (performance.now() - start) / 1_000;
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number): number => latenciesMs[Math.floor(latenciesMs.length * share)] ?? Number.NaN;
  const writes = latenciesMs.length;
  return { writes, writesPerSecond: writes / elapsedSeconds, p50Ms: at(0.5), p99Ms: at(0.99) };
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
