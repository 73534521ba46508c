/** A program for a task's namespace: asks one server for names, and prints what it heard as JSON. */
import { Resolver } from "node:dns/promises";

import { errorText } from "../../model/errors.ts";

export interface ProbedName {
  readonly name: string;
  readonly addresses: readonly string[];
  /** Empty when it was answered. */
  readonly problem: string;
}

const timeoutMs = 1_000;
const [server = "", ...names] = process.argv.slice(2);
const resolver = new Resolver({ timeout: timeoutMs, tries: 2 });
resolver.setServers([server]);

async function ask(name: string): Promise<ProbedName> {
  try {
    return { name, addresses: await resolver.resolve4(name), problem: "" };
  } catch (reason) {
    return { name, addresses: [], problem: errorText(reason) };
  }
}

console.log(JSON.stringify(await Promise.all(names.map(ask))));
