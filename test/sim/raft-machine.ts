import { nothing } from "./linearizable.ts";

/** What a client wants done; a try of its own each time it is sent, and to be done once however often it arrives. */
export interface Request {
  readonly request: number;
  readonly attempt: number;
  readonly key: string;
  readonly op:
    | { readonly kind: "write"; readonly value: string }
    | { readonly kind: "compare-and-set"; readonly expected: string; readonly value: string }
    | { readonly kind: "append"; readonly value: string };
}

export type Outcome = boolean | undefined;

interface MachineState {
  readonly registers: readonly (readonly [string, string])[];
  readonly lists: readonly (readonly [string, readonly string[]])[];
  readonly answered: readonly (readonly [number, Outcome])[];
  readonly index: number;
  readonly chain: number;
}

/** The replicated state machine: registers and lists, and what was answered to each request. */
export class Machine {
  #registers = new Map<string, string>();
  #lists = new Map<string, string[]>();
  #answered = new Map<number, Outcome>();
  /** Last index handed over, with or without an entry for us. */
  index = 0;
  /** A hash over every entry applied, in order, with its index. */
  chain = 0;

  apply(
    index: number,
    data: Uint8Array,
  ): { readonly request: Request; readonly outcome: Outcome; readonly repeated: boolean } {
    this.chain = chained(this.chain, index, data);
    const request = decodeRequest(data);
    const repeated = this.#answered.has(request.request);
    const outcome = repeated ? this.#answered.get(request.request) : this.#change(request);
    this.#answered.set(request.request, outcome);
    return { request, outcome, repeated };
  }

  register(key: string): string {
    return this.#registers.get(key) ?? nothing;
  }

  list(key: string): readonly string[] {
    return [...(this.#lists.get(key) ?? [])];
  }

  snapshot(): Uint8Array {
    const state: MachineState = {
      registers: [...this.#registers],
      lists: [...this.#lists],
      answered: [...this.#answered],
      index: this.index,
      chain: this.chain,
    };
    return Buffer.from(JSON.stringify(state));
  }

  restore(data: Uint8Array): void {
    const state = JSON.parse(Buffer.from(data).toString()) as MachineState; // Written by snapshot().
    this.#registers = new Map(state.registers);
    this.#lists = new Map(state.lists.map(([key, values]) => [key, [...values]]));
    this.#answered = new Map(state.answered);
    this.index = state.index;
    this.chain = state.chain;
  }

  #change({ key, op }: Request): Outcome {
    switch (op.kind) {
      case "write":
        this.#registers.set(key, op.value);
        return undefined;
      case "compare-and-set": {
        const holds = this.register(key) === op.expected;
        if (holds) this.#registers.set(key, op.value);
        return holds;
      }
      case "append": {
        const values = this.#lists.get(key);
        if (values === undefined) this.#lists.set(key, [op.value]);
        else values.push(op.value);
        return undefined;
      }
    }
  }
}

export function encodeRequest(request: Request): Uint8Array {
  return Buffer.from(JSON.stringify(request));
}

export function decodeRequest(data: Uint8Array): Request {
  return JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString()) as Request; // As above.
}

export function hashOf(data: Uint8Array): number {
  let hash = 0x811c9dc5 | 0;
  for (const byte of data) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash;
}

function chained(chain: number, index: number, data: Uint8Array): number {
  return Math.imul(Math.imul(chain ^ index, 0x5bd1e995) ^ hashOf(data), 0x01000193);
}
