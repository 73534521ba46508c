import { ChannelCredentials, credentials as grpcCredentials } from "@grpc/grpc-js";
import { X509Certificate } from "node:crypto";
import {
  checkServerIdentity,
  createSecureContext,
  type SecureContextOptions,
  type TLSSocket,
} from "node:tls";

/** What a node shows and whom it believes. `rootPem` may hold several certificates while a root is replaced. */
export interface TlsIdentity {
  readonly certificatePem: string;
  /** PKCS#8. */
  readonly keyPem: string;
  readonly rootPem: string;
}

/** Every connection between hosts; nothing older is spoken. */
export const tlsVersion = "TLSv1.3";

/** Who is at the other end of an accepted connection. `address` has no port. */
export type Peer =
  /** Certificate of a root we believe; the names are as in its subject. */
  | {
      readonly kind: "verified";
      readonly address: string;
      readonly commonName: string;
      readonly organizationalUnit: string;
      readonly organization: string;
    }
  /** No certificate was shown. */
  | { readonly kind: "anonymous"; readonly address: string }
  /** A certificate was shown and is not to be believed, such as one of another cluster or an expired one. */
  | { readonly kind: "refused"; readonly address: string; readonly reason: string };

/** The identity in use now. Listeners and channels made from it follow every replacement. */
export class TlsKeeper {
  #current: TlsIdentity;
  readonly #watchers = new Set<(identity: TlsIdentity) => void>();

  constructor(identity: TlsIdentity) {
    this.#current = identity;
  }

  get current(): TlsIdentity {
    return this.#current;
  }

  /** New connections use the new identity; those that are open live on with the old one. */
  replace(identity: TlsIdentity): void {
    this.#current = identity;
    for (const watcher of this.#watchers) watcher(identity);
  }

  /** @returns A function that ends the watching. */
  watch(watcher: (identity: TlsIdentity) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}

/** Options for `tls.createServer` and `setSecureContext`: our certificate, and the roots for clients' ones. */
export function serverContextOptions(identity: TlsIdentity): SecureContextOptions {
  return {
    cert: identity.certificatePem,
    key: identity.keyPem,
    ca: identity.rootPem,
    minVersion: tlsVersion,
  };
}

/** Options for `tls.connect`: our certificate, and the roots that the server's must come from. */
export function clientContextOptions(identity: TlsIdentity): SecureContextOptions {
  return serverContextOptions(identity); // The same three, seen from the other side.
}

/** Reads the peer of a connection whose handshake is over, on a server that asks for certificates. */
export function peerOfSocket(socket: TLSSocket): Peer {
  const address = plainAddress(socket.remoteAddress ?? "");
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return { kind: "anonymous", address };
  if (!socket.authorized) {
    return { kind: "refused", address, reason: String(socket.authorizationError ?? "not verified") };
  }
  const subject = subjectOf(certificate);
  return {
    kind: "verified",
    address,
    commonName: subject.get("CN") ?? "",
    organizationalUnit: subject.get("OU") ?? "",
    organization: subject.get("O") ?? "",
  };
}

/** The parts of a certificate's subject; our certificates have one value of each. */
export function subjectOf(certificate: X509Certificate): ReadonlyMap<string, string> {
  const parts = certificate.subject.split("\n").map((line): [string, string] => {
    const split = line.indexOf("=");
    return [line.slice(0, split), line.slice(split + 1)];
  });
  return new Map(parts);
}

/** IPv4 addresses that arrive on a dual-stack socket lose their IPv6 clothes. */
export function plainAddress(address: string): string {
  return address.startsWith("::ffff:") ? address.slice("::ffff:".length) : address;
}

/**
 * Credentials for a gRPC channel: our certificate is shown, and the server must have one of our root with the DNS name
 * `serverName`. Use with `channelOptions(serverName)`.
 */
export function channelCredentials(identity: TlsIdentity): ChannelCredentials {
  const { rootPem, certificatePem, keyPem } = identity;
  return secureChannel({ ca: rootPem, cert: certificatePem, key: keyPem });
}

/** For a joiner that knows the root but has no certificate yet. */
export function anonymousChannelCredentials(rootPem: string): ChannelCredentials {
  return secureChannel({ ca: rootPem });
}

/**
 * For the first contact of a joiner, which compares what it hears with the digest in its token and speaks of nothing
 * secret before it has: the server is not verified.
 */
export function unverifiedChannelCredentials(): ChannelCredentials {
  const context = createSecureContext({ minVersion: tlsVersion });
  return grpcCredentials.createFromSecureContext(context, {
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  });
}

function secureChannel(options: SecureContextOptions): ChannelCredentials {
  const context = createSecureContext({ ...options, minVersion: tlsVersion });
  return grpcCredentials.createFromSecureContext(context, { checkServerIdentity });
}
