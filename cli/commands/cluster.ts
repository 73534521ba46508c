import type { Command } from "commander";
import type { Client } from "../client.ts";
import { table, write } from "../print.ts";

interface Answer {
  Subject: string;
  Cause: string;
  Evidence: string[];
  Next: string;
}

interface Move {
  TaskID: string;
  Service: string;
  Slot: number;
  Order: string;
  From: string;
  To: string;
}

/** What the Engine API has no word for. */
export function register(program: Command, client: () => Client): void {
  program
    .command("why <subject>")
    .description("Say why a service, task or node is as it is, with the evidence and the next command")
    .action((subject: string) => why(client(), subject));
  program
    .command("rebalance")
    .description("Move running tasks to nodes that have fewer, in the order of their service's updates")
    .option("--plan", "only show what would move", false)
    .option("--max <n>", "tasks at most", "10")
    .action((options: { plan: boolean; max: string }) => rebalance(client(), options));
}

async function why(client: Client, subject: string): Promise<void> {
  const answer = await client.get<Answer>(`/shoal/v1/why/${encodeURIComponent(subject)}`);
  write(`${answer.Subject}: ${answer.Cause}`);
  for (const line of answer.Evidence) write(`  ${line}`);
  if (answer.Next !== "") write(`next: ${answer.Next}`);
}

async function rebalance(client: Client, { plan, max }: { plan: boolean; max: string }): Promise<void> {
  const { Moves: moves } = await client.post<{ Moves: Move[] }>("/shoal/v1/rebalance", { plan, max }, {});
  if (moves.length === 0) return write("Nothing to move: every service is as even as it can be.");
  const rows = moves.map((move) => [`${move.Service}.${move.Slot}`, move.From, move.To, move.Order]);
  write(table([["TASK", "FROM", "TO", "ORDER"], ...rows]));
}
