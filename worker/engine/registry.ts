/** A client of OCI registries: manifests and blobs over HTTP(S), with basic and token authentication. */
import { type IncomingMessage, request as httpRequest, STATUS_CODES } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import { Readable } from "node:stream";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import { systemClock } from "../../runtime/clock.ts";
import { type Challenge, parseChallenges } from "./challenge.ts";
import { manifestLimitBytes, manifestTypes } from "./manifest.ts";
import type { Reference } from "./reference.ts";
import { readBody, refuse } from "./registry-answers.ts";
import { RegistryHosts, type RegistrySettings } from "./registry-hosts.ts";
import { anyOf } from "../../runtime/signal.ts";

/** A registry that takes longer to accept a connection, TLS included, is out of reach; it is not tried again. */
const defaultConnectTimeoutMs = 5_000;
/** A registry that says nothing for this long has died. */
const idleTimeoutMs = 30_000;
/** A small answer, such as a manifest, that takes longer than this comes from a registry that hangs. */
const smallAnswerMs = 60_000;
/** A mirror that failed is left alone for this long. */
const mirrorPauseMs = 60_000;
const redirectLimit = 5;
const tokenLimitBytes = 1 << 20;
const tagLimit = 10_000;
const attempts = 3;
const retryDelayMs = 250;
/** Tokens without a lifetime live this long (token specification), less what a request may take. */
const tokenLifetimeMs = 60_000;
const tokenMarginMs = 10_000;

export interface RemoteManifest {
  readonly mediaType: string;
  /** As the registry says; empty if it does not. Verified by whoever uses the bytes. */
  readonly digest: string;
  readonly size: number;
}

type Method = "GET" | "HEAD" | "POST" | "PUT";

interface Sent {
  readonly method: Method;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Buffer | undefined;
}

interface Token {
  readonly header: string;
  readonly untilMs: number;
}

export class Registry {
  readonly #hosts: RegistryHosts;
  readonly #connectTimeoutMs: number;
  readonly #tokens = new Map<string, Token>();
  /** Until when a mirror is left alone, by its address. */
  readonly #pausedMirrors = new Map<string, number>();

  constructor(settings: RegistrySettings, connectTimeoutMs = defaultConnectTimeoutMs) {
    this.#hosts = new RegistryHosts(settings, { idleTimeoutMs, connectTimeoutMs });
    this.#connectTimeoutMs = connectTimeoutMs;
  }

  /**
   * Whether a registry accepts the credentials.
   *
   * @throws {ClusterError} `unauthenticated` when it does not; `unavailable`.
   */
  async login(domain: string, auth: RegistryAuth, signal: AbortSignal): Promise<void> {
    const response = await this.#send("GET", { domain, path: "" }, "", {}, auth, signal);
    const code = response.statusCode ?? 0;
    response.destroy();
    if (code === 200) return;
    const status = `${code} ${STATUS_CODES[code] ?? ""}`.trim();
    throw new ClusterError(
      code === 401 || code === 403 ? "unauthenticated" : "unavailable",
      `login attempt to ${domain} failed with status: ${status}`,
    );
  }

  /** What a tag or digest is now; one small request. */
  async head(
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<RemoteManifest> {
    const response = await this.#manifest("HEAD", reference, auth, signal);
    response.resume();
    return remoteManifest(response);
  }

  async manifest(
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<RemoteManifest & { readonly bytes: Buffer }> {
    using linked = anyOf(signal, AbortSignal.timeout(smallAnswerMs));
    const limited = linked.signal;
    const response = await this.#manifest("GET", reference, auth, limited);
    const bytes = await readBody(response, manifestLimitBytes).catch((error: unknown) => {
      signal.throwIfAborted();
      if (!limited.aborted) throw error;
      const cause = `its answer takes more than ${smallAnswerMs / 1_000} s`;
      throw new ClusterError("unavailable", `cannot ask the registry ${reference.domain}: ${cause}`, {
        cause: error,
      });
    });
    return { ...remoteManifest(response), size: bytes.length, bytes };
  }

  /** All tags of a repository, at most `tagLimit` of them. */
  async tags(reference: Reference, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<string[]> {
    const found: string[] = [];
    for (let path: string | undefined = "/tags/list"; path !== undefined;) {
      const response = await this.#send("GET", reference, path, {}, auth, signal);
      if (response.statusCode !== 200) await refuse(response, reference);
      const { tags } = parseObject((await readBody(response, manifestLimitBytes)).toString("utf8"));
      if (Array.isArray(tags)) found.push(...tags.filter((tag): tag is string => typeof tag === "string"));
      if (found.length > tagLimit)
        throw new ClusterError(
          "resource-exhausted",
          `${reference.path} has more than ${tagLimit} tags: name one`,
        );
      // The next page is where the registry says, in the same list (distribution specification, "Listing Tags").
      const next = /<[^>?]*\?([^>]*)>;\s*rel="?next/.exec(String(response.headers["link"] ?? ""))?.[1];
      path = next === undefined ? undefined : `/tags/list?${next}`;
    }
    return found;
  }

  /**
   * A blob from `offset` on. The answer may begin at 0 all the same: its status is then 200, not 206.
   * The caller reads or destroys the body.
   */
  async blob(
    reference: Reference,
    digest: string,
    offset: number,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const headers = offset > 0 ? { range: `bytes=${offset}-` } : {};
    return this.#read("GET", reference, `/blobs/${digest}`, headers, auth, signal);
  }

  async hasBlob(
    reference: Reference,
    digest: string,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<boolean> {
    const response = await this.#send("HEAD", reference, `/blobs/${digest}`, {}, auth, signal);
    response.resume();
    // Who may push but not read is told that nothing is there; the upload then says what is wrong.
    return response.statusCode === 200;
  }

  /**
   * Where a blob may be sent; undefined when the registry took it over from another of its repositories.
   *
   * @param blob - `from` is a repository that may have it. A registry that will not take it from there is sent it.
   */
  async beginUpload(
    reference: Reference,
    { digest, from }: { readonly digest: string; readonly from: string | undefined },
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<{ readonly location: URL } | undefined> {
    const path = "/blobs/uploads/";
    const send = (query: string): Promise<IncomingMessage> =>
      this.#send("POST", reference, `${path}${query}`, { "content-length": "0" }, auth, signal);
    let response: IncomingMessage | undefined;
    if (from !== undefined) {
      const query = new URLSearchParams({ mount: digest, from }).toString();
      response = await send(`?${query}`).catch((error: unknown) => {
        signal.throwIfAborted();
        // Such as a token service that knows no right to the other repository.
        if (error instanceof ClusterError) return undefined;
        throw error;
      });
      response?.resume();
      if (response?.statusCode === 201) return undefined;
      if (response?.statusCode !== 202) response = undefined;
    }
    response ??= await send("");
    const { location } = response.headers;
    if (response.statusCode !== 202 || location === undefined) await refuse(response, reference, "push");
    response.resume();
    return { location: new URL(location ?? "", await this.#hosts.base(reference.domain, signal)) };
  }

  /** @throws {ClusterError} `unavailable` when the connection broke: a new upload may go well. */
  async upload(
    reference: Reference,
    blob: {
      readonly location: URL;
      readonly digest: string;
      readonly size: number;
      readonly body: () => AsyncIterable<Buffer>;
    },
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const { location, digest, size, body } = blob;
    const url = withQuery(location, { digest });
    const headers = { "content-type": "application/octet-stream", "content-length": String(size) };
    // Credentials go only to the registry itself, not to where it has uploads sent.
    const isOwn = url.host === (await this.#hosts.base(reference.domain, signal)).host;
    const known = isOwn ? this.#authorization(reference, auth) : undefined;
    const sent = withAuthorization(headers, known);
    const response = await this.#request("PUT", url, sent, Readable.from(body()), signal).catch(
      (error: unknown) => {
        signal.throwIfAborted();
        if (error instanceof ClusterError) throw error;
        throw new ClusterError("unavailable", `Put "${url.origin}${url.pathname}": ${errorText(error)}`, {
          cause: error,
        });
      },
    );
    if (response.statusCode !== 201) await refuse(response, reference, "push");
    response.resume();
  }

  async putManifest(
    reference: Reference,
    mediaType: string,
    bytes: Buffer,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const path = `/manifests/${reference.tag ?? "latest"}`;
    const headers = { "content-type": mediaType, "content-length": String(bytes.length) };
    const response = await this.#send("PUT", reference, path, headers, auth, signal, bytes);
    if (response.statusCode !== 201 && response.statusCode !== 200) await refuse(response, reference, "push");
    response.resume();
  }

  close(): void {
    this.#hosts.close();
  }

  async #manifest(
    method: "GET" | "HEAD",
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const path = `/manifests/${reference.digest ?? reference.tag ?? "latest"}`;
    const headers = { accept: manifestTypes.join(", ") };
    return this.#read(method, reference, path, headers, auth, signal);
  }

  /** From the first of the mirrors that has it, else from the registry itself. Whatever comes is verified by its digest. */
  async #read(
    method: "GET" | "HEAD",
    reference: Reference,
    path: string,
    headers: Readonly<Record<string, string>>,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    for (const mirror of this.#hosts.mirrorsOf(reference.domain)) {
      if ((this.#pausedMirrors.get(mirror.host) ?? 0) > Date.now()) continue;
      try {
        // Credentials are the registry's own and no matter of its mirrors.
        const at = { ...reference, domain: mirror.host };
        const response = await this.#send(method, at, path, headers, undefined, signal, undefined, mirror);
        if (isRead(response)) return response;
        response.destroy();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof ClusterError)) throw error;
        this.#pausedMirrors.set(mirror.host, Date.now() + mirrorPauseMs);
      }
    }
    const response = await this.#send(method, reference, path, headers, auth, signal);
    if (!isRead(response)) await refuse(response, reference);
    return response;
  }

  /** Sends, answers one challenge, and repeats what may be passing: broken connections, 5xx and 429. */
  async #send(
    method: Method,
    reference: Reference,
    path: string,
    headers: Readonly<Record<string, string>>,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
    body?: Buffer,
    base?: URL,
  ): Promise<IncomingMessage> {
    const own = base ?? (await this.#hosts.base(reference.domain, signal));
    const url = new URL(`/v2/${reference.path}${path}`, own);
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await this.#authorized({ method, url, headers, body }, reference, auth, signal);
        const code = response.statusCode ?? 0;
        if (attempt >= attempts || (code < 500 && code !== 429)) return response;
        response.destroy();
      } catch (error) {
        signal.throwIfAborted();
        if (base === undefined) this.#hosts.forget(reference.domain);
        if (error instanceof ClusterError) throw error;
        if (attempt >= attempts) {
          const verb = `${method.slice(0, 1)}${method.slice(1).toLowerCase()}`;
          throw new ClusterError("unavailable", `${verb} "${url.href}": ${errorText(error)}`, {
            cause: error,
          });
        }
      }
      await systemClock.sleep(retryDelayMs * attempt, signal);
    }
  }

  async #authorized(
    sent: Sent,
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const first = this.#authorization(reference, auth);
    const response = await this.#follow({ ...sent, headers: withAuthorization(sent.headers, first) }, signal);
    if (response.statusCode !== 401) return response;
    const challenges = parseChallenges(response.headers["www-authenticate"] ?? "");
    const token = await this.#answer(challenges, reference, auth, signal);
    if (token === undefined) return response;
    response.destroy();
    this.#tokens.set(tokenKey(reference, auth), token);
    return this.#follow({ ...sent, headers: withAuthorization(sent.headers, token.header) }, signal);
  }

  /** What the registry took last; undefined when nothing is known, or no longer valid. */
  #authorization(reference: Reference, auth: RegistryAuth | undefined): string | undefined {
    if (auth?.registryToken !== undefined) return `Bearer ${auth.registryToken}`;
    const known = this.#tokens.get(tokenKey(reference, auth));
    return known !== undefined && known.untilMs > Date.now() ? known.header : undefined;
  }

  async #answer(
    challenges: readonly Challenge[],
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<Token | undefined> {
    const basic = basicHeader(auth);
    for (const challenge of challenges) {
      switch (challenge.kind) {
        case "bearer":
          return this.#fetchToken(challenge, reference, auth, signal);
        case "basic":
          if (basic !== undefined) return { header: basic, untilMs: Infinity };
      }
    }
    return undefined;
  }

  async #fetchToken(
    challenge: Extract<Challenge, { kind: "bearer" }>,
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<Token> {
    const realm = parseRealm(challenge.realm);
    // Credentials never travel in the clear to a host that was not allowed it.
    if (
      realm.protocol !== "https:" &&
      !this.#hosts.isInsecure(realm.host) &&
      !this.#hosts.isInsecure(reference.domain)
    ) {
      throw new ClusterError(
        "unauthenticated",
        `cannot authenticate with ${reference.domain}: its token service ${realm.origin} is not reached over https`,
      );
    }
    const wanted = reference.path === "" ? undefined : `repository:${reference.path}:pull`;
    const scope = challenge.scope ?? wanted;
    const service = challenge.service === undefined ? {} : { service: challenge.service };
    const response =
      auth?.identityToken !== undefined && auth.identityToken !== ""
        ? await this.#post(
            realm,
            {
              ...(scope !== undefined && { scope }),
              ...service,
              grant_type: "refresh_token",
              client_id: "shoal",
              refresh_token: auth.identityToken,
            },
            signal,
          )
        : await this.#follow(
            {
              method: "GET",
              // Several scopes are one parameter each here (token specification), one with blanks in a form (RFC 6749).
              url: withQuery(realm, { scope: scope?.split(" ") ?? [], ...service }),
              headers: withAuthorization({}, basicHeader(auth)),
            },
            signal,
          );
    if (response.statusCode !== 200) await refuse(response, reference);
    const body = parseObject((await readBody(response, tokenLimitBytes)).toString("utf8"));
    const token = body["token"] ?? body["access_token"];
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new ClusterError("unauthenticated", `the token service ${realm.origin} sent no token`);
    }
    const seconds = body["expires_in"];
    const lifetimeMs = typeof seconds === "number" && seconds > 0 ? seconds * 1000 : tokenLifetimeMs;
    return { header: `Bearer ${token}`, untilMs: Date.now() + lifetimeMs - tokenMarginMs };
  }

  /** Follows redirects; the authorization goes to the first host only. */
  async #follow({ method, url, headers, body }: Sent, signal: AbortSignal): Promise<IncomingMessage> {
    let target = url;
    let sent = headers;
    for (let redirects = 0; ; redirects++) {
      const response = await this.#request(method, target, sent, body, signal);
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

  #post(url: URL, form: Readonly<Record<string, string>>, signal: AbortSignal): Promise<IncomingMessage> {
    const body = new URLSearchParams(form).toString();
    return this.#request("POST", url, { "content-type": "application/x-www-form-urlencoded" }, body, signal);
  }

  async #request(
    method: string,
    url: URL,
    headers: Readonly<Record<string, string>>,
    body: string | Buffer | Readable | undefined,
    signal: AbortSignal,
  ): Promise<IncomingMessage> {
    const agent = await this.#hosts.agentOf(url);
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const secure = url.protocol === "https:";
      const send = secure ? httpsRequest : httpRequest;
      const options = { method, headers: { "user-agent": "shoal", ...headers }, agent, signal };
      const request = send(url, options, resolve);
      request.setTimeout(idleTimeoutMs, () => {
        const cause = `no answer from ${url.host} within ${idleTimeoutMs / 1000} s`;
        request.destroy(new ClusterError("unavailable", `cannot ask the registry: ${cause}`));
      });
      request.on("socket", (socket: Socket) => {
        if (request.reusedSocket) return;
        const timer = setTimeout(() => {
          const cause = `no connection to ${url.host} within ${this.#connectTimeoutMs / 1000} s`;
          request.destroy(new ClusterError("unavailable", `cannot ask the registry: ${cause}`));
        }, this.#connectTimeoutMs);
        const connected = (): void => clearTimeout(timer);
        socket.once(secure ? "secureConnect" : "connect", connected).once("close", connected);
      });
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

function remoteManifest(response: IncomingMessage): RemoteManifest {
  const digest = response.headers["docker-content-digest"];
  return {
    mediaType: (response.headers["content-type"] ?? "").split(";")[0]?.trim() ?? "",
    digest: typeof digest === "string" ? digest : "",
    size: Number(response.headers["content-length"] ?? 0),
  };
}

function isRead({ statusCode }: IncomingMessage): boolean {
  return statusCode === 200 || statusCode === 206;
}

function tokenKey({ domain, path }: Reference, auth: RegistryAuth | undefined): string {
  return JSON.stringify([domain, path, auth?.username, auth?.password, auth?.identityToken]);
}

function basicHeader(auth: RegistryAuth | undefined): string | undefined {
  if (auth?.username === undefined || auth.username === "") return undefined;
  return `Basic ${Buffer.from(`${auth.username}:${auth.password ?? ""}`).toString("base64")}`;
}

function withAuthorization(
  headers: Readonly<Record<string, string>>,
  authorization: string | undefined,
): Record<string, string> {
  return authorization === undefined ? { ...headers } : { ...headers, authorization };
}

function withQuery(url: URL, parameters: Readonly<Record<string, string | readonly string[]>>): URL {
  const target = new URL(url);
  for (const [key, values] of Object.entries(parameters))
    for (const value of [values].flat()) target.searchParams.append(key, value);
  return target;
}

/** The fields of a JSON object; none where the text is something else. */
function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    return { ...(JSON.parse(text) as Record<string, unknown> | null) };
  } catch {
    return {};
  }
}

function parseRealm(realm: string): URL {
  try {
    return new URL(realm);
  } catch (cause) {
    throw new ClusterError("unauthenticated", `the registry names a token service that is no URL: ${realm}`, {
      cause,
    });
  }
}
