/**
 * Which proxy leads to an address: the rules of Go's programs, and so of Docker's daemon (golang.org/x/net/http/httpproxy). Pure.
 */
import { BlockList, isIP } from "node:net";

import { ClusterError } from "../../model/errors.ts";
import type { ProxySettings } from "../../proto/host.ts";

type Exception = (target: { readonly host: string; readonly port: string }) => boolean;

export class Proxies {
  readonly #settings: ProxySettings;
  readonly #exceptions: readonly Exception[];

  constructor(settings: ProxySettings) {
    this.#settings = settings;
    this.#exceptions = settings.noProxy
      .split(",")
      .flatMap((entry) => parseException(entry.trim().toLowerCase()));
  }

  /**
   * Undefined where an address is asked directly, as this host itself always is.
   *
   * @throws {ClusterError} `failed-precondition` for a proxy that is none.
   */
  of({ protocol, hostname, port }: URL): URL | undefined {
    const secure = protocol === "https:";
    const proxy = secure ? this.#settings.httpsProxy : this.#settings.httpProxy;
    if (proxy === "") return undefined;
    const target = { host: bare(hostname), port: port === "" ? (secure ? "443" : "80") : port };
    if (isOwn(target.host) || this.#exceptions.some((matches) => matches(target))) return undefined;
    return parseProxy(proxy);
  }
}

/** As Docker shows a proxy: whoever reads it learns that it wants a password, but not which. */
export function maskCredentials(proxy: string): string {
  return proxy.replace(/^([a-z][a-z0-9+.-]*:\/\/)?[^/?#]*@/i, "$1xxxxx:xxxxx@");
}

function parseProxy(text: string): URL {
  const address = text.includes("://") ? text : `http://${text}`;
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url === undefined || url.hostname === "" || !/^https?:$/.test(url.protocol)) {
    throw new ClusterError(
      "failed-precondition",
      `cannot use the proxy ${maskCredentials(address)}: an address such as http://proxy:3128 or https://proxy:3129 is accepted`,
    );
  }
  return url;
}

/** `*`, an address, a block of them, or a domain with what is below it (`.domain`: only that); each but blocks with a port or without. */
function parseException(entry: string): Exception[] {
  if (entry === "") return [];
  if (entry === "*") return [() => true];
  const block = /^([^/]+)\/(\d{1,3})$/.exec(entry);
  if (block !== null) {
    const [, address = "", bits = ""] = block;
    const family = isIP(address);
    if (family !== 0 && Number(bits) <= (family === 4 ? 32 : 128)) return [inBlock(address, Number(bits))];
  }
  const [, host = "", port] = /^\[([^\]]*)\](?::(.*))?$/.exec(entry) ??
    /^([^:]*):([^:]*)$/.exec(entry) ?? ["", entry, undefined];
  if (host === "") return [];
  const matches =
    isIP(host) === 0 ? isBelow(host.replace(/^\*(?=\.)/, "")) : inBlock(host, isIP(host) === 4 ? 32 : 128);
  return [(target) => matches(target) && (port === undefined || port === "" || port === target.port)];
}

function inBlock(address: string, bits: number): Exception {
  const block = new BlockList();
  block.addSubnet(address, bits, isIP(address) === 4 ? "ipv4" : "ipv6");
  return ({ host }) => isIP(host) !== 0 && block.check(host, isIP(host) === 4 ? "ipv4" : "ipv6");
}

function isBelow(domain: string): Exception {
  if (domain.startsWith(".")) return ({ host }) => host.endsWith(domain);
  return ({ host }) => host === domain || host.endsWith(`.${domain}`);
}

function isOwn(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}

function bare(hostname: string): string {
  return hostname.replace(/^\[|\]$/g, "").toLowerCase();
}
