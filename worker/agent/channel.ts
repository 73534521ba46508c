import type { ChannelCredentials } from "@grpc/grpc-js";
import { DispatcherClient } from "../../proto/gen/shoal/dispatcher.ts";
import { channelOptions } from "../../runtime/grpc.ts";

/** A manager that is silent this long is asked for a sign of life. */
const keepaliveMs = 1_000;
/**
 * It is given up when none comes in this time. A busy manager may be late by a second: were all its workers to leave it
 * then and come back, it would only be busier. Much longer, and a worker whose leader lost its power would find the next
 * one too late, who takes it for lost after six seconds (`manager/dispatcher/node-states.ts`).
 */
const keepaliveTimeoutMs = 2_000;

/** A client of one manager's dispatcher, with a connection of its own. */
export function openDispatcher(address: string, credentials: ChannelCredentials): DispatcherClient {
  return new DispatcherClient(address, credentials, {
    ...channelOptions(),
    "grpc.keepalive_time_ms": keepaliveMs,
    "grpc.keepalive_timeout_ms": keepaliveTimeoutMs,
  });
}
