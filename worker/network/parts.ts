/** What the network of a host is made of and told. */
import type { Clock } from "../../runtime/clock.ts";
import type { Random } from "../../runtime/random.ts";
import type { Run } from "./command.ts";
import type { Journal } from "./journal.ts";
import type { Namespaces } from "./namespace.ts";
import type { BridgeNetwork, WantedNetworks } from "./network.ts";
import type { PublishedPorts } from "./ports.ts";
import type { ProgramDeps } from "./program.ts";

export interface HostNetworkSettings {
  /** `HostSettings.runDir` */
  readonly runDir: string;
  /** CIDR of the host's own bridge, whose first address is the gateway. */
  readonly bridgeSubnet: string;
  /** Default "/etc/resolv.conf". */
  readonly resolvConf?: string;
  /** Default "/etc/hosts". */
  readonly hosts?: string;
  /** Bridge networks that users made, from their records; default none. */
  readonly bridges?: readonly BridgeNetwork[];
  /** How long keys of tunnels live; default: as `tunnel-keys.ts` says. */
  readonly tunnel?: NonNullable<ProgramDeps["settings"]["tunnel"]>;
}

export interface HostParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly run: Run;
  /** Trouble that fails no call, for the log. */
  readonly warn: (text: string) => void;
  readonly settings: Required<HostNetworkSettings>;
  readonly readText: (path: string) => Promise<string>;
  /** What this host's kernel can hold of what is wanted. */
  readonly fit: (wanted: WantedNetworks) => WantedNetworks;
  readonly journal: Journal;
  readonly namespaces: Namespaces;
  readonly ports: PublishedPorts;
  /** What starts commands, if it is this network's own. */
  readonly launcher: Disposable;
}
