import { randomBytes } from "node:crypto";

const idLength = 25;

/** All chance comes from here, so that a seed can own it. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [0, below). */
  integer(below: number): number;
  /** `length` bytes; cryptographic in production. */
  bytes(length: number): Uint8Array;
}

/** Asking the system for a few bytes costs as much as for thousands; every byte is given out once. */
const poolBytes = 4_096;
let pool = Buffer.alloc(0);

function taken(length: number): Buffer {
  if (length > poolBytes / 16) return randomBytes(length);
  if (pool.length < length) pool = randomBytes(poolBytes);
  const bytes = Buffer.from(pool.subarray(0, length));
  pool.fill(0, 0, length); // Some of it are secrets, which stay with whoever asked.
  pool = pool.subarray(length);
  return bytes;
}

export const systemRandom: Random = {
  next: () => taken(6).readUIntBE(0, 6) / 2 ** 48,
  integer: (below) => Math.floor(systemRandom.next() * below),
  bytes: taken,
};

/** A repeatable sequence (mulberry32) for tests and simulation; never for keys. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  const random: Random = {
    next() {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    },
    integer: (below) => Math.floor(random.next() * below),
    bytes: (length) => Uint8Array.from({ length }, () => random.integer(256)),
  };
  return random;
}

/** Objects of the cluster: 25 characters of base36 from 128 bits of chance. */
export function newId<Id extends string>(random: Random): Id {
  const value = BigInt(`0x${Buffer.from(random.bytes(17)).toString("hex")}`);
  return value.toString(36).padStart(idLength, "0").slice(-idLength) as Id;
}

/** Containers of the engine: 64 hexadecimal digits. */
export function newContainerId(random: Random): string {
  return Buffer.from(random.bytes(32)).toString("hex");
}
