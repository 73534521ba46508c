/** Which findings of the network doctor follow from which: the cause first, what follows from it below, without advice of its own. */
import { compareHostnames } from "./hostname.ts";

export interface DoctorFinding {
  readonly Host: string;
  readonly Test: string;
  /** Hostname of the other end; empty where there is none. */
  readonly Peer: string;
  readonly Subject: string;
  readonly State: "broken" | "unknown";
  readonly Text: string;
  /** What to do, where the user can do something: a command line, and on which host. */
  readonly Next: string;
  /** It follows from the nearest finding above that does not. */
  readonly Follows: boolean;
}

/** What explains other things comes before them. */
const order = ["address", "answer", "kernel", "reach", "mtu", "tunnel", "vxlan", "dns", "vip", "port"];

/** A service's tasks by the hostnames of the nodes where they run. */
export type HostsOf = (service: string) => ReadonlySet<string>;

/** Causes, the worst first and then by host; below each what follows from it. */
export function byCause(findings: readonly DoctorFinding[], hostsOf: HostsOf): DoctorFinding[] {
  const sorted = findings.toSorted(
    (a, b) =>
      weight(a) - weight(b) ||
      compareHostnames(a.Host, b.Host) ||
      compareHostnames(a.Peer, b.Peer) ||
      compareHostnames(a.Subject, b.Subject),
  );
  const known: Known = { byPair: new Map(), cuts: new Map(), silent: new Map() };
  const rootOf = new Map<DoctorFinding, DoctorFinding>();
  const followers = new Map<DoctorFinding, DoctorFinding[]>();
  for (const finding of sorted) {
    // What explains a finding comes before it in this order, so that its own root is known.
    const cause = finding.State === "broken" ? causeOf(finding, known, hostsOf) : undefined;
    const root = (cause && rootOf.get(cause)) ?? finding;
    rootOf.set(finding, root);
    if (root === finding) followers.set(root, []);
    else followers.get(root)?.push({ ...finding, Next: "", Follows: true });
    learn(known, finding);
  }
  return [...followers].flatMap(([root, below]) => [root, ...below]);
}

/** Looked up by name: in a large cluster without its network there are a great many findings. */
interface Known {
  /** What is broken between two hosts. */
  readonly byPair: Map<string, DoctorFinding[]>;
  /** What is cut at each end of a way; few beside the hosts that a service may have. */
  readonly cuts: Map<string, { readonly cause: DoctorFinding; readonly other: string }[]>;
  /** Hosts that do not answer. */
  readonly silent: Map<string, DoctorFinding>;
}

function learn({ byPair, cuts, silent }: Known, finding: DoctorFinding): void {
  const { Host, Peer, State, Test } = finding;
  if (State !== "broken") return;
  if (Test === "answer") silent.set(Host, finding);
  if (Peer === "") return;
  append(byPair, pairOf(Host, Peer), finding);
  if (!cutting.includes(Test)) return;
  append(cuts, Host, { cause: finding, other: Peer });
  append(cuts, Peer, { cause: finding, other: Host });
}

const cutting = ["reach", "vxlan"];

function append<T>(lists: Map<string, T[]>, key: string, item: T): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [item]);
  else list.push(item);
}

function pairOf(a: string, b: string): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`;
}

function causeOf(finding: DoctorFinding, known: Known, hostsOf: HostsOf): DoctorFinding | undefined {
  const { Host, Peer, Test, Subject, Text } = finding;
  if (Peer !== "") {
    // A host that is away for the managers as well: nothing on the way to it is to blame.
    const away = known.silent.get(Peer);
    return away ?? known.byPair.get(pairOf(Host, Peer))?.find((cause) => explains(cause, finding));
  }
  if ((Test !== "vip" && Test !== "port") || isUnpublished(Test, Text)) return undefined;
  // It is asked at one end of a broken way, and the service has a task at the other.
  const hosts = hostsOf(serviceOf(Test, Subject));
  return known.cuts.get(Host)?.find(({ other }) => hosts.has(other))?.cause;
}

/** Of two that are about the same pair of hosts. */
function explains(cause: DoctorFinding, { Test }: DoctorFinding): boolean {
  switch (cause.Test) {
    case "reach":
      return true;
    case "mtu":
      return cause.Subject === "" && Test === "mtu";
    default:
      return cause.Test === Test;
  }
}

function weight({ State, Test }: DoctorFinding): number {
  return (State === "broken" ? 0 : order.length) + Math.max(0, order.indexOf(Test));
}

/**
 * The host itself could not take the port, so nothing on the way to it is to blame. Workers say it in words alone
 * (`worker/network/mesh.ts`), and nowhere else is anything decided on these.
 */
export function isUnpublished(test: string, text: string): boolean {
  return test === "port" && text.includes("is not published on this host");
}

/** Of "web on network front" or "80/tcp of web". */
export function serviceOf(test: string, subject: string): string {
  return subject.split(" ")[test === "port" ? 2 : 0] ?? "";
}
