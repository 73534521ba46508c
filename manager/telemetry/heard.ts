import type { TaskId } from "../../model/ids.ts";

interface Place {
  readonly atMs: number;
  /** Records of exactly that time: many lines share one. */
  readonly count: number;
}

/** How far one reader has come with each task, so that a request that broke off is asked anew without a gap or a line twice. */
export class Heard {
  readonly #places = new Map<TaskId, Place>();
  readonly #passing = new Map<TaskId, Place>();

  /** Time from which the lines of all these tasks are wanted again; undefined while one was never heard. */
  sinceMs(taskIds: readonly TaskId[]): number | undefined {
    const places = taskIds.map((taskId) => this.#places.get(taskId));
    return places.every((place) => place !== undefined)
      ? Math.min(...places.map(({ atMs }) => atMs))
      : undefined;
  }

  /** Begins a request anew: what comes first was heard before. */
  rewind(taskIds: readonly TaskId[]): void {
    for (const taskId of taskIds) {
      const place = this.#places.get(taskId);
      if (place !== undefined) this.#passing.set(taskId, place);
    }
  }

  /** @returns False for a record that was heard before the request broke off. */
  isNew(taskId: TaskId, atMs: number): boolean {
    const passing = this.#passing.get(taskId);
    if (passing !== undefined) {
      if (atMs < passing.atMs) return false;
      if (atMs === passing.atMs && passing.count > 0) {
        this.#passing.set(taskId, { atMs, count: passing.count - 1 });
        return false;
      }
      this.#passing.delete(taskId);
    }
    const place = this.#places.get(taskId);
    this.#places.set(taskId, { atMs, count: place?.atMs === atMs ? place.count + 1 : 1 });
    return true;
  }
}
