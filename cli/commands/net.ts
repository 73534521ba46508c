import type { Command } from "commander";
import type { Client } from "../client.ts";
import { table, write } from "../print.ts";

interface Report {
  Healthy: boolean;
  Hosts: { Hostname: string; Address: string; Answered: boolean; Passed: number; Broken: number }[];
  Findings: {
    Host: string;
    Test: string;
    Peer: string;
    Subject: string;
    State: "broken" | "unknown";
    Text: string;
    Next: string;
    /** Absent from managers of an earlier version. */
    Follows?: boolean;
  }[];
}

/** Exit code when something is broken: 1 is for a command that could not be carried out. */
const brokenCode = 2;

export function register(program: Command, client: () => Client): void {
  const net = program.command("net").description("Examine what hosts share");
  net
    .command("doctor")
    .description(
      "Test every pair of hosts, names, virtual IPs and published ports; exit code 2 if any is broken",
    )
    .option("--json", "print the answer as it comes", false)
    .action(({ json }: { json: boolean }) => doctor(client(), json));
}

async function doctor(client: Client, json: boolean): Promise<void> {
  const report = await client.get<Report>("/shoal/v1/net/doctor");
  if (json) write(JSON.stringify(report, null, 2));
  else printReport(report);
  if (!report.Healthy) process.exitCode = brokenCode;
}

function printReport({ Healthy: healthy, Hosts: hosts, Findings: findings }: Report): void {
  const rows = hosts.map((host) => [
    host.Hostname,
    host.Address,
    host.Answered ? String(host.Passed) : "-",
    host.Answered ? String(host.Broken) : "no answer",
  ]);
  write(table([["HOST", "ADDRESS", "PASSED", "BROKEN"], ...rows]));
  for (const {
    Host: host,
    Peer: peer,
    Test: test,
    State: state,
    Text: text,
    Next: next,
    Follows,
  } of findings) {
    const ends = peer === "" ? host : `${host} -> ${peer}`;
    if (Follows === true) {
      write(`  follows (${test}) ${ends}: ${text}`);
      continue;
    }
    write("");
    write(`${state} (${test}) ${ends}: ${text}`);
    if (next !== "") write(`  next: ${next}`);
  }
  if (healthy) write(findings.length === 0 ? "Every test passed." : "Nothing is broken.");
}
