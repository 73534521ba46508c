import type { StoreView } from "../../manager/store/transaction.ts";
import { attachmentId } from "../../model/attachment.ts";
import type { AttachmentPlace } from "../../worker/agent/attachments.ts";
import { narrow, wide } from "./cluster-goods.ts";
import type { ClusterPlan } from "./cluster-plan.ts";
import type { SimWorker } from "./cluster-worker.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

/** A container that is no task, and the place it believes to have. */
export interface HeldPlace extends AttachmentPlace {
  readonly containerId: string;
}

interface UserDeps {
  readonly schedule: Schedule;
  /** Of their own: what services do must not hang on them. */
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly workers: readonly SimWorker[];
}

const mostOnOne = 4;

/** Users who run containers on networks of the cluster, on every host, and end them again. */
export class ContainerUsers {
  readonly #deps: UserDeps;
  readonly #plan: Pick<ClusterPlan, "day" | "requestEveryMs">;
  #isOver = false;
  #count = 0;

  constructor(deps: UserDeps, plan: Pick<ClusterPlan, "day" | "requestEveryMs">) {
    this.#deps = deps;
    this.#plan = plan;
  }

  start(): void {
    const { schedule, random } = this.#deps;
    schedule.after(2 * random.next() * this.#plan.requestEveryMs, () => {
      if (this.#isOver) return;
      this.#act();
      this.start();
    });
  }

  stop(): void {
    this.#isOver = true;
  }

  #act(): void {
    const { random, trace, workers } = this.#deps;
    const worker = random.pick(workers);
    if (worker === undefined) return;
    const held = random.pick(worker.places());
    if (held !== undefined && (random.chance(0.5) || worker.places().length >= mostOnOne)) {
      trace.note(worker.name, "container ends", held.containerId.slice(0, 6));
      worker.endContainer(held.containerId);
      return;
    }
    this.#count += 1;
    const containerId = this.#count.toString(16).padStart(6, "0").padEnd(64, "0");
    // On calm days tasks are short of nothing.
    const network = this.#plan.day === "rough" && random.chance(0.5) ? narrow : wide;
    trace.note(worker.name, "container wants", containerId.slice(0, 6), network);
    worker.runContainer(containerId, network);
  }
}

/** After every entry: what a container believes to have is its own. */
export function placeProblem(view: StoreView, workers: readonly SimWorker[]): string | undefined {
  for (const worker of workers) {
    for (const { containerId, networkId, address } of worker.places()) {
      const id = attachmentId({ nodeId: worker.nodeId, networkId, containerId });
      const stored = view.attachments.get(id)?.address;
      if (stored !== address)
        return `a container of ${worker.name} has ${address}, and is given ${stored ?? "nothing"}`;
    }
  }
  return undefined;
}

/** Once all is at rest: nothing is given that nobody has. */
export function strayPlace(view: StoreView, workers: readonly SimWorker[]): string | undefined {
  const held = new Set(
    workers.flatMap((worker) =>
      worker
        .places()
        .map(({ containerId, networkId }) => attachmentId({ nodeId: worker.nodeId, networkId, containerId })),
    ),
  );
  const stray = view.attachments.list().find(({ id }) => !held.has(id));
  return stray && `${stray.address ?? "a place"} is kept for a container of ${stray.nodeId} that is gone`;
}
