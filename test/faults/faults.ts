import type { Random } from "../../runtime/random.ts";
import type { Host, Lab } from "../lab/lab.ts";
import { changeRoles } from "./roles.ts";

/** A lab in which one manager leads. */
export interface Scene {
  readonly lab: Lab;
  readonly leader: Host;
  readonly others: readonly Host[];
  readonly random: Random;
}

export interface Fault {
  /** Managers that must take writes while the fault is there; none when no quorum is left. */
  readonly serving: readonly Host[];
  /** Takes the fault away; everything works again some time later. */
  readonly heal: () => Promise<void>;
}

export interface FaultKind {
  readonly name: string;
  /** Fewest managers with which it is what its name says. */
  readonly managers: number;
  readonly begin: (scene: Scene) => Promise<Fault>;
}

const minority = (hosts: readonly Host[]): Host[] => hosts.slice(0, Math.floor(hosts.length / 2));
const nothing = async (): Promise<void> => undefined;

/** Kills one process on some hosts; what supervises it starts it again. */
function killProcess(
  name: "manager" | "shoald" | "worker",
  choose: (scene: Scene) => readonly Host[],
): FaultKind["begin"] {
  return async (scene) => {
    const victims = choose(scene);
    await Promise.all(victims.map((host) => host.signalProcess(name)));
    return { serving: without(scene, victims), heal: nothing };
  };
}

function cutPower(choose: (scene: Scene) => readonly Host[]): FaultKind["begin"] {
  return async (scene) => {
    const victims = choose(scene);
    await Promise.all(victims.map((host) => host.kill()));
    return {
      serving: without(scene, victims),
      heal: async () => void (await Promise.all(victims.map((host) => scene.lab.restart(host)))),
    };
  };
}

function pause(choose: (scene: Scene) => readonly Host[]): FaultKind["begin"] {
  return async (scene) => {
    const victims = choose(scene);
    await Promise.all(victims.map((host) => host.pause()));
    return {
      serving: without(scene, victims),
      heal: async () => void (await Promise.all(victims.map((host) => host.resume()))),
    };
  };
}

/** Cuts wires; each pair is a way from the first host to the second. */
function cutWires(
  plan: (scene: Scene) => {
    readonly ways: readonly (readonly [Host, Host])[];
    readonly serving: readonly Host[];
  },
): FaultKind["begin"] {
  return async (scene) => {
    const { ways, serving } = plan(scene);
    for (const [from, to] of ways) await scene.lab.lan.cut(from.addr, [to.addr]);
    return { serving, heal: () => scene.lab.heal() };
  };
}

/** Roles change while clients write; the fault is over once all are managers again. */
function stormOfRoles(choose: (scene: Scene) => readonly Host[]): FaultKind["begin"] {
  return async (scene) => {
    const changes = changeRoles(choose(scene), everyone(scene), scene.random);
    changes.catch(() => undefined); // It is told when the fault is taken away.
    return { serving: everyone(scene), heal: () => changes };
  };
}

const bothWays = (a: Host, b: Host): readonly (readonly [Host, Host])[] => [
  [a, b],
  [b, a],
];

const everyone = ({ leader, others }: Scene): readonly Host[] => [leader, ...others];
const without = (scene: Scene, victims: readonly Host[]): readonly Host[] => {
  const left = everyone(scene).filter((host) => !victims.includes(host));
  return left.length > everyone(scene).length / 2 ? left : [];
};

/** Every pair that does not hold the bridge is cut. */
function onlyThrough(bridge: Host, hosts: readonly Host[]): readonly (readonly [Host, Host])[] {
  const rest = hosts.filter((host) => host !== bridge);
  return rest.flatMap((a, at) => rest.slice(at + 1).flatMap((b) => bothWays(a, b)));
}

/**
 * The partial partitions are those of Ng, Haridi and Carbone (Omni-Paxos, EuroSys 2023); with three managers the first two
 * are plainer than with five.
 */
export const faultKinds: readonly FaultKind[] = [
  {
    name: "kill -9 of the leader's manager",
    managers: 1,
    begin: killProcess("manager", ({ leader }) => [leader]),
  },
  {
    name: "kill -9 of a follower's manager",
    managers: 3,
    begin: killProcess("manager", ({ others }) => others.slice(0, 1)),
  },
  { name: "kill -9 of all managers", managers: 1, begin: killProcess("manager", everyone) },
  {
    name: "kill -9 of the leader's shoald",
    managers: 1,
    begin: killProcess("shoald", ({ leader }) => [leader]),
  },
  { name: "power cut of the leader", managers: 3, begin: cutPower(({ leader }) => [leader]) },
  { name: "power cut of a minority", managers: 3, begin: cutPower((scene) => minority(everyone(scene))) },
  { name: "power cut of all", managers: 1, begin: cutPower(everyone) },
  { name: "pause of the leader", managers: 3, begin: pause(({ leader }) => [leader]) },
  { name: "pause of a follower", managers: 3, begin: pause(({ others }) => others.slice(0, 1)) },
  { name: "pause of all", managers: 1, begin: pause(everyone) },
  {
    name: "leader cut off",
    managers: 3,
    begin: cutWires(({ leader, others }) => ({
      ways: others.flatMap((host) => bothWays(leader, host)),
      serving: others,
    })),
  },
  {
    name: "leader heard by nobody",
    managers: 3,
    begin: cutWires(({ leader, others }) => ({
      ways: others.map((host) => [leader, host] as const),
      serving: others,
    })),
  },
  {
    name: "leader hears nobody",
    managers: 3,
    begin: cutWires(({ leader, others }) => ({
      ways: others.map((host) => [host, leader] as const),
      serving: others,
    })),
  },
  {
    name: "follower heard by nobody",
    managers: 3,
    begin: cutWires(({ leader, others: [first, ...rest] }) => ({
      ways: first === undefined ? [] : [leader, ...rest].map((host) => [first, host] as const),
      serving: [leader, ...rest],
    })),
  },
  {
    name: "quorum loss: all connected to one follower only",
    managers: 3,
    begin: cutWires((scene) => {
      const bridge = scene.others[0] as Host; // From three managers on there is one.
      return { ways: onlyThrough(bridge, everyone(scene)), serving: [bridge] };
    }),
  },
  {
    name: "constrained election: leader gone, the rest connected to one that lags",
    managers: 3,
    begin: async (scene) => {
      const [bridge, ...rest] = scene.others as [Host, ...Host[]]; // As above.
      const cut = async (ways: readonly (readonly [Host, Host])[]): Promise<void> => {
        for (const [from, to] of ways) await scene.lab.lan.cut(from.addr, [to.addr]);
      };
      await cut([...bothWays(scene.leader, bridge), ...rest.flatMap((host) => bothWays(host, bridge))]);
      await new Promise((resolve) => setTimeout(resolve, lagMs));
      await scene.lab.heal();
      await cut([
        ...scene.others.flatMap((host) => bothWays(scene.leader, host)),
        ...onlyThrough(bridge, scene.others),
      ]);
      return { serving: [bridge], heal: () => scene.lab.heal() };
    },
  },
  {
    name: "chained: each connected to its neighbours only",
    managers: 3,
    begin: cutWires((scene) => {
      const chain = [scene.leader, ...scene.others];
      const ways = chain.flatMap((a, at) => chain.slice(at + 2).flatMap((b) => bothWays(a, b)));
      return { ways, serving: [chain[Math.floor(chain.length / 2)] as Host] };
    }),
  },
  {
    name: "followers demoted and promoted again and again",
    managers: 3,
    begin: stormOfRoles(({ others }) => others),
  },
  { name: "managers demoted and promoted again and again", managers: 3, begin: stormOfRoles(everyone) },
];

/** While the others write on without it, so that the bridge's log is behind. */
const lagMs = 500;
