/** The texts of a task's /etc/hosts, /etc/resolv.conf and /etc/hostname. */
import type { AttachRequest } from "./network.ts";
import type { ResolvConf } from "./upstream.ts";

const localHosts = `127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
`;

/** Stands for the host, wherever the task finds it. */
const hostWord = "host-gateway";

/** Whether a line of its hosts file is about the host. */
export function namesHost({ extraHosts }: Pick<AttachRequest, "extraHosts">): boolean {
  return extraHosts.some((line) => line.trim().split(/\s+/)[0] === hostWord);
}

/** @param gateway - Address of the host on its own bridge. */
function extraLines(
  { extraHosts }: Pick<AttachRequest, "extraHosts">,
  gateway: string,
): readonly (readonly string[])[] {
  return extraHosts
    .map((line) => line.trim().split(/\s+/))
    .map(([address = "", ...names]) => [address === hostWord ? gateway : address, ...names]);
}

/**
 * @param addresses - The task's own, no prefix length; each is known by its host name.
 * @param gateway - Address of the host on its own bridge.
 */
export function hostsText(
  request: Pick<AttachRequest, "hostname" | "domainname" | "extraHosts">,
  addresses: readonly string[],
  gateway: string,
): string {
  const { hostname, domainname = "" } = request;
  const extra = extraLines(request, gateway).filter(({ length }) => length > 1);
  const names = domainname === "" ? [hostname] : [`${hostname}.${domainname}`, hostname];
  const own = addresses.map((address) => [address, ...names]);
  return (
    localHosts + [...extra, ...own].map(([address, ...names]) => `${address}\t${names.join(" ")}\n`).join("")
  );
}

/** For a task that shares the host's namespace: what the host has, and what the task asked for. */
export function sharedHostsText(
  host: string,
  request: Pick<AttachRequest, "extraHosts">,
  gateway: string,
): string {
  const start = host === "" || host.endsWith("\n") ? host : `${host}\n`;
  return (
    start +
    extraLines(request, gateway)
      .map((words) => `${words.join("\t")}\n`)
      .join("")
  );
}

/**
 * @param gateway - Where our own resolver listens; absent when none does, so that the file names the
 *   task's resolvers, or the host's, directly.
 */
export function resolvConfText(
  { dns }: Pick<AttachRequest, "dns">,
  host: ResolvConf,
  gateway: string | undefined,
): string {
  const asked = dns?.nameservers ?? [];
  const nameservers = gateway !== undefined ? [gateway] : asked.length > 0 ? asked : host.nameservers;
  const search = (dns?.search.length ?? 0) > 0 ? (dns?.search ?? []) : host.search;
  const options = [...(dns?.options ?? [])];
  // A name with dots is a cluster's name as often as not, so it is asked as it stands first.
  if (gateway !== undefined && !options.some((option) => option.startsWith("ndots:")))
    options.push("ndots:0");
  const lines = nameservers.map((server) => `nameserver ${server}`);
  // A lone dot is how a user says that there is no search list.
  if (search.length > 0 && !(search.length === 1 && search[0] === "."))
    lines.push(`search ${search.join(" ")}`);
  if (options.length > 0) lines.push(`options ${options.join(" ")}`);
  return lines.map((line) => `${line}\n`).join("");
}
