/** Where registries are reached and how far their hosts are trusted: plain HTTP, certificates, mirrors. */
import { Agent as HttpAgent, get as httpGet } from "node:http";
import { Agent as HttpsAgent, get as httpsGet } from "node:https";
import { readdir, readFile, stat } from "node:fs/promises";
import { BlockList, isIP } from "node:net";
import { join } from "node:path";
import { connect as connectTls, createSecureContext, rootCertificates } from "node:tls";

import { ClusterError, errorText } from "../../model/errors.ts";
import { noProxies, type ProxySettings } from "../../proto/host.ts";
import { Proxies } from "./proxies.ts";
import { plainProxyAgent, type ProxyAgentOptions, tunnelAgent } from "./proxy-agents.ts";
import { registryHost } from "./reference.ts";

const mirroredDomain = "docker.io";
const socketLimit = 8;
/** What OpenSSL calls an answer in plain text to its greeting; which of them depends on its release. */
const plainAnswers = new Set(["ERR_SSL_WRONG_VERSION_NUMBER", "ERR_SSL_PACKET_LENGTH_TOO_LONG"]);
/** Where distributions keep the certificates that the whole system trusts. */
const systemBundles = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

export interface RegistrySettings {
  /** "host:port", "host" or CIDR: spoken to over TLS without verification, or, where there is none, over plain HTTP. */
  readonly insecure: readonly string[];
  /** Addresses such as "https://mirror:5000", asked in this order before Docker Hub. */
  readonly mirrors?: readonly string[];
  /** Each with a directory for every host, as Docker has them: `*.crt` to trust, `*.cert` and `*.key` to show. */
  readonly certificateDirectories?: readonly string[];
  /** Absent means none. */
  readonly proxies?: ProxySettings;
}

type Protocol = "http:" | "https:";

interface KeptAgent {
  readonly agent: HttpAgent;
  /** Names and times of the files it was made of. */
  readonly fingerprint: string;
}

export class RegistryHosts {
  readonly #settings: RegistrySettings;
  readonly #timeouts: { readonly idleTimeoutMs: number; readonly connectTimeoutMs: number };
  readonly #mirrors: readonly URL[];
  readonly #proxies: Proxies;
  readonly #insecureNames = new Set<string>();
  readonly #insecureBlocks = new BlockList();
  readonly #http: HttpAgent;
  /** By the proxy that leads there. */
  readonly #proxied = new Map<string, HttpAgent>();
  readonly #https = new Map<string, KeptAgent>();
  /** Of insecure registries, once it is known whether they have TLS. */
  readonly #protocols = new Map<string, Protocol>();
  #systemRoots: Promise<readonly string[]> | undefined;

  constructor(
    settings: RegistrySettings,
    timeouts: { readonly idleTimeoutMs: number; readonly connectTimeoutMs: number },
  ) {
    this.#settings = settings;
    this.#timeouts = timeouts;
    this.#mirrors = (settings.mirrors ?? []).map((mirror) => new URL(mirror));
    this.#proxies = new Proxies(settings.proxies ?? noProxies);
    this.#http = new HttpAgent({ keepAlive: true, maxSockets: socketLimit, timeout: timeouts.idleTimeoutMs });
    for (const entry of settings.insecure) {
      const [address = "", bits] = entry.split("/");
      if (bits === undefined || isIP(address) === 0) this.#insecureNames.add(entry);
      else this.#insecureBlocks.addSubnet(address, Number(bits), isIP(address) === 4 ? "ipv4" : "ipv6");
    }
  }

  /** @param host - With a port or without. */
  isInsecure(host: string): boolean {
    const name = host.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
    if (this.#insecureNames.has(host) || this.#insecureNames.has(name)) return true;
    const family = isIP(name);
    return family !== 0 && this.#insecureBlocks.check(name, family === 4 ? "ipv4" : "ipv6");
  }

  mirrorsOf(domain: string): readonly URL[] {
    return domain === mirroredDomain ? this.#mirrors : [];
  }

  async base(domain: string, signal: AbortSignal): Promise<URL> {
    const host = registryHost(domain);
    if (!this.isInsecure(host)) return new URL(`https://${host}`);
    const known = this.#protocols.get(host);
    if (known !== undefined) return new URL(`${known}//${host}`);
    const protocol = (await this.#protocolOf(host, signal)) ?? (await this.#plainProtocolOf(host, signal));
    if (protocol !== undefined) this.#protocols.set(host, protocol);
    // Unknown is not plain: credentials go in the clear only to a registry that has said it has no TLS.
    return new URL(`${protocol ?? "https:"}//${host}`);
  }

  /** Whether it has TLS is asked again: what was known may be true no more. */
  forget(domain: string): void {
    this.#protocols.delete(registryHost(domain));
  }

  /**
   * A registry is trusted as far with what it names, its token service and where its blobs lie, as for itself: what it says of
   * those is its own word. Only its client certificate is shown to nobody else.
   *
   * @param domain - Of the registry that is asked, or that named the address.
   * @throws {ClusterError} `failed-precondition` for certificates and proxies that cannot be used.
   */
  async agentOf(url: URL, domain: string): Promise<HttpAgent> {
    const proxy = this.#proxies.of(url);
    if (url.protocol !== "https:") return proxy === undefined ? this.#http : this.#plainAgentOf(proxy);
    // With the port that was written, as directories are named; a URL has none where it is the usual one.
    const registry = registryHost(domain);
    const isItself = new URL(`https://${registry}`).host === url.host;
    const own = await this.#certificatesOf(registry);
    const named = isItself ? undefined : await this.#certificatesOf(url.host);
    const fingerprint = `${own?.fingerprint ?? ""}\n${named?.fingerprint ?? ""}`;
    const verified = !this.isInsecure(registry) && !this.isInsecure(url.host);
    // Hosts without certificates of their own share one agent, whose context is costly.
    const key = [
      verified,
      own === undefined ? "" : registry,
      own !== undefined && isItself ? "itself" : "",
      named === undefined ? "" : url.host,
      proxy?.href ?? "",
    ].join(" ");
    const kept = this.#https.get(key);
    if (kept?.fingerprint === fingerprint) return kept.agent;
    const files = await own?.read();
    const others = await named?.read();
    const ca = [...(await this.#trustedRoots()), ...(files?.roots ?? []), ...(others?.roots ?? [])];
    const client = isItself ? files?.client : others?.client;
    const trust = {
      rejectUnauthorized: verified,
      secureContext: contextOf(url.host, { ca, ...client }),
    };
    const agent =
      proxy === undefined
        ? new HttpsAgent({
            keepAlive: true,
            maxSockets: socketLimit,
            timeout: this.#timeouts.idleTimeoutMs,
            ...trust,
          })
        : tunnelAgent(await this.#proxyOptions(proxy), trust);
    kept?.agent.destroy();
    this.#https.set(key, { agent, fingerprint });
    return agent;
  }

  close(): void {
    this.#http.destroy();
    for (const agent of this.#proxied.values()) agent.destroy();
    for (const { agent } of this.#https.values()) agent.destroy();
  }

  async #plainAgentOf(proxy: URL): Promise<HttpAgent> {
    const options = await this.#proxyOptions(proxy);
    const agent = this.#proxied.get(proxy.href) ?? plainProxyAgent(options);
    this.#proxied.set(proxy.href, agent);
    return agent;
  }

  async #proxyOptions(proxy: URL): Promise<ProxyAgentOptions> {
    const { connectTimeoutMs } = this.#timeouts;
    return { proxy, maxSockets: socketLimit, connectTimeoutMs, roots: await this.#trustedRoots() };
  }

  #trustedRoots(): Promise<readonly string[]> {
    this.#systemRoots ??= readSystemRoots();
    return this.#systemRoots;
  }

  /** Docker's rules for `certs.d`. Undefined when there is nothing for this host. */
  async #certificatesOf(
    host: string,
  ): Promise<{ fingerprint: string; read: () => Promise<HostCertificates> } | undefined> {
    const paths: string[] = [];
    for (const directory of this.#settings.certificateDirectories ?? []) {
      const own = join(directory, host);
      const names = await readdir(own).catch(emptyIfMissing);
      for (const name of names.toSorted()) if (/\.(crt|cert|key)$/.test(name)) paths.push(join(own, name));
    }
    if (paths.length === 0) return undefined;
    const times = await Promise.all(paths.map(async (path) => `${path} ${(await stat(path)).mtimeMs}`));
    return { fingerprint: times.join("\n"), read: () => readCertificates(paths) };
  }

  /** Some servers without TLS close on its greeting: they are asked without it, and without credentials. */
  async #plainProtocolOf(host: string, signal: AbortSignal): Promise<"http:" | undefined> {
    const url = new URL(`http://${host}/v2/`);
    const agent = await this.agentOf(url, host);
    return new Promise((resolve, reject) => {
      const timeout = this.#timeouts.connectTimeoutMs;
      const request = httpGet(url, { agent, timeout, signal }, (response) => {
        const { statusCode = 0 } = response;
        response.destroy();
        // What any registry answers there; a TLS server says 400, if anything.
        resolve(statusCode === 200 || statusCode === 401 ? "http:" : undefined);
      });
      request.once("timeout", () => request.destroy());
      request.once("error", () => {
        if (signal.aborted) reject(signal.reason as Error);
        else resolve(undefined);
      });
    });
  }

  /** Undefined when that cannot be told, so that it is asked again the next time. */
  async #protocolOf(host: string, signal: AbortSignal): Promise<Protocol | undefined> {
    if (this.#proxies.of(new URL(`https://${host}`)) !== undefined)
      return this.#tunnelledProtocolOf(host, signal);
    const { hostname, port } = new URL(`https://${host}`);
    return new Promise((resolve, reject) => {
      const socket = connectTls({
        host: hostname.replace(/^\[|\]$/g, ""),
        port: port === "" ? 443 : Number(port),
        ...(isIP(hostname) === 0 && { servername: hostname }),
        rejectUnauthorized: false,
        timeout: this.#timeouts.connectTimeoutMs,
      });
      const settle = (protocol: Protocol | undefined): void => {
        signal.removeEventListener("abort", onAbort);
        socket.destroy();
        resolve(protocol);
      };
      const onAbort = (): void => {
        socket.destroy();
        reject(signal.reason as Error);
      };
      signal.addEventListener("abort", onAbort, { once: true });
      if (signal.aborted) onAbort();
      socket.once("secureConnect", () => settle("https:"));
      socket.once("timeout", () => settle(undefined));
      socket.on("error", (error: NodeJS.ErrnoException) => settle(answerKind(error)));
    });
  }

  async #tunnelledProtocolOf(host: string, signal: AbortSignal): Promise<Protocol | undefined> {
    const url = new URL(`https://${host}/v2/`);
    const agent = await this.agentOf(url, host);
    return new Promise((resolve, reject) => {
      const timeout = this.#timeouts.connectTimeoutMs;
      const request = httpsGet(url, { agent, timeout, signal }, (response) => {
        response.destroy();
        resolve("https:");
      });
      request.once("timeout", () => request.destroy());
      request.once("error", (error) => {
        if (signal.aborted) reject(signal.reason as Error);
        else resolve(answerKind(error));
      });
    });
  }
}

/**
 * What a failed handshake tells. Only an answer that is no TLS at all means plain HTTP; a TLS server that refuses us
 * has TLS; one that is slow or breaks off has told nothing.
 */
function answerKind({ code = "" }: NodeJS.ErrnoException): Protocol | undefined {
  if (plainAnswers.has(code)) return "http:";
  return code.startsWith("ERR_SSL_") ? "https:" : undefined;
}

interface HostCertificates {
  readonly roots: readonly string[];
  readonly client?: { readonly cert: string; readonly key: string };
}

async function readCertificates(paths: readonly string[]): Promise<HostCertificates> {
  const roots = await Promise.all(
    paths.filter((path) => path.endsWith(".crt")).map((path) => readFile(path, "utf8")),
  );
  const certificate = paths.find((path) => path.endsWith(".cert"));
  const key = paths.find((path) => path.endsWith(".key"));
  if (certificate !== undefined && key !== certificate.replace(/\.cert$/, ".key")) {
    throw new ClusterError(
      "failed-precondition",
      `missing key ${certificate.replace(/\.cert$/, ".key")} for client certificate ${certificate}. CA certificates must use the extension .crt`,
    );
  }
  if (certificate === undefined && key !== undefined) {
    throw new ClusterError(
      "failed-precondition",
      `missing client certificate ${key.replace(/\.key$/, ".cert")} for key ${key}`,
    );
  }
  if (certificate === undefined || key === undefined) return { roots };
  return { roots, client: { cert: await readFile(certificate, "utf8"), key: await readFile(key, "utf8") } };
}

function contextOf(
  host: string,
  options: { readonly ca: string[]; readonly cert?: string; readonly key?: string },
): ReturnType<typeof createSecureContext> {
  try {
    return createSecureContext(options);
  } catch (cause) {
    throw new ClusterError(
      "failed-precondition",
      `cannot use the certificates for the registry ${host}: ${errorText(cause)}`,
      { cause },
    );
  }
}

/** Those of the system, as Docker takes them; the ones that came with Node where there are none. */
async function readSystemRoots(): Promise<readonly string[]> {
  for (const path of [...(process.env["SSL_CERT_FILE"] ?? "").split("\n"), ...systemBundles]) {
    if (path === "") continue;
    try {
      return [await readFile(path, "utf8")];
    } catch (error) {
      emptyIfMissing(error);
    }
  }
  return rootCertificates;
}

function emptyIfMissing(error: unknown): string[] {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOENT" || code === "ENOTDIR") return [];
  throw error;
}
