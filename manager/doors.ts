import type { Client, Server } from "@grpc/grpc-js";
import { ClusterError, noLeaderText } from "../model/errors.ts";
import { CertificateAuthorityService, type IssueResponse } from "../proto/gen/shoal/ca.ts";
import {
  ControlService,
  type ForwardRequest,
  type ForwardResponse,
  type JoinGroupResponse,
  type LeaveGroupResponse,
} from "../proto/gen/shoal/control.ts";
import { DispatcherService } from "../proto/gen/shoal/dispatcher.ts";
import type { Clock } from "../runtime/clock.ts";
import { type CaServiceDeps, getRoot, issue, renew } from "./ca/service.ts";
import { type DispatcherDoor, serveSession } from "./dispatcher/service.ts";
import type { MembershipDeps } from "./membership/run.ts";
import { joinGroup, leaveGroup } from "./membership/service.ts";
import { callManager, type ManagerChannels, NoLeaderYet, notLeadingText } from "./peers.ts";
import { bidi, type CallContext, type Doors, onBehalfHeader, originOf, unary } from "./rpc.ts";

/** Longer than an election takes; a caller waits at most this for a leader to be there. */
const leaderWaitMs = 4_000;
const leaderPollMs = 50;
/** Certificates take milliseconds, a change of membership up to seconds. */
const passTimeoutMs = 10_000;

export interface DoorDeps extends Doors, DispatcherDoor {
  readonly clock: Clock;
  readonly ca: CaServiceDeps;
  readonly membership: MembershipDeps;
  readonly channels: ManagerChannels;
  isLeader(): boolean;
  /** Carries out a REST request here. @throws `no-leader` when this manager does not lead. */
  inject(request: ForwardRequest): Promise<ForwardResponse>;
}

/** Every RPC of a manager, each behind its role check; what only the leader may do is passed on, once. */
export function addDoors(server: Server, deps: DoorDeps): void {
  server.addService(CertificateAuthorityService, {
    getRoot: unary(deps, "/shoal.v1.CertificateAuthority/GetRoot", async () => getRoot(deps.ca)),
    issue: unary(deps, "/shoal.v1.CertificateAuthority/Issue", (request, call) =>
      atLeader<IssueResponse>(deps, call, "", {
        here: () => issue(deps.ca, request, call.peer.address, call.signal),
        there: (client, options) => callManager(client, CertificateAuthorityService.issue, request, options),
      }),
    ),
    renew: unary(deps, "/shoal.v1.CertificateAuthority/Renew", (request, call) => {
      const { nodeId } = originOf(deps.roster, call);
      return atLeader<IssueResponse>(deps, call, nodeId, {
        here: () => renew(deps.ca, request, nodeId, call.signal),
        there: (client, options) => callManager(client, CertificateAuthorityService.renew, request, options),
      });
    }),
  });
  server.addService(ControlService, {
    forward: unary(deps, "/shoal.v1.Control/Forward", async (request: ForwardRequest) => {
      if (!deps.isLeader()) throw notLeading();
      return deps.inject(request);
    }),
    joinGroup: unary(deps, "/shoal.v1.Control/JoinGroup", (request, call) => {
      const { nodeId } = originOf(deps.roster, call);
      return atLeader<JoinGroupResponse>(deps, call, nodeId, {
        here: () => joinGroup(deps.membership, request, nodeId, call.signal),
        there: (client, options) => callManager(client, ControlService.joinGroup, request, options),
      });
    }),
    leaveGroup: unary(deps, "/shoal.v1.Control/LeaveGroup", (request, call) => {
      const { nodeId } = originOf(deps.roster, call);
      return atLeader<LeaveGroupResponse>(deps, call, nodeId, {
        here: () => leaveGroup(deps.membership, nodeId, call.signal),
        there: (client, options) => callManager(client, ControlService.leaveGroup, request, options),
      });
    }),
  });
  server.addService(DispatcherService, {
    session: bidi(deps, "/shoal.v1.Dispatcher/Session", (stream, call) => {
      const { peer } = call;
      if (peer.kind !== "node")
        throw new ClusterError("permission-denied", "a session needs a node's certificate");
      return serveSession(deps, stream, peer, call.signal);
    }),
  });
}

/** Refuses a second hop. The caller looks for the leader again. */
export function notLeading(): NoLeaderYet {
  return new NoLeaderYet(notLeadingText);
}

interface Ways<Response> {
  here(): Promise<Response>;
  there(
    client: Client,
    options: { readonly timeoutMs: number; readonly signal: AbortSignal; readonly onBehalf: string },
  ): Promise<Response>;
}

/** Carries a call out here, or at the leader; waits a little while there is none. */
async function atLeader<Response>(
  deps: DoorDeps,
  call: CallContext,
  onBehalf: string,
  ways: Ways<Response>,
): Promise<Response> {
  const endMs = deps.clock.monotonic() + leaderWaitMs;
  const forwarded = call.header(onBehalfHeader) !== undefined;
  for (;;) {
    if (deps.isLeader()) return ways.here();
    if (forwarded) throw notLeading();
    const address = deps.leaderAddress();
    try {
      if (address === undefined) throw new NoLeaderYet(noLeaderText);
      const options = { timeoutMs: passTimeoutMs, signal: call.signal, onBehalf };
      return await ways.there(deps.channels.to(address), options);
    } catch (error) {
      if (!(error instanceof NoLeaderYet) || deps.clock.monotonic() >= endMs) throw error;
    }
    await deps.clock.sleep(leaderPollMs, call.signal);
  }
}
