/** Texts of the files that every container gets: /etc/hosts, /etc/resolv.conf, /etc/hostname. Pure. */

export interface HostsInput {
  /** The host's own file on the host's network, else empty. */
  readonly base: string;
  /** "IP name alias…" lines. */
  readonly lines: readonly string[];
  readonly entries: readonly { readonly address: string; readonly names: readonly string[] }[];
}

const loopbackLines = [
  "127.0.0.1\tlocalhost",
  "::1\tlocalhost ip6-localhost ip6-loopback",
  "fe00::0\tip6-localnet",
  "ff00::0\tip6-mcastprefix",
  "ff02::1\tip6-allnodes",
  "ff02::2\tip6-allrouters",
];

export function hostsText({ base, lines, entries }: HostsInput): string {
  const first = base === "" ? loopbackLines : [base.trimEnd()];
  const given = lines.map((line) => {
    const [address = "", ...names] = line.trim().split(/\s+/);
    return `${address}\t${names.join(" ")}`;
  });
  const own = entries.map(({ address, names }) => `${address}\t${names.join(" ")}`);
  return `${[...first, ...given, ...own].join("\n")}\n`;
}

export interface ResolverSettings {
  readonly nameservers: readonly string[];
  readonly search: readonly string[];
  readonly options: readonly string[];
}

/**
 * The task's own settings, else those of its network, else the host's file. What is given in part
 * takes the rest from the host.
 *
 * @param reachesLoopback - True on the host's network, where a resolver on 127.0.0.1 can be asked.
 */
export function resolvConfText(
  settings: ResolverSettings | undefined,
  fallback: ResolverSettings | undefined,
  hostText: string,
  reachesLoopback: boolean,
): string {
  const host = parseResolvConf(hostText);
  const reachable = host.nameservers.filter((address) => reachesLoopback || !/^(127\.|::1$)/.test(address));
  const pick = (key: keyof ResolverSettings, last: readonly string[]): readonly string[] => {
    for (const source of [settings, fallback])
      if ((source?.[key].length ?? 0) > 0) return source?.[key] ?? [];
    return fallback === undefined ? last : [];
  };
  const nameservers = pick("nameservers", reachable);
  const search = pick("search", host.search);
  const options = pick("options", host.options);
  return [
    ...nameservers.map((address) => `nameserver ${address}\n`),
    ...(search.length > 0 ? [`search ${search.join(" ")}\n`] : []),
    ...(options.length > 0 ? [`options ${options.join(" ")}\n`] : []),
  ].join("");
}

function parseResolvConf(text: string): ResolverSettings {
  const nameservers: string[] = [];
  let search: string[] = [];
  let options: string[] = [];
  for (const line of text.split("\n")) {
    const [keyword, ...values] = line
      .replace(/[#;].*$/, "")
      .trim()
      .split(/\s+/);
    if (keyword === "nameserver" && values[0] !== undefined) nameservers.push(values[0]);
    if (keyword === "search" || keyword === "domain") search = values;
    if (keyword === "options") options = values;
  }
  return { nameservers, search, options };
}
