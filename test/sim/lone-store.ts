import type { Clock } from "../../runtime/clock.ts";
import { seededRandom } from "../../runtime/random.ts";
import { Store } from "../../manager/store/store.ts";

export interface LoneStore {
  readonly store: Store;
  /** Committed entries so far, in order. */
  readonly log: readonly Uint8Array[];
}

/** A leading store whose group is itself alone: whatever it proposes is committed at once. */
export function loneStore(clock: Clock, seed = 1): LoneStore {
  const log: Uint8Array[] = [];
  const store: Store = new Store({
    clock,
    random: seededRandom(seed),
    proposer: {
      async propose(data) {
        log.push(data);
        store.apply(log.length, data);
        return { index: log.length };
      },
      confirmLeader: async () => undefined,
    },
  });
  store.setLeading(1);
  return { store, log };
}
