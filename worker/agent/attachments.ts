/**
 * Containers of this host that are no tasks, on networks of the cluster. What they ask for goes to the managers as one list,
 * at the start of every session and whenever it changes; what they are given comes with the assignments.
 * See docs/decisions/0076.
 */
import { withoutPrefix } from "../../model/address.ts";
import { ClusterError, type ErrorCode, errorCodes } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import type {
  AssignedAttachment,
  AssignedNetwork,
  AttachmentRefusal,
  WantedAttachment,
} from "../../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../../runtime/clock.ts";
import { withIpv6 } from "./assignment.ts";
import { newId, type Random } from "../../runtime/random.ts";

/** Longest that a container waits for managers, its address and its network on this host; as with Docker. */
export const attachTimeoutMs = 20_000;
const timeoutText =
  "attaching to network failed, make sure your network options are correct and check manager logs: context deadline exceeded";
/** How gRPC calls what Docker's users read of. */
const codeWords: Readonly<Partial<Record<ErrorCode, string>>> = {
  "not-found": "NotFound",
  "permission-denied": "PermissionDenied",
};

/** What a container asks for. */
export interface AttachmentWish {
  readonly containerId: string;
  /** Id or name. */
  readonly network: string;
  /** What others on the network know it by, its own name first. */
  readonly names: readonly string[];
  /** No prefix length; empty for any. */
  readonly address: string;
  /** As `address`, of IPv6; absent for any. */
  readonly ipv6?: string;
}

/** What it has. */
export interface AttachmentPlace {
  readonly networkId: NetworkId;
  readonly networkName: string;
  /** CIDR form. */
  readonly address: string;
  /** As `address`; absent on networks without IPv6. */
  readonly ipv6?: string;
}

/** A place that a container had is not its own any more, and it has to leave the network. */
export interface LostPlace {
  readonly containerId: string;
  readonly networkId: NetworkId;
  readonly reason: string;
}

interface Waiter {
  readonly given: (place: AttachmentPlace) => void;
  readonly failed: (reason: Error) => void;
}

interface Want {
  /** Answers name it: those to an earlier one of the same container are not for this one. */
  readonly attempt: string;
  readonly containerId: string;
  readonly network: string;
  names: readonly string[];
  readonly address: string;
  readonly ipv6?: string;
  place: AttachmentPlace | undefined;
  readonly waiters: Set<Waiter>;
}

type Send = (list: WantedAttachment[]) => void;

export class Attachments {
  readonly #clock: Clock;
  readonly #random: Random;
  #wants: Want[] = [];
  /** `unknown` until shoald has said whether this host is in a cluster. */
  #membership: "unknown" | "outside" | { readonly send: Send } = "unknown";
  #onLost: (lost: LostPlace) => void = () => undefined;

  constructor({ clock, random }: { readonly clock: Clock; readonly random: Random }) {
    this.#clock = clock;
    this.#random = random;
  }

  /** One listener: whoever runs the containers. */
  onLost(listener: (lost: LostPlace) => void): void {
    this.#onLost = listener;
  }

  /** False where there are no networks of a cluster. */
  get isMember(): boolean {
    return this.#membership !== "outside";
  }

  /** This host is in a cluster. @param send - Called with every list while the membership lasts. */
  join(send: Send): void {
    this.#membership = { send };
  }

  /** The agent ends; whether the host is in a cluster is for the next one to say. */
  pause(): void {
    this.#membership = "unknown";
  }

  /** This host is in no cluster: nobody gives any place. */
  leave(): void {
    this.#membership = "outside";
    const wants = this.#wants;
    this.#wants = wants.filter(({ place }) => place !== undefined);
    for (const { network, waiters } of wants) for (const { failed } of waiters) failed(notFound(network));
  }

  /** All that this host asks for. */
  list(): WantedAttachment[] {
    return this.#wants.map(({ attempt, containerId, network, names, address, ipv6 = "", place }) => ({
      attempt,
      containerId,
      network: place?.networkId ?? network,
      names: [...names],
      address: place === undefined ? address : withoutPrefix(place.address),
      ipv6: place === undefined ? ipv6 : withoutPrefix(place.ipv6 ?? ""),
    }));
  }

  /**
   * A place on a network of the cluster, once this host has the network. Asked for what it has already, it only tells its names.
   *
   * @throws {ClusterError} in Docker's words: `not-found`, `permission-denied`, `deadline-exceeded`, …; the signal's reason.
   */
  async attach(wish: AttachmentWish, signal: AbortSignal): Promise<AttachmentPlace> {
    const { containerId, network, names } = wish;
    if (!this.isMember) throw notFound(network);
    signal.throwIfAborted();
    let want = this.#find(containerId, network);
    if (want === undefined) {
      want = this.#add(wish, undefined);
    } else if (!sameList(want.names, names)) {
      want.names = names;
      this.#tell();
    }
    return want.place ?? (await this.#given(want, signal));
  }

  /** Undefined for a network that the container has no place on. @param network - Id or name. */
  find(containerId: string, network: string): AttachmentPlace | undefined {
    return this.#find(containerId, network)?.place;
  }

  /** Gives back all that the container has elsewhere; it must have left those networks. */
  keep(containerId: string, networkIds: ReadonlySet<string>): void {
    const kept = this.#wants.filter(
      (want) =>
        want.containerId !== containerId ||
        want.waiters.size > 0 ||
        (want.place !== undefined && networkIds.has(want.place.networkId)),
    );
    if (kept.length === this.#wants.length) return;
    this.#wants = kept;
    this.#tell();
  }

  /** What a container that runs on has from before this process. */
  adopt(containerId: string, names: readonly string[], place: AttachmentPlace): void {
    const { networkId: network, address } = place;
    if (this.#find(containerId, network) !== undefined) return;
    this.#add({ containerId, network, names, address: withoutPrefix(address) }, place);
  }

  /** What the managers have given, of networks that this host has by now. */
  assigned(given: Iterable<AssignedAttachment>, networks: ReadonlyMap<string, AssignedNetwork>): void {
    for (const assigned of given) {
      const { attempt, networkId, address, ipv6 } = withIpv6(assigned);
      const networkName = networks.get(networkId)?.name;
      const want = this.#wants.find((each) => each.attempt === attempt);
      if (want === undefined || networkName === undefined) continue;
      const place = { address, ...(ipv6 !== undefined && { ipv6 }) };
      if (want.place !== undefined && (want.place.address !== address || want.place.ipv6 !== ipv6)) {
        this.#lose(
          want,
          `its address on network ${networkName} is ${Object.values(place).join(" and ")} now`,
        );
        continue;
      }
      want.place = { networkId: networkId as NetworkId, networkName, ...place };
      for (const waiter of want.waiters) waiter.given(want.place);
    }
  }

  refused({ attempt, code, message }: AttachmentRefusal): void {
    const want = this.#wants.find((each) => each.attempt === attempt);
    if (want === undefined) return; // Of an earlier attempt.
    const error = refusalError(want.network, code, message);
    if (want.place !== undefined) return this.#lose(want, error.message);
    for (const waiter of want.waiters) waiter.failed(error);
  }

  #lose(want: Want, reason: string): void {
    this.#drop(want);
    const { containerId, place } = want;
    if (place !== undefined) this.#onLost({ containerId, networkId: place.networkId, reason });
  }

  #given(want: Want, signal: AbortSignal): Promise<AttachmentPlace> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        cancel();
        signal.removeEventListener("abort", onAbort);
        want.waiters.delete(waiter);
      };
      const waiter: Waiter = {
        given: (place) => {
          settle();
          resolve(place);
        },
        failed: (reason) => {
          settle();
          if (want.waiters.size === 0) this.#drop(want);
          reject(reason);
        },
      };
      const onAbort = (): void => waiter.failed(signal.reason as Error);
      const cancel = this.#clock.after(attachTimeoutMs, () =>
        waiter.failed(new ClusterError("deadline-exceeded", timeoutText)),
      );
      signal.addEventListener("abort", onAbort, { once: true });
      want.waiters.add(waiter);
    });
  }

  #add(wish: AttachmentWish, place: AttachmentPlace | undefined): Want {
    const want: Want = { ...wish, attempt: newId(this.#random), place, waiters: new Set() };
    this.#wants.push(want);
    this.#tell();
    return want;
  }

  #find(containerId: string, network: string): Want | undefined {
    return this.#wants.find(
      (want) =>
        want.containerId === containerId &&
        (want.network === network ||
          want.place?.networkId === network ||
          want.place?.networkName === network),
    );
  }

  #drop(want: Want): void {
    const index = this.#wants.indexOf(want);
    if (index < 0) return;
    this.#wants.splice(index, 1);
    this.#tell();
  }

  #tell(): void {
    if (typeof this.#membership === "object") this.#membership.send(this.list());
  }
}

function refusalError(network: string, code: string, message: string): ClusterError {
  const known: ErrorCode = Object.hasOwn(errorCodes, code) ? (code as ErrorCode) : "internal";
  const word = codeWords[known];
  const text = word === undefined ? message : `rpc error: code = ${word} desc = ${message}`;
  // An address that is taken is forbidden to others, as on networks of the host.
  return new ClusterError(
    known === "conflict" ? "permission-denied" : known,
    `Could not attach to network ${network}: ${text}`,
  );
}

function notFound(network: string): ClusterError {
  return new ClusterError("not-found", `network ${network} not found`);
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((each, index) => each === b[index]);
}
