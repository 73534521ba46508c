/**
 * Flows follow their service: the kernel remembers where a flow goes for as long as it lasts. So steady flows of datagrams that
 * lead to a task that serves no more, or to nobody because there was none, are forgotten. Connections end by themselves, but for
 * those that a lost host never answered: they are forgotten too, and the client's next attempt leads to another task.
 */
import { isIpv6 } from "../../model/address.ts";
import { errorText } from "../../model/errors.ts";
import { backoff } from "../../runtime/backoff.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import { must } from "./command.ts";
import type { Run } from "./command.ts";
import type { RulesPort, RulesState } from "./rules.ts";
import type { Drain } from "./views.ts";

interface FlowsDeps {
  readonly clock: Pick<Clock, "after">;
  readonly run: Run;
  readonly warn: (text: string) => void;
}

/** A task that is alive has answered by then who asked it before it was withdrawn. */
const answerMs = 1_000;

/** What of the rules says where flows go. */
export type FlowRules = Pick<RulesState, "services" | "mesh" | "ports">;

export class Flows {
  readonly #clock: Pick<Clock, "after">;
  readonly #run: Run;
  readonly #warn: (text: string) => void;
  /** Unknown to a new process, and then nothing is stale: flows that its predecessor sent on go where they went. */
  #before: ReadonlyMap<string, ReadonlySet<string>> | undefined;
  #addresses: ReadonlySet<string> = new Set();
  /** Addresses that serve no more, until it is looked who still waits for an answer of theirs. */
  readonly #left = new Set<string>();
  #cancelLook: (() => void) | undefined;
  /** Ports of datagrams that the loaded rules translate, by `portKeyOf`; of a new process, none is known to have been. */
  #translated: ReadonlySet<string> = new Set();

  constructor({ clock, run, warn }: FlowsDeps) {
    this.#clock = clock;
    this.#run = run;
    this.#warn = warn;
  }

  /** To be called once the rules are loaded. */
  async follow(rules: FlowRules): Promise<void> {
    this.#followConnections(rules);
    const moved = await this.#followDatagrams(rules);
    await this.#translate(rules, moved);
  }

  /** To be called when rules were found missing: what began meanwhile is translated by none. */
  startOver(): void {
    this.#translated = new Set();
  }

  close(): void {
    this.#cancelLook?.();
  }

  #followConnections({ services, mesh }: FlowRules): void {
    const now = new Set([...services, ...mesh].flatMap(({ backends }) => backends));
    for (const address of this.#addresses) if (!now.has(address)) this.#left.add(address);
    for (const address of now) this.#left.delete(address);
    this.#addresses = now;
    if (this.#left.size === 0 || this.#cancelLook !== undefined) return;
    this.#cancelLook = this.#clock.after(answerMs, () => {
      this.#cancelLook = undefined;
      void this.#forgetUnanswered().catch((reason: unknown) => this.#warn(errorText(reason)));
    });
  }

  async #forgetUnanswered(): Promise<void> {
    const filters = [...this.#left].map((address) => ["--reply-src", address]);
    this.#left.clear();
    await this.#forget(["-p", "tcp", "--state", "SYN_SENT"], filters);
  }

  /** @returns the ports all of whose flows were forgotten. */
  async #followDatagrams(rules: FlowRules): Promise<ReadonlySet<number>> {
    const now = backendsOf(rules);
    const before = this.#before;
    this.#before = now;
    const filters = before === undefined ? [] : staleFlows(before, now);
    const ports = filters.flatMap(([option, value]) => (option === portFilter ? [Number(value)] : []));
    if (filters.length === 0) return new Set();
    // A filter by a port alone does not say whether there is IPv6 behind it.
    const hasIpv6 = [...filters.flat(), ...[...now.values()].flatMap((backends) => [...backends])].some(
      isIpv6,
    );
    try {
      await this.#forget(["-p", "udp"], filters, hasIpv6 ? ["ip", "ip6"] : ["ip"]);
    } catch (reason) {
      this.#warn(errorText(reason));
    }
    return new Set(ports);
  }

  /**
   * A flow that began while its port was held and no rule loaded goes to the socket that holds it, for as long as it lasts:
   * its next datagram is to meet the rules. By IPv6 a relay answers those.
   */
  async #translate(rules: FlowRules, moved: ReadonlySet<number>): Promise<void> {
    const now = translatedPorts(rules);
    const fresh = [...now]
      .filter(([key, { publishedPort }]) => !this.#translated.has(key) && !moved.has(publishedPort))
      .map(([, port]) => port);
    this.#translated = new Set(now.keys());
    if (fresh.length === 0) return;
    try {
      const argv = ["-p", "udp"];
      const listing = await must(this.#run, "look for flows", ["conntrack", "-L", ...argv]);
      for (const filter of untranslatedFlows(listing, fresh)) {
        await this.#run(["conntrack", "-D", ...argv, ...filter]); // 1: it has ended meanwhile.
      }
    } catch (reason) {
      this.#warn(errorText(reason));
    }
  }

  async #forget(
    which: readonly string[],
    filters: readonly (readonly string[])[],
    families: readonly Family[] = ["ip", "ip6"],
  ): Promise<void> {
    // One look finds the few that are there among a thousand services, each of which would be a process of its own.
    for (const family of families) {
      const own = filters.filter((filter) => isOf(filter, family));
      if (own.length === 0) continue;
      const argv = [...which, ...options[family]];
      const found = filtersThatMatch(await must(this.#run, "look for flows", ["conntrack", "-L", ...argv]));
      for (const filter of own.filter((each) => found.has(each.join(" ")))) {
        await this.#run(["conntrack", "-D", ...argv, ...filter]); // 1: it has ended meanwhile.
      }
    }
  }
}

/** How often connections are looked at while they end: each look is a process, and many tasks may wait long. */
const drainPolls = { firstMs: 100, limitMs: 1_000, factor: 1.5, jitterRatio: 0.2 } as const;

/**
 * Settles once none of the addresses is the end of a TCP connection that passes this host's kernel and is not over. One
 * that only one side has closed still carries an answer.
 */
export async function untilUnused(
  { run, clock, random }: { readonly run: Run; readonly clock: Clock; readonly random: Random },
  { addresses, leaving }: Drain,
  signal: AbortSignal,
): Promise<void> {
  const delays = backoff(random, drainPolls);
  for (const address of addresses) {
    while (await isUsed(run, address, leaving)) await clock.sleep(delays.next().value, signal);
  }
}

/** Whoever made the connection, and by whichever address, the answers come from the task. */
async function isUsed(run: Run, address: string, leaving: ReadonlySet<string>): Promise<boolean> {
  const argv = ["conntrack", "-L", "-p", "tcp", ...options[familyOf(address)], "--reply-src", address];
  return hasOpenConnection(await must(run, `look for connections to ${address}`, argv), leaving);
}

/** Finds flows by the port that was asked for. */
const portFilter = "--orig-port-dst";
/** By which `conntrack` looks at one family. */
const options = { ip: [], ip6: ["-f", "ipv6"] } as const;

type Family = keyof typeof options;

function familyOf(address: string): Family {
  return isIpv6(address) ? "ip6" : "ip";
}

/** Whether it may find flows of a family: one by a port alone finds those of both. */
function isOf([option = "", value = ""]: readonly string[], family: Family): boolean {
  return option === portFilter || familyOf(value) === family;
}

/** States (nf_conntrack_proto_tcp.c) of a connection that has begun and that at most one side has closed. */
const openStates = new Set(["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"]);

/**
 * @param listing - Lines such as "tcp 6 431999 ESTABLISHED src=… dst=… …".
 * @param leaving - Whose connections do not count.
 */
export function hasOpenConnection(listing: string, leaving: ReadonlySet<string>): boolean {
  return listing.split("\n").some((line) => {
    const [, , , state = "", source = ""] = line.split(/\s+/);
    return openStates.has(state) && !leaving.has(source.slice("src=".length));
  });
}

/** Filters for `conntrack`, by what each destination led to before and leads to now. */
export function staleFlows(
  before: ReadonlyMap<string, ReadonlySet<string>>,
  now: ReadonlyMap<string, ReadonlySet<string>>,
): string[][] {
  const gone = new Set<string>();
  for (const [destination, backends] of before) {
    for (const backend of backends) if (!now.get(destination)?.has(backend)) gone.add(backend);
  }
  const filters = [...gone].map((backend) => ["--reply-src", backend]);
  for (const [destination, backends] of now) {
    const had = before.get(destination)?.size ?? 0;
    if (had === 0 && backends.size > 0) filters.push(destination.split(" "));
  }
  return filters;
}

/** What a flow was sent to, and from where it is answered. */
interface Flow {
  readonly to: string;
  readonly port: string;
  readonly answeredBy: string;
  /** Neither of its ends is translated, and nobody has answered. */
  readonly isBare: boolean;
}

/** @param listing - Lines such as "udp 17 29 src=A dst=B sport=C dport=D [UNREPLIED] src=… dst=… …", both ways in turn. */
function parseFlows(listing: string): Flow[] {
  return listing.split("\n").flatMap((line) => {
    const words = line.split(" ");
    const valuesOf = (key: string): string[] =>
      words.flatMap((word) => (word.startsWith(`${key}=`) ? [word.slice(key.length + 1)] : []));
    const [from, answeredBy] = valuesOf("src");
    const [to, answeredTo] = valuesOf("dst");
    const [port] = valuesOf("dport");
    if (to === undefined || port === undefined || answeredBy === undefined) return [];
    const isBare = words.includes("[UNREPLIED]") && answeredBy === to && answeredTo === from;
    return [{ to, port, answeredBy, isBare }];
  });
}

/** The filters that find any of the flows. */
function filtersThatMatch(listing: string): ReadonlySet<string> {
  return new Set(
    parseFlows(listing).flatMap(({ to, port, answeredBy }) => [
      `--orig-dst ${to}`,
      `${portFilter} ${port}`,
      `--reply-src ${answeredBy}`,
    ]),
  );
}

type TranslatedPort = Pick<RulesPort, "publishedPort" | "hostAddress">;

/** Filters for `conntrack` that find what came to one of the ports without being translated. */
function untranslatedFlows(listing: string, ports: readonly TranslatedPort[]): string[][] {
  const filters = new Map<string, string[]>();
  for (const { to, port, isBare } of parseFlows(listing)) {
    const isOf = ({ publishedPort, hostAddress = to }: TranslatedPort): boolean =>
      publishedPort === Number(port) && hostAddress === to;
    if (isBare && ports.some(isOf))
      filters.set(`${to} ${port}`, ["--orig-dst", to, portFilter, port, "--reply-src", to]);
  }
  return [...filters.values()];
}

/** Of datagrams by IPv4, by a text of its own for each. */
function translatedPorts({ mesh, ports }: FlowRules): Map<string, TranslatedPort> {
  const meshed = mesh.filter(({ backends }) => backends.some((address) => !isIpv6(address)));
  const own = ports.filter(({ address, hostAddress = "" }) => !isIpv6(address) && !isIpv6(hostAddress));
  return new Map(
    [...meshed, ...own]
      .filter(({ protocol }) => protocol === "udp")
      .map((port: TranslatedPort) => [`${port.hostAddress ?? ""} ${port.publishedPort}`, port]),
  );
}

/** By the filter that finds flows to it: an address, or a port of UDP. */
function backendsOf({ services, mesh }: FlowRules): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  for (const { address, backends } of services) found.set(`--orig-dst ${address}`, new Set(backends));
  // A port of both families is there twice.
  for (const { protocol, publishedPort, backends } of mesh) {
    if (protocol !== "udp") continue;
    const key = `${portFilter} ${publishedPort}`;
    found.set(key, new Set([...(found.get(key) ?? []), ...backends]));
  }
  return found;
}
