/** Keeps the tunnels to other hosts as wanted, over the kernel's WireGuard or processes of `wireguard-go`. */
import { generateKeyPairSync } from "node:crypto";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { NodeTunnel } from "../../model/node.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { Run } from "./command.ts";
import { settle } from "./settings.ts";
import { firstRing, keyOverlapMs, keyPeriodMs, nextRing, publicKeys } from "./tunnel-keys.ts";
import type { KeyPair, KeyRing } from "./tunnel-keys.ts";
import { parseDevice, removalSteps, tunnelDevices, tunnelSteps } from "./tunnel-plan.ts";
import type { ObservedDevice, TunnelMode, TunnelPeer, TunnelStep, WantedTunnel } from "./tunnel-plan.ts";

/** Raised when files of an older version can no longer be read; then there are new keys. */
const ringVersion = 1;
/** How often a host that can make no tunnels looks whether it can by now. */
const retryMs = 5 * 60_000;

/**
 * A process of `wireguard-go` answers at a socket named after its device alone. In a mount namespace where that place is a
 * folder of ours, hosts that share a file system do not meet there.
 */
const inOwnFolder = [
  "unshare",
  "--mount",
  "sh",
  "-c",
  'mkdir -p /run/wireguard && mount --bind "$0" /run/wireguard && exec "$@"',
] as const;

export interface TunnelDeps {
  readonly clock: Clock;
  readonly run: Run;
  /** For the keys and sockets. */
  readonly directory: string;
  readonly overlapMs?: number;
  readonly periodMs?: number;
  readonly settle?: typeof settle;
  readonly makePair?: () => KeyPair;
  /** Whether a process can make devices; default: whether there is `/dev/net/tun`. */
  readonly hasTun?: () => Promise<boolean>;
}

type Ability =
  | { readonly mode: TunnelMode; readonly problem?: never }
  | { readonly mode?: never; readonly problem: string };

export class Tunnel {
  readonly #deps: Required<TunnelDeps>;
  #ability: Ability = { problem: "it is not known yet whether this host can make tunnels" };
  #ring: KeyRing | undefined;
  #isAsked = false;
  /** Undefined while what the kernel has is not known. */
  #observed: ReadonlyMap<string, ObservedDevice> | undefined;
  #wanted: WantedTunnel | undefined;
  /** Where peers were, when that was last brought about. */
  #peers: readonly TunnelPeer[] = [];
  #retryAtMs = 0;
  readonly #listeners = new Set<() => void>();

  constructor(deps: TunnelDeps) {
    this.#deps = {
      overlapMs: keyOverlapMs,
      periodMs: keyPeriodMs,
      settle,
      makePair: newPair,
      hasTun: () => stat("/dev/net/tun").then(Boolean, () => false),
      ...deps,
    };
  }

  /** Finds out what this host can do, and takes up the keys of a former process. */
  async open(): Promise<void> {
    await this.#tryAgain();
  }

  /** Public keys for others, or why there are none. */
  get offer(): NodeTunnel {
    const { problem } = this.#ability;
    if (this.#ring === undefined || problem !== undefined) return { keys: [], problem: problem ?? "" };
    return { keys: publicKeys(this.#ring) };
  }

  /** @returns a function that ends the watching. */
  watch(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The key in use makes room for a new one, step by step; what is on its way already goes on. */
  replaceKey(): void {
    this.#isAsked = this.#ring?.stage === "settled";
  }

  /** Takes the next step of replacing keys, if one is due. @param told - `NetworkSelf.tunnelKeys` */
  async turn(told: readonly string[], use: "used" | "unused"): Promise<void> {
    const { clock, overlapMs, periodMs, makePair } = this.#deps;
    if (this.#ability.problem !== undefined) {
      if (clock.monotonic() >= this.#retryAtMs) await this.#tryAgain();
      return;
    }
    if (this.#ring === undefined) return;
    const state = { nowMs: clock.now(), told, isUsed: use === "used", overlapMs, periodMs };
    const next = nextRing(this.#ring, { ...state, isAsked: this.#isAsked }, makePair);
    if (next !== this.#ring) await this.#keep(next);
  }

  /**
   * Makes devices and peers as they are wanted. Those that are wanted no more stay until `trim`.
   *
   * @returns what could not be done, in words.
   */
  async raise(wanted: WantedTunnel): Promise<string[]> {
    this.#wanted = wanted;
    try {
      let trouble = await this.#attempt(wanted);
      if (trouble.length > 0) trouble = await this.#attempt(wanted);
      if (trouble.length === 0) this.#peers = wanted.peers;
      return trouble;
    } catch (reason) {
      this.#observed = undefined;
      return [errorText(reason)];
    }
  }

  /** Removes what is not wanted, after the VXLAN that went by it. */
  async trim(wanted: WantedTunnel | undefined): Promise<string[]> {
    this.#wanted = wanted;
    if (this.#ability.problem !== undefined) return [];
    try {
      const observed = this.#observed ?? (await this.#observe());
      const trouble = await this.#carryOut(removalSteps(wanted, observed));
      const kept = new Set(wanted?.devices.map(({ name }) => name));
      this.#observed =
        trouble.length > 0 ? undefined : new Map([...observed].filter(([name]) => kept.has(name)));
      return trouble;
    } catch (reason) {
      this.#observed = undefined;
      return [errorText(reason)];
    }
  }

  /** Reads the kernel, whatever is remembered. @returns what is not as it was left, in words; the next `raise` mends it. */
  async look(): Promise<string[]> {
    const wanted = this.#wanted;
    if (wanted === undefined || this.#ability.problem !== undefined) return [];
    const observed = await this.#observe();
    this.#observed = observed;
    const settings = await this.#settle(wanted, observed);
    return [...settings, ...new Set(this.#steps(wanted, observed).map(({ finding }) => finding))];
  }

  /** Seconds since a peer was last heard by its key; of those that ever were. */
  async heard(): Promise<ReadonlyMap<string, number>> {
    const observed = await this.#observe();
    const nowSeconds = this.#deps.clock.now() / 1_000;
    const heard = new Map<string, number>();
    for (const { peers } of observed.values()) {
      for (const { publicKey, handshakeAtSeconds } of peers.values()) {
        if (handshakeAtSeconds === 0) continue;
        const seconds = Math.max(0, Math.round(nowSeconds - handshakeAtSeconds));
        heard.set(publicKey, Math.min(seconds, heard.get(publicKey) ?? Infinity));
      }
    }
    return heard;
  }

  async #attempt(wanted: WantedTunnel): Promise<string[]> {
    const before = this.#observed ?? (await this.#observe());
    const steps = this.#steps(wanted, before);
    this.#observed = before;
    if (steps.length === 0) return [];
    this.#observed = undefined; // Until all is done, what is there is not known.
    const trouble = await this.#carryOut(steps);
    if (trouble.length > 0) return trouble;
    this.#observed = await this.#observe();
    await this.#settle(wanted, this.#observed);
    return [];
  }

  async #settle(wanted: WantedTunnel, observed: ReadonlyMap<string, ObservedDevice>): Promise<string[]> {
    const present = wanted.devices.filter(({ name }) => observed.has(name));
    return await this.#deps.settle(
      present.map(({ name }) => ({ kind: "link", key: name, value: "tunnel", device: name })),
    );
  }

  #steps(wanted: WantedTunnel, observed: ReadonlyMap<string, ObservedDevice>): TunnelStep[] {
    const { mode } = this.#ability;
    if (mode === undefined) return [];
    const nowSeconds = this.#deps.clock.now() / 1_000;
    const keyFile = (device: string): string => this.#keyFile(device);
    return tunnelSteps(wanted, observed, { mode, keyFile, nowSeconds, before: this.#peers });
  }

  async #carryOut(steps: readonly TunnelStep[]): Promise<string[]> {
    const trouble: string[] = [];
    for (const { argv } of steps) {
      const { code, stderr } = await this.#run(argv);
      if (code !== 0) trouble.push(`${argv.slice(0, 5).join(" ")}: ${stderr.trim() || `code ${code}`}`);
    }
    return trouble;
  }

  async #observe(): Promise<ReadonlyMap<string, ObservedDevice>> {
    const found = await Promise.all(
      tunnelDevices.map(async (name) => {
        const show = ["ip", "-j", "address", "show", "dev", name];
        const link = await this.#run(show);
        if (link.code !== 0) return undefined;
        const dump = await this.#run(["wg", "show", name, "dump"]);
        // It may have gone between the two, and is not one without a key then.
        if (dump.code !== 0 && (await this.#run(show)).code !== 0) return undefined;
        return parseDevice(name, link.stdout, dump.code === 0 ? dump.stdout : "");
      }),
    );
    return new Map(found.flatMap((device) => (device === undefined ? [] : [[device.name, device] as const])));
  }

  async #run(argv: readonly string[]): ReturnType<Run> {
    const isOurs = this.#ability.mode === "process" && argv[0] !== "ip";
    return await this.#deps.run(isOurs ? [...inOwnFolder, this.#deps.directory, ...argv] : argv);
  }

  async #tryAgain(): Promise<void> {
    const { clock, directory } = this.#deps;
    this.#retryAtMs = clock.monotonic() + retryMs;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    this.#ability = await this.#test();
    if (this.#ability.problem !== undefined) return;
    const ring = this.#ring ?? parseRing(await readFile(this.#ringFile, "utf8").catch(() => ""));
    await this.#keep(ring ?? firstRing(this.#deps.makePair(), clock.now()));
  }

  /** The kernel's own is tried first; nothing else tells whether a kernel has it, for it may be loaded at the first use. */
  async #test(): Promise<Ability> {
    const { run, hasTun } = this.#deps;
    const lacks = async (...argv: readonly string[]): Promise<string | undefined> => {
      return await run(argv).then(
        () => undefined,
        (reason: unknown) => {
          if (reason instanceof ClusterError && reason.code === "unavailable") return reason.message;
          throw reason;
        },
      );
    };
    try {
      const problem = await lacks("wg", "--version");
      if (problem !== undefined) return { problem };
      const trial = "shoal-wgtest";
      const makes = async (): Promise<boolean> =>
        (await run(["ip", "link", "add", trial, "type", "wireguard"])).code === 0;
      const removes = async (): Promise<boolean> =>
        (await run(["ip", "link", "delete", "dev", trial])).code === 0;
      // One that a process left behind, which was killed right here, is in the way.
      if ((await makes()) || ((await removes()) && (await makes()))) {
        await removes();
        return { mode: "kernel" };
      }
      const instead = "the kernel has no WireGuard, and in its place";
      const missing = await lacks("wireguard-go", "--version");
      if (missing !== undefined) return { problem: `${instead}: ${missing}` };
      return (await hasTun()) ? { mode: "process" } : { problem: `${instead}: there is no /dev/net/tun` };
    } catch (reason) {
      return { problem: errorText(reason) };
    }
  }

  async #keep(ring: KeyRing): Promise<void> {
    for (const [slot, device] of tunnelDevices.entries()) {
      const own = ring.keys.find((key) => key.slot === slot);
      if (own === undefined) await rm(this.#keyFile(device), { force: true });
      else await replaceFile(this.#keyFile(device), `${own.privateKey}\n`);
    }
    await replaceFile(this.#ringFile, JSON.stringify({ version: ringVersion, ring }));
    this.#ring = ring;
    this.#isAsked = false;
    for (const listener of this.#listeners) listener();
  }

  #keyFile(device: string): string {
    return join(this.#deps.directory, `${device}.key`);
  }

  get #ringFile(): string {
    return join(this.#deps.directory, "keys.json");
  }
}

/** A key pair of Curve25519, in the form that WireGuard has them in. */
export function newPair(): KeyPair {
  const { privateKey } = generateKeyPairSync("x25519");
  const { d = "", x = "" } = privateKey.export({ format: "jwk" });
  const base64 = (text: string): string => Buffer.from(text, "base64url").toString("base64");
  return { privateKey: base64(d), publicKey: base64(x) };
}

/** Only we write this file, and whole. */
function parseRing(text: string): KeyRing | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== "object" || parsed === null || !("version" in parsed)) return undefined;
    return parsed.version === ringVersion && "ring" in parsed ? (parsed.ring as KeyRing) : undefined;
  } catch {
    return undefined;
  }
}

async function replaceFile(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}
