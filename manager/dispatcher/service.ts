import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { ManagerMessage, WorkerMessage } from "../../proto/gen/shoal/dispatcher.ts";
import type { Dispatcher, DispatcherPeer } from "./dispatcher.ts";

/** What a manager knows about who leads. */
export interface DispatcherDoor {
  /** Present while this manager leads. */
  dispatcher(): Dispatcher | undefined;
  /** "ip:port" of the leader; undefined while there is none. */
  leaderAddress(): string | undefined;
}

/** `Dispatcher.Session` on any manager: served by the leader, answered with a redirect by all others. */
export async function serveSession(
  door: DispatcherDoor,
  stream: ServerDuplexStream<WorkerMessage, ManagerMessage>,
  peer: DispatcherPeer,
  signal: AbortSignal,
): Promise<void> {
  await door.dispatcher()?.serve(stream, peer, signal);
  // Not the leader, or not any more. The stream's end is what the worker acts on.
  const leaderAddress = door.leaderAddress() ?? "";
  if (!signal.aborted) stream.write({ body: { $case: "redirect", value: { leaderAddress } } });
}
