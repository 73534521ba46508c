import { errorText } from "../../model/errors.ts";
import { newId, type Random } from "../../runtime/random.ts";

/** What a shim's death takes along, beside what each shim costs: 4.6 MB of its own, and 60 ms of processor time. */
export const containersAShim = 16;
/** Of the specification; shims of containerd look for one of this name first. */
export const groupAnnotation = "io.containerd.runc.v2.group";

type Kind = "create" | "delete";

/** Where shims listen, and how a container is told of the one that its group has. */
export interface ShimAddresses {
  /** Tells the container of its group's shim. @returns False if none answers, and then it is told of none. Never rejects. */
  offer(id: string, group: string): Promise<boolean>;
  /** The container's task has been made, or could not be. Never rejects. */
  withdraw(id: string): Promise<void>;
}

/**
 * Which containers share a shim. A shim ends when its last task is deleted, and containerd would make the next task of
 * the group with one that is just ending: so the two never overlap in a group.
 */
export class ShimGroups {
  readonly #random: Random;
  readonly #addresses: ShimAddresses;
  readonly #groups = new Map<string, Group>();
  #current: Group | undefined;
  #assigned = 0;

  constructor(random: Random, addresses: ShimAddresses) {
    this.#random = random;
    this.#addresses = addresses;
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

  /**
   * Makes a task, once none of its group is being deleted. The first of a group makes its shim; the others wait for that,
   * and are told of it, since finding it would cost them a process each.
   */
  create<Result>(id: string, make: () => Promise<Result>): Promise<Result> {
    const group = this.#groups.get(id);
    if (group === undefined) return make();
    return group.run("create", async () => {
      while (!(await this.#addresses.offer(id, group.name))) {
        if (group.founding === undefined) return group.found(make);
        await group.founding;
      }
      try {
        return await make();
      } catch (error) {
        if (!isUnreachable(error)) throw error; // Else it has ended since it was seen.
      } finally {
        await this.#addresses.withdraw(id);
      }
      return make();
    });
  }

  /** Deletes a task, once none of its group is being made. */
  delete<Result>(id: string, remove: () => Promise<Result>): Promise<Result> {
    return this.#groups.get(id)?.run("delete", remove) ?? remove();
  }
}

/** The shim that containerd was told of takes no connection: nothing was asked of it. */
function isUnreachable(error: unknown): boolean {
  return /dial unix \S*: connect: /.test(errorText(error));
}

class Group {
  readonly name: string;
  /** Settles when the task that makes the shim has been made, or could not be. */
  founding: Promise<void> | undefined;
  #kind: Kind = "create";
  #active = 0;
  #waiting: { readonly kind: Kind; readonly go: () => void }[] = [];

  constructor(name: string) {
    this.name = name;
  }

  async found<Result>(make: () => Promise<Result>): Promise<Result> {
    let end = (): void => undefined;
    this.founding = new Promise((resolve) => (end = resolve));
    try {
      return await make();
    } finally {
      this.founding = undefined;
      end();
    }
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
