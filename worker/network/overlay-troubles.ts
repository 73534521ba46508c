/**
 * Overlays that are not set up on this host, or not whole: why, and since when. Everything else goes on; they are tried again
 * with every round and every look, and only who wants to be on one is told.
 */
import { ClusterError } from "../../model/errors.ts";
import type { Clock } from "../../runtime/clock.ts";
import type { OverlayNetwork } from "./network.ts";

/** So long a task waits for its network, three looks, before it is refused and may be placed elsewhere. */
export const patienceMs = 15_000;

interface Known {
  readonly name: string;
  readonly reason: string;
  /** Monotonic. */
  readonly sinceMs: number;
}

export class OverlayTroubles {
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #warn: (text: string) => void;
  #known: ReadonlyMap<string, Known> = new Map();

  /** @param deps.warn - Told what changes, once. */
  constructor({ clock, warn }: { clock: Pick<Clock, "monotonic">; warn: (text: string) => void }) {
    this.#clock = clock;
    this.#warn = warn;
  }

  /**
   * Takes what the last try came to.
   *
   * @param wanted - All overlays of this host. @param reasons - By the id of those that are not as they should be.
   */
  note(wanted: readonly OverlayNetwork[], reasons: ReadonlyMap<string, string>): void {
    const before = this.#known;
    const known = new Map<string, Known>();
    for (const { id, name } of wanted) {
      const [was, reason] = [before.get(id), reasons.get(id)];
      if (reason !== undefined) {
        known.set(id, { name, reason, sinceMs: was?.sinceMs ?? this.#clock.monotonic() });
        if (was?.reason !== reason) this.#warn(textOf({ name, reason }));
      } else if (was !== undefined) this.#warn(`network ${name} is set up on this host now`);
    }
    this.#known = known;
  }

  get texts(): readonly string[] {
    return [...this.#known.values()].map(textOf);
  }

  /**
   * Why a task cannot be on a network.
   *
   * @returns `unavailable` while that may soon be mended, then `internal`; undefined: it can.
   */
  refusal(networkId: string): ClusterError | undefined {
    const known = this.#known.get(networkId);
    if (known === undefined) return undefined;
    const isNew = this.#clock.monotonic() - known.sinceMs < patienceMs;
    return new ClusterError(isNew ? "unavailable" : "internal", textOf(known));
  }
}

function textOf({ name, reason }: Pick<Known, "name" | "reason">): string {
  return `network ${name} cannot be set up on this host: ${reason}`;
}
