/** Requests to registries and to what they name: connections with their limits, redirects. */
import { type IncomingMessage, request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import { Readable } from "node:stream";

import { ClusterError } from "../../model/errors.ts";
import type { RegistryHosts } from "./registry-hosts.ts";

export interface RegistryTimeouts {
  /** A registry that takes longer to accept a connection, TLS included, is out of reach; it is not tried again. */
  readonly connectTimeoutMs: number;
  /** A registry that says nothing for this long has died. */
  readonly idleTimeoutMs: number;
  /** What was sent whole may be read once more before it is confirmed: with its store elsewhere, a registry copies it there. */
  readonly confirmTimeoutMs: number;
}

export const defaultTimeouts: RegistryTimeouts = {
  connectTimeoutMs: 5_000,
  idleTimeoutMs: 30_000,
  confirmTimeoutMs: 600_000,
};

const redirectLimit = 5;

export interface Sent {
  readonly method: "GET" | "HEAD" | "POST" | "PUT";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Buffer | Readable | undefined;
}

export class RegistryTransport {
  readonly #hosts: RegistryHosts;
  readonly #timeouts: RegistryTimeouts;

  constructor(hosts: RegistryHosts, timeouts: RegistryTimeouts) {
    this.#hosts = hosts;
    this.#timeouts = timeouts;
  }

  /**
   * Follows redirects; the authorization goes to the first host only.
   *
   * @param domain - Of the registry that is asked, or that named the address.
   */
  async follow(
    { method, url, headers, body }: Sent,
    domain: string,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    let target = url;
    let sent = headers;
    for (let redirects = 0; ; redirects++) {
      const response = await this.request({ method, url: target, headers: sent, body }, domain, signal);
      const { location } = response.headers;
      const code = response.statusCode ?? 0;
      if (code < 300 || code > 399 || location === undefined) return response;
      response.destroy();
      if (redirects >= redirectLimit)
        throw new ClusterError("unavailable", `${url.href}: too many redirects`);
      const next = new URL(location, target);
      if (next.protocol !== "https:" && target.protocol === "https:") {
        throw new ClusterError("unavailable", `${url.href}: redirected to plain HTTP at ${next.host}`);
      }
      if (next.host !== target.host) {
        const { authorization: _dropped, ...rest } = sent as Record<string, string>;
        sent = rest;
      }
      target = next;
    }
  }

  post(
    url: URL,
    form: Readonly<Record<string, string>>,
    domain: string,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    return this.request(
      { method: "POST", url, headers, body: new URLSearchParams(form).toString() },
      domain,
      signal,
    );
  }

  async request(
    { method, url, headers, body }: Sent,
    domain: string,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const { idleTimeoutMs, connectTimeoutMs, confirmTimeoutMs } = this.#timeouts;
    const agent = await this.#hosts.agentOf(url, domain);
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const secure = url.protocol === "https:";
      const send = secure ? httpsRequest : httpRequest;
      const options = { method, headers: { "user-agent": "shoal", ...headers }, agent, signal };
      const request = send(url, options, resolve);
      let waitMs = idleTimeoutMs;
      request.setTimeout(waitMs, () => {
        const cause = `no answer from ${url.host} within ${waitMs / 1000} s`;
        request.destroy(new ClusterError("unavailable", `cannot ask the registry: ${cause}`));
      });
      if (method === "PUT") {
        request.once("finish", () => {
          waitMs = confirmTimeoutMs;
          request.setTimeout(waitMs);
        });
      }
      request.on("socket", (socket: Socket) => {
        // Connected already: to a proxy, which waited by itself.
        if (request.reusedSocket || (!secure && !socket.connecting)) return;
        const timer = setTimeout(() => {
          const cause = `no connection to ${url.host} within ${connectTimeoutMs / 1000} s`;
          request.destroy(new ClusterError("unavailable", `cannot ask the registry: ${cause}`));
        }, connectTimeoutMs);
        const connected = (): void => clearTimeout(timer);
        socket.once(secure ? "secureConnect" : "connect", connected).once("close", connected);
      });
      // One that waits for a proxy ends only with its connection.
      const giveUp = (): void => reject(signal.reason as Error);
      signal.addEventListener("abort", giveUp, { once: true });
      request.once("close", () => signal.removeEventListener("abort", giveUp));
      request.on("error", (error) => {
        if (body instanceof Readable) body.destroy();
        reject(error);
      });
      if (body instanceof Readable) {
        body.on("error", (error) => request.destroy(error));
        body.pipe(request);
      } else request.end(body);
    });
  }
}

export function withAuthorization(
  headers: Readonly<Record<string, string>>,
  authorization: string | undefined,
): Record<string, string> {
  return authorization === undefined ? { ...headers } : { ...headers, authorization };
}

/** Several values become a parameter each. */
export function withQuery(url: URL, parameters: Readonly<Record<string, string | readonly string[]>>): URL {
  const target = new URL(url);
  for (const [key, values] of Object.entries(parameters))
    for (const value of [values].flat()) target.searchParams.append(key, value);
  return target;
}
