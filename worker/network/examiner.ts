/** Makes the probes of `examine.ts`, some at a time, within a time. */
import { connect } from "node:net";
import { fileURLToPath } from "node:url";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import { programFile } from "../../runtime/programs.ts";
import { firewallHint } from "./coexist.ts";
import type { Run } from "./command.ts";
import type { ProbedName } from "./dns-probe.ts";
import { mayBeStopped, peerFindings, pingArgv, pingOutcome } from "./examine.ts";
import type { Finding, PeerProbes, Ping, PingOutcome, Probes } from "./examine.ts";
import { inParallel } from "./rounds.ts";

const width = 16;
const connectTimeoutMs = 2_000;
const nameProbe = fileURLToPath(programFile("dns-probe"));

interface Deps {
  readonly run: Run;
  readonly clock: Clock;
  /** Empty for a file that is not there. */
  readonly readText: (path: string) => Promise<string>;
}

/** @returns What was found until the signal aborts; what was not tried by then is left out. */
export async function makeProbes(deps: Deps, probes: Probes, signal: AbortSignal): Promise<Finding[]> {
  const findings: Finding[] = [...probes.findings];
  const jobs: (() => Promise<readonly Finding[]>)[] = [
    ...probes.peers.map((peer) => () => probePeer(deps, peer, signal)),
    ...probes.names.map((names) => () => {
      const about = { test: "dns", peer: "", subject: `network ${names.network}` } as const;
      return orUnknown(about, probeNames(deps, names));
    }),
    ...probes.virtualIps.map(({ subject, ping }) => (): Promise<readonly Finding[]> => {
      const about = { test: "vip", peer: "", subject } as const;
      return orUnknown(
        about,
        probe(deps, ping).then(({ answered, text }) => [
          { ...about, state: answered ? "ok" : "broken", text },
        ]),
      );
    }),
    ...probes.ports.map(({ subject, address, port }) => async (): Promise<readonly Finding[]> => {
      const problem = await connectProblem(address, port);
      const text = problem ?? "connects";
      return [{ test: "port", peer: "", subject, state: problem === undefined ? "ok" : "broken", text }];
    }),
  ];
  await inParallel(jobs, width, async (job) => {
    if (signal.aborted) return;
    findings.push(...(await job()));
  });
  return await explained(deps, findings);
}

async function explained({ run, readText }: Deps, findings: Finding[]): Promise<Finding[]> {
  const stopped = mayBeStopped(findings);
  if (stopped.size === 0) return findings;
  const hint = await firewallHint(run, readText).catch((reason: unknown) => errorText(reason));
  if (hint === "") return findings;
  return findings.map((each) => (stopped.has(each) ? { ...each, text: `${each.text}; ${hint}` } : each));
}

async function probePeer(deps: Deps, probes: PeerProbes, signal: AbortSignal): Promise<readonly Finding[]> {
  const about = { test: "reach", peer: probes.peer.nodeId, subject: "" } as const;
  return await orUnknown(about, peerProbes(deps, probes, signal));
}

async function peerProbes(deps: Deps, probes: PeerProbes, signal: AbortSignal): Promise<readonly Finding[]> {
  const reach = await probe(deps, probes.reach);
  const mtu = reach.answered ? await probe(deps, probes.mtu) : undefined;
  const tunnel = probes.tunnel?.ping && (await probe(deps, probes.tunnel.ping));
  const vxlan: { small: PingOutcome; large: PingOutcome | undefined }[] = [];
  for (const { small, large } of probes.vxlan) {
    if (signal.aborted) break;
    const passes = await probe(deps, small);
    vxlan.push({ small: passes, large: passes.answered ? await probe(deps, large) : undefined });
  }
  return peerFindings(probes, { reach, mtu, tunnel, vxlan });
}

/** A probe that cannot be made says so in its own place: the others still tell what they found. */
async function orUnknown(
  about: Pick<Finding, "test" | "peer" | "subject">,
  found: Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    return await found;
  } catch (reason) {
    return [{ ...about, state: "unknown", text: errorText(reason) }];
  }
}

/** @throws {ClusterError} when there is no `ping`. */
async function probe({ run }: Deps, ping: Ping): Promise<PingOutcome> {
  const { code, stdout, stderr } = await run(pingArgv(ping));
  // 127: nsenter found no such program, which without a namespace is for `run` to say.
  if (code === 127) throw new ClusterError("unavailable", stderr.trim());
  return pingOutcome(code, stdout + stderr);
}

async function probeNames(
  { run }: Deps,
  { namespace, gateway, network, names }: Probes["names"][number],
): Promise<readonly Finding[]> {
  const finding = (subject: string, state: Finding["state"], text: string): Finding => ({
    test: "dns",
    peer: "",
    subject,
    state,
    text,
  });
  const argv = ["nsenter", `--net=${namespace}`, process.execPath, nameProbe, gateway, ...names];
  const { code, stdout, stderr } = await run(argv);
  if (code !== 0) return [finding(`network ${network}`, "unknown", stderr.trim() || "the probe failed")];
  const answers = JSON.parse(stdout) as readonly ProbedName[]; // Our own program's.
  return answers.map(({ name, addresses, problem }) =>
    finding(
      `${name} on network ${network}`,
      problem === "" ? "ok" : "broken",
      problem === "" ? addresses.join(", ") : problem,
    ),
  );
}

function connectProblem(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: connectTimeoutMs });
    const end = (problem: string | undefined): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.once("connect", () => end(undefined));
    socket.once("timeout", () => end(`no answer within ${connectTimeoutMs / 1_000} s`));
    socket.once("error", (reason) => end(errorText(reason)));
  });
}
