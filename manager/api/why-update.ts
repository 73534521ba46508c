/** What `why` says of updates that stopped or were taken back, and of tasks that end again and again. */
import type { Service } from "../../model/service.ts";
import { isTerminal, isWanted, type Task } from "../../model/task.ts";
import { newestFirst, slotsOf } from "../orchestrator/plan.ts";
import { revisionOfTask } from "../store/revisions.ts";
import type { StoreView } from "../store/transaction.ts";
import { hostnameOf } from "./hostname.ts";
import { type Count, failures, hasFailed, hasRun, newestFailure } from "./why-slots.ts";

export interface Answer {
  readonly Subject: string;
  readonly Cause: string;
  readonly Evidence: readonly string[];
  /** A command line; empty when nothing is to be done. */
  readonly Next: string;
}

export type Rest = Omit<Answer, "Subject">;

/** An update or rollback that stopped. The previous spec is advised unless its tasks failed and none ever ran. */
export function whyPaused(
  view: StoreView,
  service: Service,
  all: readonly Task[],
  counted: Count,
): Rest | undefined {
  const { spec, specVersion, previous, updateStatus } = service;
  if (updateStatus?.state !== "paused" && updateStatus?.state !== "rollback_paused") return undefined;
  const Evidence = [counted.text, ...failures(all)];
  if (previous !== undefined && !isKnownToFail(all, previous.specVersion)) {
    return { Cause: updateStatus.message, Evidence, Next: `shoal service rollback ${spec.name}` };
  }
  if (previous !== undefined) {
    Evidence.splice(
      1,
      0,
      `the tasks of the previous spec, ${shownImage(previous.spec.task.container.image)}, failed too`,
    );
  }
  const failed = newestFailure(all.filter((task) => task.specVersion === specVersion));
  return { Cause: updateStatus.message, Evidence, Next: repairOf(view, service, all, failed) };
}

function isKnownToFail(all: readonly Task[], specVersion: number): boolean {
  const tasks = all.filter((task) => task.specVersion === specVersion);
  return tasks.some(hasFailed) && !tasks.some(hasRun);
}

/**
 * A rollback that no user asked for: theirs keeps what it replaced as the previous spec. The status forgets the reason
 * when the rollback is over, the tasks that failed do not.
 */
export function whyRolledBack(
  view: StoreView,
  service: Service,
  all: readonly Task[],
  counted: Count,
): Rest | undefined {
  const { spec, specVersion, previous, updateStatus } = service;
  const state = updateStatus?.state;
  if (previous !== undefined || (state !== "rollback_started" && state !== "rollback_completed"))
    return undefined;
  const isOver = state === "rollback_completed";
  if (isOver && counted.running < counted.wanted) return undefined; // What is wrong now is not that.
  const newer = all.filter((task) => task.specVersion > specVersion).toSorted(newestFirst);
  const [newest] = newer;
  const revision = newest === undefined ? undefined : revisionOfTask(view, newest);
  const image = revision?.task.container.image;
  const what =
    image === undefined || image === spec.task.container.image
      ? "the update"
      : `the update to ${shownImage(image)}`;
  const culprit = newestFailure(newer.filter((task) => task.specVersion === newest?.specVersion));
  const because =
    culprit !== undefined
      ? errorOf(culprit)
      : isOver
        ? "its tasks are no longer in the history"
        : (updateStatus?.message ?? "");
  return {
    Cause: `${what} ${isOver ? "was" : "is being"} rolled back: ${because}`,
    Evidence: [
      isOver ? `${counted.text}, on ${shownImage(spec.task.container.image)}` : counted.text,
      ...failures(newer),
    ],
    Next:
      culprit?.status.state === "failed"
        ? `shoal service logs --tail 20 ${culprit.id}`
        : `shoal service ps ${spec.name}`,
  };
}

/** Tasks of the present spec end as soon as they are begun. @param wait - Until the next, in words. */
export function whyFailing(
  view: StoreView,
  service: Service,
  all: readonly Task[],
  { counted, wait }: { readonly counted: Count; readonly wait: string | undefined },
): Rest | undefined {
  const ended = [...slotsOf(all).values()].flatMap(({ tasks, live }) => {
    const isTried = live.some((task) => task.desiredState === "ready" && !isTerminal(task)); // Beside one that serves.
    if (live.some((task) => task.status.state === "running") && !isTried) return [];
    const last = tasks.find(isTerminal);
    return last !== undefined && hasFailed(last) && last.specVersion === service.specVersion ? [last] : [];
  });
  const failed = newestFailure(ended);
  if (failed === undefined) return undefined;
  const isRejected = failed.status.state === "rejected";
  const many = all.filter((task) => hasFailed(task) && task.specVersion === service.specVersion).length > 1;
  const what = many
    ? `its tasks ${isRejected ? "are rejected" : "fail"}`
    : `a task ${isRejected ? "was rejected" : "failed"}`;
  const text = failed.status.error || failed.status.message;
  return {
    Cause: `${what}: ${text}${wait === undefined ? "" : `; ${wait}`}`,
    Evidence: [counted.text, ...failures(all)],
    Next: repairOf(view, service, all, failed),
  };
}

/** Slots where a task of the present spec was tried in vain, so that one of an earlier spec serves on. */
export function whyKept(
  view: StoreView,
  service: Service,
  all: readonly Task[],
  counted: Count,
): Rest | undefined {
  const { specVersion } = service;
  const kept = [...slotsOf(all).values()].flatMap(({ tasks, live }) => {
    const [newest] = tasks;
    if (newest === undefined || !hasFailed(newest) || newest.specVersion !== specVersion) return [];
    const serves = live.some((task) => task.specVersion < specVersion && task.status.state === "running");
    return serves ? [newest] : [];
  });
  const failed = newestFailure(kept);
  if (failed === undefined) return undefined;
  return {
    Cause: `the update failed for ${kept.length} of ${counted.wanted}, where the version before still runs: ${errorOf(failed)}`,
    Evidence: [counted.text, ...failures(all)],
    Next: repairOf(view, service, all, failed),
  };
}

/**
 * The command that mends a spec whose tasks fail.
 * @param failed - The newest that did; without it nothing is known of the reason.
 */
export function repairOf(
  view: StoreView,
  service: Service,
  all: readonly Task[],
  failed: Task | undefined,
): string {
  const { name, task } = service.spec;
  if (failed === undefined) return `shoal service ps ${name}`;
  const { state, error } = failed.status;
  const good = workingImage(view, service, all);
  if (good !== undefined) return `shoal service update --image ${good} ${name}, which is what still runs`;
  if (error.startsWith("No such image")) {
    return `shoal service update --image IMAGE ${name}, with an image that the hosts can pull`;
  }
  const bind = task.container.mounts.find(
    (mount) => mount.type === "bind" && mount.source !== "" && error.endsWith(`: ${mount.source}`),
  );
  if (bind?.type === "bind") {
    const node = failed.nodeId === undefined ? undefined : view.nodes.get(failed.nodeId);
    const host = node === undefined ? "every host" : hostnameOf(node);
    return `on ${host}: mkdir -p ${bind.source}, or shoal service update --mount-rm ${bind.target} ${name}`;
  }
  return state === "failed" ? `shoal service logs --tail 20 ${name}` : `shoal service inspect ${name}`;
}

/** Of the newest earlier version that has tasks at work, where it is another one. */
function workingImage(
  view: StoreView,
  { spec, specVersion }: Service,
  all: readonly Task[],
): string | undefined {
  const [good] = all
    .filter((task) => task.specVersion !== specVersion && isWanted(task) && task.status.state === "running")
    .toSorted((a, b) => b.specVersion - a.specVersion);
  const image = good === undefined ? undefined : revisionOfTask(view, good)?.task.container.image;
  return image === undefined || image === spec.task.container.image ? undefined : shownImage(image);
}

function errorOf({ status }: Task): string {
  return `${status.state}: ${status.error || status.message}`;
}

/** Without the digest that stands beside a tag. */
function shownImage(image: string): string {
  const [name = image] = image.split("@");
  return name.lastIndexOf(":") > name.lastIndexOf("/") ? name : image;
}
