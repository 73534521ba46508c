import { createCipheriv, createDecipheriv } from "node:crypto";
import { ClusterError } from "../../model/errors.ts";
import type { Disk } from "../../runtime/disk.ts";
import type { Random } from "../../runtime/random.ts";

const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;

/** Encrypts and authenticates what goes to disk (AES-256-GCM). `context` binds a text to its place. */
export interface Seal {
  seal(plain: Uint8Array, context: string): Uint8Array;
  /** @throws {ClusterError} `data-loss` when key, text or place is not the one it was sealed with. */
  open(sealed: Uint8Array, context: string): Uint8Array;
}

/** What {@link Seal.seal} adds to a length. */
export const sealOverheadBytes = nonceBytes + tagBytes;

/**
 * The data key of this member: made on first use, kept readable only by its owner.
 *
 * @throws {ClusterError} `data-loss` when the file is not a key.
 */
export async function loadSeal(
  { disk, random }: { disk: Disk; random: Random },
  path: string,
  onMissing: "create" | "refuse",
): Promise<Seal> {
  const known = await disk.read(path);
  if (known !== undefined) {
    if (known.byteLength !== keyBytes) {
      throw new ClusterError(
        "data-loss",
        `cannot read the data key ${path}: it has ${known.byteLength} bytes, ${keyBytes} are expected; ` +
          "restore it from a backup, or remove this member's state and join again",
      );
    }
    return sealWith(known, random);
  }
  if (onMissing === "refuse") {
    throw new ClusterError(
      "data-loss",
      `cannot read the data key ${path}: it is not there, but a log is; restore it from a backup, or remove this ` +
        "member's state and join again",
    );
  }
  const fresh = random.bytes(keyBytes);
  await disk.replace(path, fresh, 0o600);
  return sealWith(fresh, random);
}

export function sealWith(key: Uint8Array, random: Random): Seal {
  return {
    seal(plain, context) {
      const nonce = random.bytes(nonceBytes);
      const cipher = createCipheriv("aes-256-gcm", key, nonce);
      cipher.setAAD(Buffer.from(context));
      const text = cipher.update(plain);
      cipher.final();
      return Buffer.concat([nonce, text, cipher.getAuthTag()]);
    },
    open(sealed, context) {
      if (sealed.byteLength < sealOverheadBytes) throw unsealable(context);
      const end = sealed.byteLength - tagBytes;
      const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, nonceBytes));
      decipher.setAAD(Buffer.from(context));
      decipher.setAuthTag(sealed.subarray(end));
      try {
        return Buffer.concat([decipher.update(sealed.subarray(nonceBytes, end)), decipher.final()]);
      } catch (cause) {
        throw unsealable(context, cause);
      }
    },
  };
}

function unsealable(context: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "data-loss",
    `cannot decrypt ${context}: it was changed, or sealed with another key`,
    {
      cause,
    },
  );
}
