/**
 * The keys of this host's tunnels: which it has, and how one takes the place of another without losing a packet. Pure.
 *
 * Each key has one of two slots, and with it a device, a port and an address inside the tunnel of its own. So others can hold
 * the old key and the new one side by side: a new one is told to them before it is used, and the old one stays until they have
 * long been told that it is not.
 */
import type { TunnelKey } from "../../model/node.ts";

export interface OwnKey extends TunnelKey {
  /** 32 bytes in base64; it never leaves the host. */
  readonly privateKey: string;
  /** Unix milliseconds. */
  readonly madeAtMs: number;
}

export type KeyPair = Pick<OwnKey, "publicKey" | "privateKey">;

/** The key in use comes first, here and in what others are told. */
export type KeyRing =
  | { readonly stage: "settled"; readonly keys: readonly [OwnKey] }
  | {
      /** `announced`: the second is to be used; `replaced`: the second was used before. */
      readonly stage: "announced" | "replaced";
      readonly keys: readonly [OwnKey, OwnKey];
      /** When the managers were first known to tell others of it, unix milliseconds; absent: not yet. */
      readonly toldAtMs?: number;
    };

/** How long each of the two steps leaves to hosts that hear the managers late. */
export const keyOverlapMs = 10 * 60_000;
/** How long a key is used. WireGuard changes the keys that packets are sealed with every two minutes by itself. */
export const keyPeriodMs = 7 * 24 * 60 * 60_000;

export interface RingState {
  /** Unix milliseconds. */
  readonly nowMs: number;
  /** What the managers tell others of this host: public keys in their order. */
  readonly told: readonly string[];
  /** A key that is in use is to be replaced, whatever its age. */
  readonly isAsked: boolean;
  /** Tunnels are in use. */
  readonly isUsed: boolean;
  readonly overlapMs: number;
  readonly periodMs: number;
}

export function firstRing(pair: KeyPair, nowMs: number): KeyRing {
  return { stage: "settled", keys: [{ ...pair, slot: 0, madeAtMs: nowMs }] };
}

/** The next step, or the same ring while there is none to take. */
export function nextRing(ring: KeyRing, state: RingState, makePair: () => KeyPair): KeyRing {
  const { nowMs, told, overlapMs } = state;
  if (ring.stage === "settled") {
    const [key] = ring.keys;
    const isOld = state.isUsed && nowMs - key.madeAtMs >= state.periodMs;
    if (!isOld && !state.isAsked) return ring;
    const slot = key.slot === 0 ? 1 : 0;
    return { stage: "announced", keys: [key, { ...makePair(), slot, madeAtMs: nowMs }] };
  }
  const isTold = ring.keys.every(({ publicKey }, index) => told[index] === publicKey);
  // The clock was put back: it is waited for the whole time again, rather than for ever.
  if (ring.toldAtMs === undefined || ring.toldAtMs > nowMs) {
    return isTold ? { ...ring, toldAtMs: nowMs } : ring;
  }
  if (nowMs - ring.toldAtMs < overlapMs) return ring;
  const [first, second] = ring.keys;
  return ring.stage === "announced"
    ? { stage: "replaced", keys: [second, first] }
    : { stage: "settled", keys: [first] };
}

/** What others may know of it. */
export function publicKeys({ keys }: KeyRing): TunnelKey[] {
  return keys.map(({ publicKey, slot }) => ({ publicKey, slot }));
}
