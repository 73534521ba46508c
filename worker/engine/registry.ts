/** A client of OCI registries: manifests and blobs over HTTP(S), with basic and token authentication. */
import { type IncomingMessage, STATUS_CODES } from "node:http";
import { Readable } from "node:stream";

import { ClusterError, errorText } from "../../model/errors.ts";
import type { RegistryAuth } from "../../model/service.ts";
import { systemClock } from "../../runtime/clock.ts";
import { type Challenge, parseChallenges } from "./challenge.ts";
import { manifestLimitBytes, manifestTypes } from "./manifest.ts";
import type { Reference } from "./reference.ts";
import { readBody, refuse } from "./registry-answers.ts";
import { RegistryHosts, type RegistrySettings } from "./registry-hosts.ts";
import {
  defaultTimeouts,
  type RegistryTimeouts,
  RegistryTransport,
  type Sent,
  withAuthorization,
  withQuery,
} from "./registry-transport.ts";
import { anyOf } from "../../runtime/signal.ts";

/** A small answer, such as a manifest, that takes longer than this comes from a registry that hangs. */
const smallAnswerMs = 60_000;
/** A mirror that failed is left alone for this long. */
/** Longer than several others may take to fail one after another, so that each is asked once. */
const mirrorPauseMs = 600_000;
const tokenLimitBytes = 1 << 20;
const tagLimit = 10_000;
/** Pages may be empty, and name a next one for ever. */
const tagPageLimit = 1_000;
const attempts = 3;
const retryDelayMs = 250;
/** No token lives shorter, whatever it says (token specification); less what a request may take. */
const tokenLifetimeMs = 60_000;
const tokenMarginMs = 10_000;

export interface RemoteManifest {
  readonly mediaType: string;
  /** As the registry says; empty if it does not. Verified by whoever uses the bytes. */
  readonly digest: string;
  readonly size: number;
  /** Of the mirror that answered; undefined for the registry itself. */
  readonly mirror: string | undefined;
}

interface Token {
  readonly header: string;
  readonly untilMs: number;
}

export class Registry {
  readonly #hosts: RegistryHosts;
  readonly #transport: RegistryTransport;
  readonly #tokens = new Map<string, Token>();
  /** Until when a mirror is left alone, by its address. */
  readonly #pausedMirrors = new Map<string, number>();
  /** Which mirror sent an answer. */
  readonly #answeredBy = new WeakMap<IncomingMessage, string>();

  constructor(settings: RegistrySettings, timeouts: Partial<RegistryTimeouts> = {}) {
    const all = { ...defaultTimeouts, ...timeouts };
    this.#hosts = new RegistryHosts(settings, all);
    this.#transport = new RegistryTransport(this.#hosts, all);
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
    return this.#remoteManifest(response);
  }

  /**
   * What a mirror sent proved to be broken, or something else than was asked for: it is left alone for a while.
   *
   * @returns Whether another may be asked; false when it was the registry's own answer.
   */
  distrust(mirror: string | undefined): boolean {
    if (mirror === undefined) return false;
    this.#pausedMirrors.set(mirror, Date.now() + mirrorPauseMs);
    return true;
  }

  /** The mirror that sent this blob; undefined for the registry itself. */
  mirrorOf(response: IncomingMessage): string | undefined {
    return this.#answeredBy.get(response);
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
      if (this.distrust(this.mirrorOf(response))) return undefined;
      if (!limited.aborted) throw error;
      const cause = `its answer takes more than ${smallAnswerMs / 1_000} s`;
      throw new ClusterError("unavailable", `cannot ask the registry ${reference.domain}: ${cause}`, {
        cause: error,
      });
    });
    // From the next mirror, or the registry; there are only so many.
    if (bytes === undefined) return this.manifest(reference, auth, signal);
    return { ...this.#remoteManifest(response), size: bytes.length, bytes };
  }

  /** All tags of a repository, at most `tagLimit` of them. */
  async tags(reference: Reference, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<string[]> {
    const found: string[] = [];
    let pages = 0;
    for (let path: string | undefined = "/tags/list"; path !== undefined;) {
      const response = await this.#send("GET", reference, path, {}, auth, signal);
      if (response.statusCode !== 200) await refuse(response, reference);
      const { tags } = parseObject((await readBody(response, manifestLimitBytes)).toString("utf8"));
      if (Array.isArray(tags)) found.push(...tags.filter((tag): tag is string => typeof tag === "string"));
      if (found.length > tagLimit || ++pages > tagPageLimit)
        throw new ClusterError(
          "resource-exhausted",
          `${reference.path} has more than ${tagLimit} tags, or ${tagPageLimit} pages of them: name one`,
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
    const base = await this.#hosts.base(reference.domain, signal);
    const target = new URL(location ?? "", base);
    // One behind a proxy that ends TLS may not know that it has it. Credentials go there: never in the clear.
    if (target.hostname === base.hostname && base.protocol === "https:" && target.protocol === "http:")
      return { location: new URL(`${base.origin}${target.pathname}${target.search}`) };
    return { location: target };
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
    const isOwn = url.origin === (await this.#hosts.base(reference.domain, signal)).origin;
    const send = (authorization: string | undefined): Promise<IncomingMessage> => {
      const sent = { method: "PUT", url, headers: withAuthorization(headers, authorization) } as const;
      return this.#transport
        .request({ ...sent, body: Readable.from(body()) }, reference.domain, signal)
        .catch((error: unknown) => {
          signal.throwIfAborted();
          if (error instanceof ClusterError) throw error;
          throw new ClusterError("unavailable", `Put "${url.origin}${url.pathname}": ${errorText(error)}`, {
            cause: error,
          });
        });
    };
    let response = await send(isOwn ? this.#authorization(reference, auth) : undefined);
    if (isOwn && response.statusCode === 401) {
      // The token ended since the upload began.
      const token = await this.#renewed(response, reference, auth, signal);
      if (token !== undefined) response = await send(token.header);
    }
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

  #remoteManifest(response: IncomingMessage): RemoteManifest {
    const digest = response.headers["docker-content-digest"];
    return {
      mediaType: (response.headers["content-type"] ?? "").split(";")[0]?.trim() ?? "",
      digest: typeof digest === "string" ? digest : "",
      size: Number(response.headers["content-length"] ?? 0),
      mirror: this.mirrorOf(response),
    };
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
        if (isRead(response)) {
          this.#answeredBy.set(response, mirror.host);
          // Whoever reads it is told as well; that he gave up is no fault of the mirror's.
          response.once("error", () => {
            if (!signal.aborted) this.distrust(mirror.host);
          });
          return response;
        }
        response.destroy();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof ClusterError)) throw error;
        this.distrust(mirror.host);
      }
    }
    const response = await this.#send(method, reference, path, headers, auth, signal);
    if (!isRead(response)) await refuse(response, reference);
    return response;
  }

  /** Sends, answers one challenge, and repeats what may be passing: broken connections, 5xx and 429. */
  async #send(
    method: Sent["method"],
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
    const { domain } = reference;
    const response = await this.#transport.follow(
      { ...sent, headers: withAuthorization(sent.headers, first) },
      domain,
      signal,
    );
    if (response.statusCode !== 401) return response;
    const token = await this.#renewed(response, reference, auth, signal);
    if (token === undefined) return response;
    const headers = withAuthorization(sent.headers, token.header);
    return this.#transport.follow({ ...sent, headers }, domain, signal);
  }

  /** What the challenge of a refusal asks for; undefined, and the refusal unread, where there is no such thing. */
  async #renewed(
    refusal: IncomingMessage,
    reference: Reference,
    auth: RegistryAuth | undefined,
    signal: AbortSignal,
  ): Promise<Token | undefined> {
    const challenges = parseChallenges(refusal.headers["www-authenticate"] ?? "");
    const token = await this.#answer(challenges, reference, auth, signal);
    if (token === undefined) return undefined;
    refusal.destroy();
    this.#tokens.set(tokenKey(reference, auth), token);
    return token;
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
        ? await this.#transport.post(
            realm,
            {
              ...(scope !== undefined && { scope }),
              ...service,
              grant_type: "refresh_token",
              client_id: "shoal",
              refresh_token: auth.identityToken,
            },
            reference.domain,
            signal,
          )
        : await this.#transport.follow(
            {
              method: "GET",
              // Several scopes are one parameter each here (token specification), one with blanks in a form (RFC 6749).
              url: withQuery(realm, { scope: scope?.split(" ") ?? [], ...service }),
              headers: withAuthorization({}, basicHeader(auth)),
            },
            reference.domain,
            signal,
          );
    if (response.statusCode !== 200)
      await refuse(response, reference, reference.path === "" ? "login" : "pull");
    const body = parseObject((await readBody(response, tokenLimitBytes)).toString("utf8"));
    const token = body["token"] ?? body["access_token"];
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new ClusterError("unauthenticated", `the token service ${realm.origin} sent no token`);
    }
    const seconds = body["expires_in"];
    const lifetimeMs = Math.max(typeof seconds === "number" ? seconds * 1000 : 0, tokenLifetimeMs);
    return { header: `Bearer ${token}`, untilMs: Date.now() + lifetimeMs - tokenMarginMs };
  }
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
