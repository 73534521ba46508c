import type { ChannelCredentials } from "@grpc/grpc-js";
import { DispatcherClient } from "../../proto/gen/shoal/dispatcher.ts";
import { channelOptions } from "../../runtime/grpc.ts";

/** Longer than any session; the session has signs of life of its own, as often as the manager says. */
const noKeepaliveMs = 2 ** 31 - 1;

/** A client of one manager's dispatcher, with a connection of its own. */
export function openDispatcher(address: string, credentials: ChannelCredentials): DispatcherClient {
  return new DispatcherClient(address, credentials, {
    ...channelOptions(),
    "grpc.keepalive_time_ms": noKeepaliveMs,
    "grpc.use_local_subchannel_pool": 1,
  });
}
