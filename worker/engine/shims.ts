import { newId, type Random } from "../../runtime/random.ts";

/** What a shim's death takes along, beside what each shim costs: some 10 MB and a tenth of a start. */
export const containersAShim = 8;
/** Of the specification; shims of containerd look for one of this name first. */
export const groupAnnotation = "io.containerd.runc.v2.group";

type Kind = "create" | "delete";

/**
 * Which containers share a shim. A shim ends when its last task is deleted, and containerd would make the next task of
 * the group with one that is just ending: so the two never overlap in a group.
 */
export class ShimGroups {
  readonly #random: Random;
  readonly #groups = new Map<string, Group>();
  #current: Group | undefined;
  #assigned = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  /** @returns The name of the group of a new container. */
  assign(id: string): string {
    if (this.#current === undefined || this.#assigned === containersAShim) {
      this.#current = new Group(newId(this.#random));
      this.#assigned = 0;
    }
    this.#assigned += 1;
    this.#groups.set(id, this.#current);
    return this.#current.name;
  }

  /** Containers of an earlier process, in any order. */
  adopt(members: Iterable<{ readonly id: string; readonly shimGroup?: string | undefined }>): void {
    const known = new Map<string, Group>();
    for (const { id, shimGroup } of members) {
      if (shimGroup === undefined) continue;
      const group = known.get(shimGroup) ?? new Group(shimGroup);
      known.set(shimGroup, group);
      this.#groups.set(id, group);
    }
  }

  forget(id: string): void {
    this.#groups.delete(id);
  }

  /** Does it once no task of the container's group is under way in the other direction. */
  alone<Result>(id: string, kind: Kind, work: () => Promise<Result>): Promise<Result> {
    return this.#groups.get(id)?.run(kind, work) ?? work();
  }
}

class Group {
  readonly name: string;
  #kind: Kind = "create";
  #active = 0;
  #waiting: { readonly kind: Kind; readonly go: () => void }[] = [];

  constructor(name: string) {
    this.name = name;
  }

  async run<Result>(kind: Kind, work: () => Promise<Result>): Promise<Result> {
    await this.#enter(kind);
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  async #enter(kind: Kind): Promise<void> {
    // Who waits goes first, so that neither kind starves the other.
    if (this.#waiting.length > 0 || (this.#active > 0 && this.#kind !== kind)) {
      await new Promise<void>((go) => this.#waiting.push({ kind, go }));
      return;
    }
    this.#kind = kind;
    this.#active += 1;
  }

  #leave(): void {
    this.#active -= 1;
    const [next] = this.#waiting;
    if (this.#active > 0 || next === undefined) return;
    this.#kind = next.kind;
    const end = this.#waiting.findIndex(({ kind }) => kind !== next.kind);
    const batch = this.#waiting.splice(0, end === -1 ? this.#waiting.length : end);
    this.#active = batch.length;
    for (const { go } of batch) go();
  }
}
