import type { Call, Reply, Route } from "../../manager/api/call.ts";
import { jsonObject } from "../../manager/api/json-reader.ts";
import { nodeRoutes } from "../../manager/api/node.ts";
import { payloadRoutes } from "../../manager/api/payload.ts";
import { serviceRoutes } from "../../manager/api/service.ts";
import { ClusterError, noLeaderText } from "../../model/errors.ts";
import type { NodeId, ServiceId } from "../../model/ids.ts";
import { apiDeps, passOn } from "./cluster-front.ts";
import { drawPayloadRequest, withGoods } from "./cluster-goods.ts";
import type { SimManager } from "./cluster-manager.ts";
import type { ClusterPlan } from "./cluster-plan.ts";
import { drawSpec, modes, type ServiceDraft } from "./cluster-services.ts";
import type { ClusterWire } from "./cluster-wire.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import type { Trace } from "./raft-trace.ts";

export interface ClientDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly trace: Trace;
  readonly wire: ClusterWire;
  readonly managers: readonly SimManager[];
  readonly violate: (rule: string, text: string) => void;
}

type Answer =
  | { readonly kind: "done"; readonly value: unknown }
  /** Certainly not carried out. */
  | { readonly kind: "refused"; readonly text: string }
  | { readonly kind: "unknown" };

/** What clients know of one service; requests for it come one after another. */
export interface Known {
  readonly draft: ServiceDraft;
  id: ServiceId | undefined;
  /** Markers of the spec that it may have; "none" where it may not exist. The last acknowledged write leaves only one. */
  possible: ReadonlySet<string>;
  /** The last written before, for rollbacks. */
  previous: ReadonlySet<string>;
  isBusy: boolean;
}

export const absent = "none";
const answerTimeoutMs = 8_000;
/** Refusals that a client may meet here; any other is a mistake of somebody. */
const expectedRefusals = [
  "version-conflict",
  "not-found",
  "no-leader",
  "name-conflict",
  "failed-precondition",
];

/** What others have or have taken away since the request was thought of. */
const expectedOfGoods = / not found: | is in use by | is already in use by /;

/** Users with their services and nodes, through the API's own handlers at whoever leads. */
export class ClusterClients {
  readonly #deps: ClientDeps;
  readonly #plan: ClusterPlan;
  readonly known: Known[] = [];
  readonly #nodes: readonly NodeId[];
  /** What was written last for certain, for nodes. */
  readonly availability = new Map<NodeId, ReadonlySet<string>>();
  readonly #busyNodes = new Set<NodeId>();
  #marker = 0;
  #isOver = false;
  requests = 0;
  acknowledged = 0;

  constructor(deps: ClientDeps, plan: ClusterPlan, nodes: readonly NodeId[]) {
    this.#deps = deps;
    this.#plan = plan;
    this.#nodes = nodes;
    for (let number = 0; number < plan.services; number += 1) {
      const mode = deps.random.pick(modes) ?? "replicated";
      const drawn = deps.random.chance(0.5) ? "start-first" : "stop-first";
      const order = plan.day === "rough" ? drawn : plan.day;
      this.known.push({
        draft: {
          name: `s${number}`,
          mode: number === 0 && plan.day !== "rough" ? "replicated" : mode,
          order,
        },
        id: undefined,
        possible: new Set([absent]),
        previous: new Set(),
        isBusy: false,
      });
    }
  }

  start(): void {
    const { schedule, random } = this.#deps;
    schedule.after(2 * random.next() * this.#plan.requestEveryMs, () => {
      if (this.#isOver) return;
      void this.#act();
      this.start();
    });
  }

  stop(): void {
    this.#isOver = true;
  }

  get isIdle(): boolean {
    return this.#busyNodes.size === 0 && this.known.every(({ isBusy }) => !isBusy);
  }

  async #act(): Promise<void> {
    const { random } = this.#deps;
    if (this.#plan.extent === "whole" && random.chance(0.12)) return this.#changePayload();
    const mayChangeNodes = this.#plan.day !== "stop-first";
    if (mayChangeNodes && random.chance(this.#plan.nodeRatio)) return this.#changeNode();
    const known = random.pick(this.known);
    if (known === undefined || known.isBusy) return;
    known.isBusy = true;
    await this.#changeService(known);
    known.isBusy = false;
  }

  async #changeService(known: Known): Promise<void> {
    const { random } = this.#deps;
    const { draft } = known;
    if (known.id === undefined || known.possible.has(absent)) return this.#create(known);
    const isRough = this.#plan.day === "rough";
    const service = this.#leader()?.replica?.store.view((view) => known.id && view.services.get(known.id));
    if (service === undefined) return;
    const path = "/services/:id/update";
    const version = service.meta.version;
    if (isRough && random.chance(0.1)) {
      const answer = await this.#ask("DELETE", "/services/:id", { params: { id: service.id } });
      if (answer.kind === "refused") return;
      known.possible = answer.kind === "done" ? new Set([absent]) : new Set([...known.possible, absent]);
      if (answer.kind === "done") known.id = undefined;
      return;
    }
    if (service.previous !== undefined && random.chance(0.15)) {
      const markerOf = (labels: Readonly<Record<string, string>>): string => labels["marker"] ?? "";
      const back = markerOf(service.previous.spec.labels);
      const query = { version: `${version}`, rollback: "previous" };
      const answer = await this.#ask("POST", path, { params: { id: service.id }, query });
      return this.#wrote(known, answer, back);
    }
    this.#marker += 1;
    const marker = `${this.#marker}`;
    const body = this.#draw(draft);
    const query = { version: `${version}` };
    this.#wrote(known, await this.#ask("POST", path, { params: { id: service.id }, query, body }), marker);
  }

  async #create(known: Known): Promise<void> {
    this.#marker += 1;
    const marker = `${this.#marker}`;
    const body = this.#draw(known.draft);
    const answer = await this.#ask("POST", "/services/create", { body });
    this.#wrote(known, answer, marker);
    if (answer.kind === "done") known.id = (answer.value as { readonly ID: ServiceId }).ID;
  }

  /** An update that the cluster rolls back by itself returns to what was before: that stays possible. */
  #wrote(known: Known, answer: Answer, marker: string): void {
    if (answer.kind === "refused") return;
    if (answer.kind === "done") {
      known.previous = new Set([...known.possible, ...known.previous]);
      known.possible = new Set([marker]);
    } else known.possible = new Set([...known.possible, marker]);
  }

  async #changePayload(): Promise<void> {
    this.#marker += 1;
    const request = this.#leader()?.replica?.store.view((view) =>
      drawPayloadRequest(this.#deps.random, view, this.#marker),
    );
    if (request === undefined) return;
    const { method, path, id, body } = request;
    await this.#ask(method, path, {
      ...(id !== undefined && { params: { id } }),
      ...(body !== undefined && { body }),
    });
  }

  /** A spec with a marker of its own. */
  #draw(draft: ServiceDraft): Record<string, unknown> {
    const { random } = this.#deps;
    const body = drawSpec(random, this.#plan.day, draft, this.#marker);
    if (this.#plan.extent !== "whole") return body;
    const store = this.#leader()?.replica?.store;
    return store?.view((view) => withGoods(random, view, this.#plan.day, body)) ?? body;
  }

  async #changeNode(): Promise<void> {
    const { random } = this.#deps;
    const id = random.pick(this.#nodes);
    if (id === undefined || this.#busyNodes.has(id)) return;
    this.#busyNodes.add(id);
    await this.#changeOf(id);
    this.#busyNodes.delete(id);
  }

  async #changeOf(id: NodeId): Promise<void> {
    const { random } = this.#deps;
    const node = this.#leader()?.replica?.store.view((view) => view.nodes.get(id));
    if (node === undefined) return;
    const isRough = this.#plan.day === "rough";
    const relabels = isRough && random.chance(this.#plan.relabelRatio);
    const choices = isRough
      ? (["active", "active", "pause", "drain"] as const)
      : (["active", "drain"] as const);
    const availability = relabels ? node.spec.availability : (random.pick(choices) ?? "active");
    const zone = relabels ? random.pick(["a", "b", "c"]) : node.spec.labels["zone"];
    const answer = await this.#ask("POST", "/nodes/:id/update", {
      params: { id },
      query: { version: `${node.meta.version}` },
      body: { Role: node.spec.role, Availability: availability, Labels: { zone } },
    });
    if (answer.kind === "refused") return;
    const before = answer.kind === "done" ? [] : (this.availability.get(id) ?? [node.spec.availability]);
    this.availability.set(id, new Set([...before, availability]));
  }

  #leader(): SimManager | undefined {
    const leaders = this.#deps.managers.filter(({ replica }) => replica?.isLeader === true);
    const termOf = ({ replica }: SimManager): number => replica?.store.leadingTerm ?? 0;
    return leaders.toSorted((a, b) => termOf(b) - termOf(a))[0];
  }

  /** Asks a manager that believes to lead, now and then not the newest one. */
  #ask(
    method: Route["method"],
    path: string,
    request: {
      readonly params?: Readonly<Record<string, string>>;
      readonly query?: Readonly<Record<string, string>>;
      readonly body?: Record<string, unknown>;
    },
  ): Promise<Answer> {
    const { random, managers, schedule, trace } = this.#deps;
    const isWhole = this.#plan.extent === "whole";
    const manager = random.chance(isWhole ? 0.5 : 0.9) ? this.#leader() : random.pick(managers);
    const route = [...serviceRoutes, ...nodeRoutes, ...payloadRoutes].find(
      (each) => each.method === method && each.path === path,
    );
    const { main } = manager ?? {};
    if (manager === undefined || main === undefined || route === undefined)
      return Promise.resolve({ kind: "refused", text: "nobody leads" });
    this.requests += 1;
    const number = this.requests;
    trace.note("user", `asks ${number}`, manager.name, method, path, JSON.stringify(request));
    return new Promise((resolve) => {
      let isAnswered = false;
      const answer = (given: Answer): void => {
        if (isAnswered) return;
        isAnswered = true;
        trace.note("user", `answered ${number}`, given.kind, given.kind === "refused" ? given.text : "");
        if (given.kind === "done") this.acknowledged += 1;
        resolve(given);
      };
      const controller = new AbortController();
      schedule.after(answerTimeoutMs, () => {
        answer({ kind: "unknown" });
        main.run(() => controller.abort(new ClusterError("unavailable", "the caller has gone")));
      });
      const call: Call = {
        params: request.params ?? {},
        query: new URLSearchParams(request.query ?? {}),
        body: () => jsonObject(request.body ?? {}, ""),
        header: () => undefined,
        version: "1.50",
        life: controller.signal,
        signal: controller.signal,
      };
      main.run(() => {
        const { replica } = manager;
        if (replica === undefined) return answer({ kind: "refused", text: "still starting" });
        const handle = isWhole
          ? () => passOn(this.#deps, { manager, replica, route, call })
          : async () => route.handle(apiDeps(manager, replica, random, main.clock), call);
        void handle().then(
          (reply: Reply) => answer({ kind: "done", value: reply.kind === "json" ? reply.value : undefined }),
          (error: unknown) => answer(this.#failure(error)),
        );
      });
    });
  }

  #failure(error: unknown): Answer {
    if (!(error instanceof ClusterError)) {
      this.#deps.violate("a request failed unforeseen", String(error));
      return { kind: "unknown" };
    }
    const { code, message } = error;
    if (code === "invalid-argument" && this.#plan.extent === "whole" && expectedOfGoods.test(message))
      return { kind: "refused", text: message };
    if (code === "no-leader" && message !== noLeaderText) return { kind: "unknown" };
    if (expectedRefusals.includes(code)) return { kind: "refused", text: `${code}: ${message}` };
    if (code === "unavailable" || code === "deadline-exceeded" || code === "resource-exhausted")
      return { kind: "unknown" };
    this.#deps.violate("a sound request was refused", `${code}: ${message}`);
    return { kind: "refused", text: message };
  }
}
