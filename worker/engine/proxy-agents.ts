/** Connections that lead through a proxy: a tunnel to what has TLS, whole addresses asked of it for what has none. */
import type { Agent as HttpAgent } from "node:http";
import type { SecureContext } from "node:tls";

import { HttpProxyAgent } from "http-proxy-agent";
import { HttpsProxyAgent } from "https-proxy-agent";

import { ClusterError, errorText } from "../../model/errors.ts";

export interface ProxyAgentOptions {
  readonly proxy: URL;
  readonly maxSockets: number;
  /** Until the proxy has let us through; then the limits of requests hold. */
  readonly connectTimeoutMs: number;
  /** Trusted with a proxy that has TLS itself. */
  readonly roots: readonly string[];
}

/** How far what lies behind the tunnel is trusted, and what is shown to it. */
export interface BehindTunnel {
  readonly secureContext: SecureContext;
  readonly rejectUnauthorized: boolean;
}

export function plainProxyAgent(options: ProxyAgentOptions): HttpAgent {
  return new PlainAgent(options);
}

export function tunnelAgent(options: ProxyAgentOptions, behind: BehindTunnel): HttpAgent {
  const agent = new TunnelAgent(options);
  // Not among the options of its making, which hold for the proxy as well: a registry's certificates are no matter of that.
  Object.assign(agent.options, behind);
  return agent;
}

class PlainAgent extends HttpProxyAgent<string> {
  readonly #limit: ConnectLimit;

  constructor(options: ProxyAgentOptions) {
    super(options.proxy, agentOptions(options));
    this.#limit = new ConnectLimit(options);
  }

  override connect(...args: Parameters<HttpProxyAgent<string>["connect"]>) {
    return this.#limit.around(this, () => super.connect(...args));
  }
}

class TunnelAgent extends HttpsProxyAgent<string> {
  readonly #limit: ConnectLimit;

  constructor(options: ProxyAgentOptions) {
    super(options.proxy, agentOptions(options));
    this.#limit = new ConnectLimit(options);
    // What else it says would be taken for the registry's own answer, credentials asked for included.
    this.on(
      "proxyConnect",
      ({ statusCode, statusText }: Answer, request: { destroy(error: Error): void }) => {
        if (statusCode === 200) return;
        const said = `${statusCode} ${statusText}`.trim();
        request.destroy(new ClusterError("unavailable", `the proxy ${options.proxy.host} answered: ${said}`));
      },
    );
  }

  override connect(...args: Parameters<HttpsProxyAgent<string>["connect"]>) {
    return this.#limit.around(this, () => super.connect(...args));
  }
}

interface Answer {
  readonly statusCode: number;
  readonly statusText: string;
}

function agentOptions({ maxSockets, roots }: ProxyAgentOptions): {
  keepAlive: true;
  maxSockets: number;
  ca: string[];
} {
  return { keepAlive: true, maxSockets, ca: [...roots] };
}

/** The packages wait for a proxy without end; a request that has no connection yet cannot be given up by itself. */
class ConnectLimit {
  readonly #proxy: string;
  readonly #timeoutMs: number;

  constructor({ proxy, connectTimeoutMs }: ProxyAgentOptions) {
    this.#proxy = proxy.host;
    this.#timeoutMs = connectTimeoutMs;
  }

  /** @param connect - Reads `connectOpts` before it first waits. */
  async around<Connected>(
    agent: { connectOpts: object },
    connect: () => Promise<Connected>,
  ): Promise<Connected> {
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), this.#timeoutMs);
    agent.connectOpts = { ...agent.connectOpts, signal: limit.signal };
    try {
      return await connect();
    } catch (cause) {
      const seen = limit.signal.aborted ? `no answer within ${this.#timeoutMs / 1000} s` : errorText(cause);
      throw new ClusterError("unavailable", `cannot reach the proxy ${this.#proxy}: ${seen}`, { cause });
    } finally {
      clearTimeout(timer); // The signal would end the connection as well that it led to.
    }
  }
}
