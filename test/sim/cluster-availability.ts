import type { StoreEvent } from "../../manager/store/change.ts";
import type { StoreView } from "../../manager/store/transaction.ts";
import type { ServiceId } from "../../model/ids.ts";
import type { Service } from "../../model/service.ts";
import { isWanted } from "../../model/task.ts";
import type { Day } from "./cluster-plan.ts";

/** What takes replicas away that nobody asked to go, on days on which only the cluster itself could. */
export class AvailabilityChecker {
  readonly #day: Day;
  readonly #violate: (rule: string, text: string) => void;
  /** Services that were complete once; from then on they have to stay so. */
  readonly #complete = new Set<ServiceId>();

  constructor(day: Day, violate: (rule: string, text: string) => void) {
    this.#day = day;
    this.#violate = violate;
  }

  look(view: StoreView, events: readonly StoreEvent[]): void {
    if (this.#day === "rough") return;
    for (const event of events) {
      if (event.kind === "resync") continue;
      if (event.table === "nodes" && event.kind === "updated" && event.object.status.state === "down")
        this.#violate("false alarm", `node ${event.object.id} was called down and is not`);
    }
    for (const event of events) {
      // What an update had not come round to when the next one was sent is missing in both: only a full house counts.
      const isNewSpec =
        event.kind === "updated" && event.table === "services" && event.object.spec !== event.previous.spec;
      if (isNewSpec && this.#day === "stop-first") this.#complete.delete(event.object.id);
    }
    const touched = new Set(
      events.flatMap((event) => {
        if (event.kind === "resync") return [];
        if (event.table === "services") return [event.object.id];
        return event.table === "tasks" ? [event.object.serviceId] : [];
      }),
    );
    for (const id of touched) {
      const service = view.services.get(id);
      if (service !== undefined) this.#lookAt(view, service);
    }
  }

  #lookAt(view: StoreView, service: Service): void {
    const { mode } = service.spec;
    if (mode.kind !== "replicated") return;
    const running = view.tasks
      .byService(service.id)
      .filter((task) => task.status.state === "running" && isWanted(task));
    const serving = new Set(running.map(({ slot }) => slot)).size;
    if (serving >= mode.replicas) this.#complete.add(service.id);
    if (!this.#complete.has(service.id)) return;
    const floor = mode.replicas - this.#mayMiss(service, mode.replicas);
    if (serving < floor)
      this.#violate(
        "availability",
        `service ${service.spec.name} serves with ${serving}, at least ${floor} are promised`,
      );
  }

  #mayMiss({ spec, updateStatus }: Service, replicas: number): number {
    if (this.#day === "start-first") return 0;
    const policy = updateStatus?.state === "rollback_started" ? spec.rollback : spec.update;
    const atOnce = policy?.parallelism ?? 1;
    return atOnce === 0 ? replicas : atOnce;
  }
}
