/** What `docker rmi` may remove, as Docker decides it. Pure. */
import { ClusterError } from "../../model/errors.ts";

/** A name of the image as users see it: "web:1" or "web@sha256:…". */
export interface ImageTag {
  readonly text: string;
  /** Full repository: "docker.io/library/web". */
  readonly repository: string;
  readonly kind: "tag" | "digest";
}

export interface RemovalInput {
  /** As typed. */
  readonly asked: string;
  /** The name that was typed; undefined when it was an id. */
  readonly named: ImageTag | undefined;
  readonly id: string;
  readonly tags: readonly ImageTag[];
  readonly users: readonly { readonly id: string; readonly running: boolean }[];
  readonly force: boolean;
}

export interface RemovalPlan {
  /** In the order in which clients are told of them. */
  readonly untag: readonly ImageTag[];
  /** What becomes of the image itself; `orphaned` is one that stays without a name. */
  readonly image: "deleted" | "kept" | "orphaned";
}

/** @throws {ClusterError} `conflict` in Docker's words. */
export function planRemoval(input: RemovalInput): RemovalPlan {
  const { named, tags, force } = input;
  return named === undefined ? byId() : byName(named);

  function byId(): RemovalPlan {
    const isSingle = isSingleReference(tags);
    const problem = conflictOf(input, isSingle ? 0 : tags.length);
    if (problem !== undefined) throw problem.error;
    return { untag: tags, image: "deleted" };
  }

  function byName(name: ImageTag): RemovalPlan {
    const [user] = input.users;
    if (!force && isSingleReference(tags) && user !== undefined) {
      throw new ClusterError(
        "conflict",
        `conflict: unable to remove repository reference ${JSON.stringify(input.asked)} (must force) - container ${shortId(user.id)} is using its referenced image ${shortId(input.id)}`,
      );
    }
    const untag = [name];
    let left = tags.filter(({ text }) => text !== name.text);
    const ofRepository = left.filter(({ repository }) => repository === name.repository);
    if (name.kind === "tag" && ofRepository.every(({ kind }) => kind === "digest")) {
      untag.push(...ofRepository);
      left = left.filter(({ repository }) => repository !== name.repository);
    }
    if (left.length > 0) return { untag, image: "kept" };
    // The name is gone already: a container that still uses the image keeps it, without a name.
    return { untag, image: conflictOf(input, 0) === undefined ? "deleted" : "orphaned" };
  }
}

interface Conflict {
  readonly error: ClusterError;
}

function conflictOf({ id, users, force }: RemovalInput, references: number): Conflict | undefined {
  const running = users.find((user) => user.running);
  if (running !== undefined)
    return refuse("cannot be forced", `image is being used by running container ${shortId(running.id)}`);
  if (force) return undefined;
  if (references > 0) return refuse("must be forced", "image is referenced in multiple repositories");
  const [stopped] = users;
  if (stopped === undefined) return undefined;
  return refuse("must be forced", `image is being used by stopped container ${shortId(stopped.id)}`);

  function refuse(strength: string, reason: string): Conflict {
    const text = `conflict: unable to delete ${shortId(id)} (${strength}) - ${reason}`;
    return { error: new ClusterError("conflict", text) };
  }
}

/** At most one tag, and all names in one repository. */
function isSingleReference(tags: readonly ImageTag[]): boolean {
  if (tags.length <= 1) return true;
  const repositories = new Set(tags.map(({ repository }) => repository));
  return repositories.size === 1 && tags.filter(({ kind }) => kind === "tag").length <= 1;
}

function shortId(id: string): string {
  return id.replace(/^sha256:/, "").slice(0, 12);
}
