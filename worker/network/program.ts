/**
 * Brings this host's kernel to one state, each part before what depends on it: tunnels, devices and routes, ports of the mesh,
 * rules, names. What should be is decided elsewhere; here it is only made so, and looked at.
 */
import { errorText } from "../../model/errors.ts";
import type { TaskId } from "../../model/ids.ts";
import { subnetsOf } from "../../model/network.ts";
import type { Clock } from "../../runtime/clock.ts";
import { Coexistence } from "./coexist.ts";
import type { Run } from "./command.ts";
import type { NameServer } from "./dns.ts";
import type { ExamineState } from "./examine.ts";
import { Fabric } from "./fabric.ts";
import { Flows } from "./flows.ts";
import type { TaskRecord } from "./journal.ts";
import { MeshPorts } from "./mesh.ts";
import type { BridgeNetwork, HostOffer, OverlayNetwork, WantedNetworks } from "./network.ts";
import { Rules } from "./nftables.ts";
import { bridgeName, type HostState, type LocalPort } from "./objects.ts";
import type { PublishedPorts } from "./ports.ts";
import { hasNetworks, rulesetOf } from "./rules.ts";
import { type Family, type Ruleset, rulesTables } from "./ruleset.ts";
import { some, type Trouble, troubleWithAll } from "./trouble.ts";
import { Tunnel } from "./tunnel.ts";
import type { TunnelDeps } from "./tunnel.ts";
import {
  encryptedNetworks,
  tunnelAddressOf,
  tunnelHosts,
  tunnelRules,
  tunnelTable,
  wantedTunnel,
} from "./tunnel-plan.ts";
import type { WantedTunnel } from "./tunnel-plan.ts";
import { type HostRoutes, HostSubnets } from "./host-subnets.ts";
import { noOverlaps, type Overlaps, overlapsOf, withoutOverlaps } from "./overlaps.ts";
import { OwnAddresses } from "./own-addresses.ts";
import { gatewaysOf, ipv6RulesOf, meshPorts, rulesOf } from "./views.ts";

export interface ProgramDeps {
  readonly clock: Clock;
  readonly run: Run;
  /** Trouble that fails no call, for the log. */
  readonly warn: (text: string) => void;
  readonly settings: {
    readonly runDir: string;
    readonly tunnel?: Pick<TunnelDeps, "overlapMs" | "periodMs">;
  };
  readonly ports: PublishedPorts;
  /** Empty for a file that is not there. */
  readonly readText: (path: string) => Promise<string>;
  readonly names: NameServer;
  /** Default: those of this process's network namespace. */
  readonly readHostRoutes?: () => Promise<HostRoutes>;
}

/** What a look found. */
export interface Seen {
  /** What was not as it was left, in words. */
  readonly found: readonly string[];
  /** Links that are gone as a whole, to be made anew before the state is brought about again. */
  readonly lost: readonly LocalPort[];
  readonly trouble: readonly string[];
}

export class Program {
  readonly tunnel: Tunnel;
  readonly subnets: HostSubnets;
  readonly #addresses = new OwnAddresses();
  readonly #fabric: Fabric;
  readonly #rules: Rules;
  /** Those of IPv6, loaded while a network has it. */
  readonly #ipv6Rules: Rules;
  #hasIpv6 = false;
  /** Loaded before an encrypted network is there, and until it is gone. */
  readonly #guard: Rules;
  readonly #coexistence: Coexistence;
  /** Families whose first devices other people's firewalls were asked to let pass; from then on looks see to it. */
  readonly #admitted = new Set<Family>();
  readonly #mesh: MeshPorts;
  readonly #flows: Flows;
  readonly #names: NameServer;
  readonly #warn: (text: string) => void;
  #guarded: readonly number[] = [];
  #refusal = "";
  #overlaps: {
    readonly of: readonly unknown[];
    readonly overlaps: Overlaps;
  } = { of: [], overlaps: noOverlaps };
  #overlapsSaid = "";

  constructor(deps: ProgramDeps) {
    const { clock, run, settings, names, warn } = deps;
    const file = (name: string): string => `${settings.runDir}/network/${name}`;
    this.tunnel = new Tunnel({ clock, run, directory: file("tunnel"), ...settings.tunnel });
    this.subnets = new HostSubnets(deps.readHostRoutes);
    this.#fabric = new Fabric({ ...deps, onObserved: (observed) => this.#addresses.note(observed) });
    this.#rules = new Rules({ clock, run, file: file("rules.nft") });
    this.#ipv6Rules = new Rules({ clock, run, file: file("rules6.nft"), table: rulesTables.ip6 });
    this.#guard = new Rules({ clock, run, file: file("tunnel.nft"), table: tunnelTable });
    this.#coexistence = new Coexistence(deps);
    this.#mesh = new MeshPorts(deps);
    this.#flows = new Flows(deps);
    this.#names = names;
    this.#warn = warn;
  }

  /** @param bridges - Of this host alone, so that they are not taken for the host's. */
  async open(bridges: readonly BridgeNetwork[]): Promise<void> {
    await this.subnets.look(bridges);
    await this.#fabric.open();
    await this.tunnel.open();
  }

  get offer(): HostOffer {
    return { tunnel: this.tunnel.offer, ipv6Addresses: this.#addresses.ipv6, subnets: this.subnets.told };
  }

  /** Calls back after each change of `offer`. @returns a function that ends the watching. */
  watch(listener: () => void): () => void {
    const ends = [this.tunnel, this.#addresses, this.subnets].map((each) => each.watch(listener));
    return () => ends.forEach((end) => end());
  }

  close(): void {
    this.#flows.close();
  }

  /** Why those of the mesh's ports that this host does not publish are not. */
  get refusedPorts(): ReadonlyMap<string, string> {
    return this.#mesh.refused;
  }

  underlayMtu(wanted: WantedNetworks | undefined): Promise<number> {
    return this.#fabric.underlayMtu(wanted);
  }

  /** As `Fabric.makeRoom`. */
  makeRoom(devices: readonly string[]): Promise<void> {
    return this.#fabric.makeRoom(devices);
  }

  /** Why this host can be on no encrypted network; undefined: it can. */
  tunnelProblem(wanted: WantedNetworks | undefined): string | undefined {
    const { keys, problem } = this.tunnel.offer;
    if (keys.length === 0) return problem;
    return wanted?.self.nodeIndex === undefined ? "the managers have not told its number yet" : undefined;
  }

  /** Before an overlay comes, the host's own subnets are read anew. */
  async lookFor(
    next: readonly OverlayNetwork[],
    before: readonly OverlayNetwork[] | undefined,
    bridges: readonly BridgeNetwork[],
  ): Promise<void> {
    const known = new Set(before?.map(({ id }) => id));
    if (next.some(({ id }) => !known.has(id))) await this.subnets.look(bridges);
  }

  /** The overlays wanted that this host cannot have, as it has their addresses otherwise. @param bridges - Of this host alone. */
  overlaps(wanted: WantedNetworks | undefined, bridges: readonly BridgeNetwork[]): Overlaps {
    const of = [wanted, this.subnets.blocks, bridges];
    if (of.some((each, index) => each !== this.#overlaps.of[index])) {
      const overlaps = overlapsOf(wanted?.networks ?? [], this.subnets.blocks, bridges);
      this.#overlaps = { of, overlaps };
    }
    return this.#overlaps.overlaps;
  }

  /**
   * What can be made of what is wanted, and that is said once: networks that would take what the host has of its own are left
   * out, and where there are no tunnels, encrypted ones, so that nothing of theirs leaves in clear and the others go on.
   */
  possible(all: WantedNetworks | undefined, bridges: readonly BridgeNetwork[]): WantedNetworks | undefined {
    const overlaps = this.overlaps(all, bridges);
    const said = [...overlaps.values()].join("; ");
    if (said !== "" && said !== this.#overlapsSaid) this.#warn(said);
    this.#overlapsSaid = said;
    const wanted = all && withoutOverlaps(all, overlaps);
    const problem = this.tunnelProblem(wanted);
    const encrypted = encryptedNetworks(wanted);
    if (wanted === undefined || problem === undefined || encrypted.length === 0) return wanted;
    const refusal = `this host is not on ${encrypted.map(({ name }) => name).join(", ")}, which is encrypted: ${problem}`;
    if (refusal !== this.#refusal) this.#warn(refusal);
    this.#refusal = refusal;
    return { ...wanted, networks: wanted.networks.filter((network) => !encrypted.includes(network)) };
  }

  /** Where encrypted networks leave this host. */
  tunnelOf(wanted: WantedNetworks | undefined, underlayMtu: number): Pick<HostState, "tunnel"> {
    const [device] = this.#wantedTunnel(wanted, underlayMtu)?.devices ?? [];
    if (wanted === undefined || device === undefined) return {};
    const remotes = tunnelHosts(wanted).flatMap((host) => {
      const inside = tunnelAddressOf(host);
      return inside === undefined ? [] : [[host.nodeId, inside] as const];
    });
    return { tunnel: { device: device.name, remotes: new Map<string, string>(remotes) } };
  }

  /** What `examine.ts` needs to try the tunnels; undefined where there are none. */
  async tunnelState(
    wanted: WantedNetworks | undefined,
    underlayMtu: number,
  ): Promise<ExamineState["tunnel"]> {
    const [device] = this.#wantedTunnel(wanted, underlayMtu)?.devices ?? [];
    if (device === undefined) return undefined;
    return { device: device.name, mtu: device.mtu, heard: await this.tunnel.heard() };
  }

  #wantedTunnel(wanted: WantedNetworks | undefined, underlayMtu: number): WantedTunnel | undefined {
    const { keys } = this.tunnel.offer;
    return keys.length === 0 ? undefined : wantedTunnel(wanted, keys, underlayMtu);
  }

  /**
   * Tries everything; what failed is said by whom it concerns.
   *
   * @param bridges - Those that users made.
   * @param dying - As `Fabric.sync`.
   */
  async bringAbout(
    state: HostState,
    {
      records,
      bridges: own,
      dying,
    }: {
      readonly records: ReadonlyMap<TaskId, TaskRecord>;
      readonly bridges: readonly BridgeNetwork[];
      readonly dying: ReadonlySet<string>;
    },
  ): Promise<Trouble> {
    try {
      const { wanted } = state;
      const tunnels = this.#wantedTunnel(wanted, state.underlayMtu);
      const vnis = encryptedNetworks(wanted).map(({ vni }) => vni);
      if (vnis.length > 0) await this.#guard.load(tunnelRules([...new Set([...this.#guarded, ...vnis])]));
      const sealed = tunnels === undefined ? [] : await this.tunnel.raise(tunnels);
      const { tasks, bridges: refused, networks, rest, absent } = await this.#fabric.sync(state, dying);
      // Before anybody said what is wanted, all stays.
      const untrimmed = wanted === undefined ? [] : await this.tunnel.trim(tunnels);
      if (vnis.length > 0) await this.#guard.load(tunnelRules(vnis));
      else if (wanted !== undefined) await this.#guard.unload();
      this.#guarded = vnis;
      const mesh = await this.#mesh.hold(meshPorts(wanted));
      const made = madeOf(state, absent);
      const rules = rulesOf(made, records, mesh);
      const ruleset = rulesetOf(rules);
      await this.#rules.load(ruleset);
      const ipv6Rules = ipv6RulesOf(made, records, mesh);
      await this.#ruleIpv6(rulesetOf(ipv6Rules, "ip6"), wanted);
      if (hasNetworks(ruleset)) await this.#admitFirst();
      await this.#flows.follow({
        services: [...rules.services, ...ipv6Rules.services],
        mesh: [...rules.mesh, ...ipv6Rules.mesh],
        ports: rules.ports,
      });
      const gateways = await this.#names.listen(gatewaysOf(made));
      const unheard = new Map(refused);
      for (const { id, gateway } of own) {
        const failure = gateways.get(gateway);
        if (failure !== undefined && !unheard.has(id)) unheard.set(id, failure.message);
      }
      const overlays = new Map<string, string>();
      for (const network of wanted?.networks ?? []) {
        const silent = subnetsOf(network).flatMap(({ gateway }) => gateways.get(gateway)?.message ?? []);
        const tunnel = network.encrypted === true ? sealed : [];
        const texts = [...tunnel, ...(networks.get(network.id) ?? silent)];
        if (texts.length > 0) overlays.set(network.id, some(texts));
      }
      return { overlays, rest: [...rest, ...untrimmed], tasks, gateways, bridges: unheard };
    } catch (reason) {
      return troubleWithAll(reason);
    }
  }

  /** What another's firewall drops, a first task would lose until the first look, seconds later. */
  async #admitFirst(): Promise<void> {
    const first = this.#families.filter((family) => !this.#admitted.has(family));
    if (first.length === 0) return;
    for (const family of first) this.#admitted.add(family);
    try {
      await this.#rules.survey();
      for (const family of first) await this.#coexistence.admit(this.#rules.foreign, family);
    } catch {
      // The next look tries again, and says what it cannot mend.
    }
  }

  get #families(): readonly Family[] {
    return this.#hasIpv6 ? ["ip", "ip6"] : ["ip"];
  }

  async #ruleIpv6(rules: Ruleset, wanted: WantedNetworks | undefined): Promise<void> {
    const had = this.#hasIpv6;
    this.#hasIpv6 = hasNetworks(rules);
    if (this.#hasIpv6) await this.#ipv6Rules.load(rules);
    // Before anybody said what is wanted, what a former process loaded stays.
    else if (had || wanted !== undefined) await this.#ipv6Rules.unload();
  }

  /**
   * Reads the kernel, whatever is remembered, one part after another; between two of them it may be changed. Settings that
   * differ are mended here, all else by the next `bringAbout`.
   *
   * @returns what was seen of each part, with ports of the first alone.
   * @throws {ClusterError} when the kernel cannot be read.
   */
  async *look(state: HostState): AsyncGenerator<Seen> {
    yield { trouble: [], ...(await this.#fabric.look(state)) };
    for (const part of [this.#rules, this.#ipv6Rules, this.#guard, this.tunnel]) {
      const found = await part.look();
      if (part === this.#rules && found.length > 0) this.#flows.startOver();
      yield { found, lost: [], trouble: [] };
    }
    for (const family of this.#families) {
      try {
        yield { found: await this.#coexistence.admit(this.#rules.foreign, family), lost: [], trouble: [] };
      } catch (reason) {
        // Without iptables, or while it is busy, the rest is mended all the same.
        yield { found: [], lost: [], trouble: [errorText(reason)] };
      }
    }
  }
}

/** Without networks whose device is somebody else's: nothing may be done to that. */
function madeOf(state: HostState, absent: ReadonlySet<string>): HostState {
  const { wanted, bridges } = state;
  return {
    ...state,
    wanted: wanted && {
      ...wanted,
      networks: wanted.networks.filter((each) => !absent.has(bridgeName(each))),
    },
    bridges: bridges.filter(({ device }) => !absent.has(device)),
  };
}
