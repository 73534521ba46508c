/** DNS messages as far as a resolver for tasks needs them: one question in, its reply out. */
import packet from "dns-packet";

import { parseIp } from "../../model/address.ts";
import type { Question } from "./records.ts";

/** On which tasks ask their gateway for names. */
export const dnsPort = 53;

const headerBytes = 12;
const minUdpBytes = 512;
/** What passes an overlay in one packet, whatever the asker would accept. */
const maxUdpBytes = 1232;
const maxMessageBytes = 65_535;

const replyBit = 0x8000;
const authoritativeBit = 0x0400;
const truncatedBit = 0x0200;
const recursionAvailableBit = 0x0080;
/** Of the asker's flags, the reply repeats the operation and "recursion desired". */
const repeatedBits = 0x7900;

export const replyCodes = {
  done: 0,
  malformed: 1,
  failure: 2,
  unknown: 3,
  unimplemented: 4,
  refused: 5,
} as const;

export interface Query {
  readonly question: Question;
  /** The most a reply over UDP may have. */
  readonly udpBytes: number;
  readonly operation: number;
  readonly bytes: Buffer;
  /** Where the question ends in `bytes`. */
  readonly questionEnd: number;
}

export type Record =
  | { readonly type: "A" | "AAAA"; readonly address: string }
  | { readonly type: "PTR"; readonly name: string };

/** @returns undefined for what is no query with exactly one question; it deserves no reply. */
export function parseQuery(bytes: Buffer): Query | undefined {
  if (bytes.length < headerBytes || (bytes.readUInt16BE(2) & replyBit) !== 0) return undefined;
  if (bytes.readUInt16BE(4) !== 1) return undefined;
  try {
    const decoded = packet.decode(bytes);
    const question = decoded.questions?.[0];
    if (question === undefined) return undefined;
    const extension = decoded.additionals?.find(({ type }) => type === "OPT");
    const offered = extension?.type === "OPT" ? extension.udpPayloadSize : minUdpBytes;
    return {
      question: { name: question.name, type: question.type },
      udpBytes: Math.min(Math.max(offered, minUdpBytes), maxUdpBytes),
      operation: (bytes.readUInt16BE(2) >> 11) & 0xf,
      bytes,
      questionEnd: questionEnd(bytes),
    };
  } catch {
    return undefined; // Malformed input from a container: as good as nothing.
  }
}

/** As many records as fit, and the mark that tells the asker to come back over TCP for the rest. */
export function encodeReply(
  { bytes, questionEnd: end, udpBytes }: Query,
  {
    code,
    records,
    ttlSeconds,
    over,
  }: {
    readonly code: number;
    readonly records: readonly Record[];
    readonly ttlSeconds: number;
    readonly over: "udp" | "tcp";
  },
): Buffer {
  const limit = over === "udp" ? udpBytes : maxMessageBytes;
  const encoded: Buffer[] = [];
  let size = end;
  let flags =
    replyBit | authoritativeBit | recursionAvailableBit | (bytes.readUInt16BE(2) & repeatedBits) | code;
  for (const record of records) {
    const next = encodeRecord(record, ttlSeconds);
    if (size + next.length > limit) {
      flags |= truncatedBit;
      break;
    }
    size += next.length;
    encoded.push(next);
  }
  const head = Buffer.from(bytes.subarray(0, end));
  head.writeUInt16BE(flags, 2);
  head.writeUInt16BE(encoded.length, 6);
  head.writeUInt32BE(0, 8);
  return Buffer.concat([head, ...encoded]);
}

const typeNumbers = { A: 1, PTR: 12, AAAA: 28 } as const;

/** The owner's name is a pointer to the question's. */
function encodeRecord(record: Record, ttlSeconds: number): Buffer {
  const data = record.type === "PTR" ? nameData(record.name) : addressData(record.address);
  const head = Buffer.alloc(headerBytes);
  head.writeUInt16BE(0xc000 | headerBytes, 0);
  head.writeUInt16BE(typeNumbers[record.type], 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt32BE(ttlSeconds, 6);
  head.writeUInt16BE(data.length, 10);
  return Buffer.concat([head, data]);
}

function addressData(address: string): Buffer {
  const { bits, value } = parseIp(address) ?? { bits: 32, value: 0n };
  return Buffer.from(value.toString(16).padStart(bits / 4, "0"), "hex");
}

function nameData(name: string): Buffer {
  const labels = name.split(".").map((label) => Buffer.from(label).subarray(0, 63));
  return Buffer.concat([
    ...labels.flatMap((label) => [Buffer.from([label.length]), label]),
    Buffer.from([0]),
  ]);
}

function questionEnd(bytes: Buffer): number {
  let offset = headerBytes;
  while (offset < bytes.length) {
    const length = bytes.readUInt8(offset);
    if (length > 63) throw new RangeError("a question's name is never compressed");
    offset += 1 + length;
    if (length === 0) break;
  }
  const end = offset + 4;
  if (end > bytes.length) throw new RangeError("the question is cut short");
  return end;
}
