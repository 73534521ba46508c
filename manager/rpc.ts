import type { handleBidiStreamingCall, handleUnaryCall, Metadata, ServerDuplexStream } from "@grpc/grpc-js";
import { ClusterError, toClusterError } from "../model/errors.ts";
import { isId, type ClusterId, type NodeId } from "../model/ids.ts";
import { type NodeRole, roleUnits } from "../model/node.ts";
import { CertificateAuthorityService } from "../proto/gen/shoal/ca.ts";
import { ControlService } from "../proto/gen/shoal/control.ts";
import { DispatcherService } from "../proto/gen/shoal/dispatcher.ts";
import { toStatus } from "../proto/status.ts";
import type { Log } from "../runtime/log.ts";
import type { Peer } from "../runtime/tls.ts";

/** Everything that listens on the cluster port. */
export const services = [CertificateAuthorityService, ControlService, DispatcherService] as const;

type PathsOf<Service> = Service extends Record<string, { readonly path: infer Path }> ? Path : never;
export type RpcPath = PathsOf<(typeof services)[number]>;

export type Caller = "anyone" | NodeRole;

/** Who may call what. A new RPC does not compile until it is listed here. */
export const callersOf: Readonly<Record<RpcPath, readonly Caller[]>> = {
  "/shoal.v1.CertificateAuthority/GetRoot": ["anyone"],
  "/shoal.v1.CertificateAuthority/Issue": ["anyone"],
  "/shoal.v1.CertificateAuthority/Renew": ["worker", "manager"],
  "/shoal.v1.Control/Forward": ["manager"],
  "/shoal.v1.Control/JoinGroup": ["manager"],
  "/shoal.v1.Control/LeaveGroup": ["manager"],
  "/shoal.v1.Dispatcher/Session": ["worker", "manager"],
};

/** What the cluster knows about its nodes; asked at every call. */
export interface Roster {
  readonly clusterId: ClusterId;
  isRemoved(nodeId: NodeId): boolean;
  /**
   * The role the cluster has given the node, where that is known for certain: on the leader. A certificate of a
   * demoted manager is valid for weeks; this makes it worthless at once.
   */
  roleInEffect(nodeId: NodeId): NodeRole | undefined;
}

export type AuthorizedPeer =
  | { readonly kind: "anonymous"; readonly address: string }
  | { readonly kind: "node"; readonly address: string; readonly nodeId: NodeId; readonly role: NodeRole };

/**
 * Decides whether the peer may make the call.
 *
 * @throws {ClusterError} `permission-denied`, naming what was missing.
 */
export function authorize(roster: Roster, path: RpcPath, peer: Peer): AuthorizedPeer {
  const callers = callersOf[path];
  if (callers.includes("anyone")) return { kind: "anonymous", address: peer.address };
  const node = verifyNode(roster, peer);
  if (!callers.includes(node.role)) {
    throw denied(`${path} is not for a ${node.role}; it is for: ${callers.join(", ")}`);
  }
  const effective = roster.roleInEffect(node.nodeId);
  if (effective === "worker" && !callers.includes("worker")) {
    throw denied(`node ${node.nodeId} is no manager any more`);
  }
  return node;
}

function verifyNode(roster: Roster, peer: Peer): Extract<AuthorizedPeer, { kind: "node" }> {
  switch (peer.kind) {
    case "anonymous":
      throw denied("this call needs the certificate of a node of this cluster");
    case "refused":
      throw denied(`the certificate is not accepted: ${peer.reason}`);
    case "verified": {
      const { commonName, organizationalUnit, organization, address } = peer;
      const role = roleOfUnit(organizationalUnit);
      if (organization !== roster.clusterId) throw denied("the certificate is of another cluster");
      if (role === undefined || !isId(commonName)) throw denied("the certificate is not of a node");
      const nodeId = commonName as NodeId;
      if (roster.isRemoved(nodeId)) throw denied(`node ${nodeId} was removed from swarm`);
      return { kind: "node", address, nodeId, role };
    }
  }
}

function roleOfUnit(unit: string): NodeRole | undefined {
  return (Object.keys(roleUnits) as NodeRole[]).find((role) => roleUnits[role] === unit);
}

function denied(message: string): ClusterError {
  return new ClusterError("permission-denied", message);
}

/** What a handler knows of its call. */
export interface CallContext {
  readonly peer: AuthorizedPeer;
  /** Aborts when the caller gives up or is gone. */
  readonly signal: AbortSignal;
  /** Metadata of the call; undefined when it is not there. */
  header(name: string): string | undefined;
}

/** Set by a manager that passes a call on to the leader: whose call it is. Its presence forbids another hop. */
export const onBehalfHeader = "shoal-on-behalf";

/** Whose call it is: the peer's own, or that of the node a manager speaks for. */
export interface Origin {
  readonly nodeId: NodeId;
  /** The role in the certificate that vouches for the call. */
  readonly role: NodeRole;
  readonly forwarded: boolean;
}

/**
 * @throws {ClusterError} `permission-denied` when somebody else than a manager claims to speak for another, or for a
 *   node that was removed.
 */
export function originOf(roster: Roster, call: CallContext): Origin {
  const { peer } = call;
  if (peer.kind !== "node") throw denied("this call needs the certificate of a node of this cluster");
  const header = call.header(onBehalfHeader);
  if (header === undefined) return { nodeId: peer.nodeId, role: peer.role, forwarded: false };
  if (peer.role !== "manager") throw denied("only a manager may pass on calls of others");
  const nodeId = header as NodeId;
  if (roster.isRemoved(nodeId)) throw denied(`node ${nodeId} was removed from swarm`);
  return { nodeId, role: peer.role, forwarded: true };
}

/** What stands before every handler. */
export interface Doors {
  readonly roster: Roster;
  readonly log: Log;
  peerOf(call: { getPeer(): string }): Peer;
}

/** A unary handler behind the role check; failures become statuses, unforeseen ones are logged here. */
export function unary<Request, Response>(
  doors: Doors,
  path: RpcPath,
  handler: (request: Request, call: CallContext) => Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const controller = new AbortController();
    call.on("cancelled", () => controller.abort(new ClusterError("unavailable", "the caller has gone")));
    async function answer(): Promise<Response> {
      const peer = authorize(doors.roster, path, doors.peerOf(call));
      return handler(call.request, { peer, signal: controller.signal, header: headerOf(call) });
    }
    answer().then(
      (response) => callback(null, response),
      (error: unknown) => {
        logUnforeseen(doors.log, path, error);
        callback(toStatus(error), null);
      },
    );
  };
}

/** A stream handler behind the role check. When it settles the stream is ended, with a status if it threw. */
export function bidi<Request, Response>(
  doors: Doors,
  path: RpcPath,
  handler: (stream: ServerDuplexStream<Request, Response>, call: CallContext) => Promise<void>,
): handleBidiStreamingCall<Request, Response> {
  return (stream) => {
    const controller = new AbortController();
    const gone = (): void => controller.abort(new ClusterError("unavailable", "the caller has gone"));
    stream.on("cancelled", gone);
    stream.on("close", gone);
    stream.on("error", gone); // Without a listener a broken stream would end the process.
    async function serve(): Promise<void> {
      const peer = authorize(doors.roster, path, doors.peerOf(stream));
      await handler(stream, { peer, signal: controller.signal, header: headerOf(stream) });
    }
    serve().then(
      () => stream.end(),
      (error: unknown) => {
        logUnforeseen(doors.log, path, error);
        stream.emit("error", toStatus(error)); // How grpc-js is told a stream's status.
      },
    );
  };
}

function headerOf(call: { readonly metadata: Metadata }): CallContext["header"] {
  return (name) => {
    const value = call.metadata.get(name)[0];
    return typeof value === "string" ? value : undefined;
  };
}

function logUnforeseen(log: Log, path: RpcPath, error: unknown): void {
  if (toClusterError(error).code === "internal") log.error({ rpc: path, error }, "handler failed");
  else log.debug({ rpc: path, error: String(error) }, "call refused");
}
