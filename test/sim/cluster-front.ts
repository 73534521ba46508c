import type { Call, Reply, Route } from "../../manager/api/call.ts";
import type { ApiDeps } from "../../manager/api/deps.ts";
import { forwardUnlessLeader } from "../../manager/api/forward.ts";
import { ClusterError, noLeaderText, outcomeUnknownText } from "../../model/errors.ts";
import { silentLog } from "../../runtime/log.ts";
import type { SimManager } from "./cluster-manager.ts";
import type { ClusterWire } from "./cluster-wire.ts";
import type { Schedule, SimRandom } from "./raft-schedule.ts";
import { anyOf } from "../../runtime/signal.ts";

/** How long a manager waits for the connection to another one. */
const connectTimeoutMs = 1_000;

interface FrontDeps {
  readonly schedule: Schedule;
  readonly random: SimRandom;
  readonly wire: ClusterWire;
  readonly managers: readonly SimManager[];
}

interface Asked {
  readonly manager: SimManager;
  readonly replica: NonNullable<SimManager["replica"]>;
  readonly route: Route;
  readonly call: Call;
}

/** What the handlers of a manager see of it. */
export function apiDeps(
  { nodeId }: SimManager,
  replica: Asked["replica"],
  random: SimRandom,
  clock: ApiDeps["clock"],
): ApiDeps {
  return {
    store: replica.store,
    clock,
    random,
    log: silentLog,
    nodeId,
    cluster: {
      isLeader: () => replica.isLeader,
      leaderAddress: () => replica.leaderAddress,
      leaderId: () => replica.leaderId,
      readBarrier: (signal) => replica.readBarrier(signal),
      reachable: (id) => replica.isReachable(id),
      rotateDataKey: (signal) => replica.group.rotateDataKey(signal),
    },
    forward: () => Promise.reject(new ClusterError("no-leader", noLeaderText)),
    logs: () => {
      throw new ClusterError("unavailable", "there is no telemetry here");
    },
    checkNetworks: () => Promise.reject(new ClusterError("unavailable", "there is no telemetry here")),
    joinTokens: { rotate: () => {} },
  };
}

/** A write at whichever manager it comes to: carried out where that leads, passed on to the leader where not. */
export async function passOn(deps: FrontDeps, { manager, replica, route, call }: Asked): Promise<Reply> {
  const { main } = manager;
  if (main === undefined) throw new ClusterError("unavailable", "the manager has ended");
  const own = apiDeps(manager, replica, deps.random, main.clock);
  /** What the leader answered; its refusals are answers too, and are not tried again. */
  let answered: { readonly reply: Reply } | { readonly refusal: unknown } | undefined;
  const forward: ApiDeps["forward"] = async (_request, signal) => {
    const leading = deps.managers.find(({ name }) => replica.leaderAddress === `${name}:0`);
    answered = await carry(deps, manager, leading, (at) => askThere(deps, at, route, call), {
      signal: anyOf(signal, replica.leaderReplaced).signal,
    });
    return { status: 200, headers: {}, body: Buffer.alloc(0) };
  };
  const empty = () => ({ method: route.method, url: route.path, headers: {}, body: Buffer.alloc(0) });
  const passed = await forwardUnlessLeader({ ...own, forward }, empty, call);
  if (passed === undefined || answered === undefined) return route.handle(own, call);
  if ("refusal" in answered) throw answered.refusal;
  return answered.reply;
}

type Answered = { readonly reply: Reply } | { readonly refusal: unknown };

/** One that does not lead says so instead, which is as if nobody had been asked. */
async function askThere(deps: FrontDeps, at: SimManager, route: Route, call: Call): Promise<Answered> {
  const { replica, main } = at;
  if (replica?.isLeader !== true || main === undefined) throw new ClusterError("no-leader", noLeaderText);
  try {
    return { reply: await route.handle(apiDeps(at, replica, deps.random, main.clock), call) };
  } catch (refusal) {
    return { refusal };
  }
}

/** There and back over the wire. What gets lost on the way there was not asked; on the way back, nobody knows. */
function carry<R>(
  { schedule, wire }: FrontDeps,
  from: SimManager,
  to: SimManager | undefined,
  ask: (at: SimManager) => Promise<R>,
  { signal }: { readonly signal: AbortSignal },
): Promise<R> {
  return new Promise((resolve, reject) => {
    const here = from.main;
    const there = to?.main;
    const unreached = (): void => reject(new ClusterError("no-leader", noLeaderText));
    if (here === undefined || to === undefined || there === undefined || wire.isCut(from.name, to.name)) {
      schedule.after(connectTimeoutMs, () => here?.run(unreached));
      return;
    }
    signal.addEventListener(
      "abort",
      () => reject(new ClusterError("unavailable", outcomeUnknownText, { cause: signal.reason })),
      { once: true },
    );
    const back = (answer: () => void): void => {
      schedule.after(wire.latencyBetween(from.name, to.name), () => {
        if (!wire.isCut(to.name, from.name)) here.run(answer);
      });
    };
    schedule.after(wire.latencyBetween(from.name, to.name), () =>
      there.run(() => {
        ask(to).then(
          (value) => back(() => resolve(value)),
          (error: unknown) => back(() => reject(error)),
        );
      }),
    );
  });
}
