import { setImmediate as turn } from "node:timers/promises";

import type { Msg, NatsConnection } from "@nats-io/transport-node";
import t from "tap";

import { NetworkCheckReply, NetworkCheckRequest } from "../../../proto/gen/shoal/telemetry.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { silentLog } from "../../../runtime/log.ts";
import { answerNetworkChecks } from "../../../worker/network/answer.ts";
import type { HostNetwork } from "../../../worker/network/network.ts";

t.test(
  "who asks the same while a check runs gets its answer, another question waits for its turn",
  async (t) => {
    const said: string[] = [];
    const checks: { readonly peers: string; readonly end: (reason?: Error) => void }[] = [];
    const network = {
      examine: (peers: readonly { nodeId: string }[]) =>
        new Promise((resolve, reject) => {
          const end = (reason?: Error) => (reason === undefined ? resolve([]) : reject(reason));
          checks.push({ peers: peers.map(({ nodeId }) => nodeId).join(), end });
        }),
    } as unknown as HostNetwork;
    const question = (who: string, peer: string) => {
      const peers = [{ nodeId: peer, address: "10.0.0.1", hostname: peer }];
      const data = NetworkCheckRequest.encode(NetworkCheckRequest.fromPartial({ peers })).finish();
      const respond = (reply: Uint8Array) =>
        void said.push(`${who} ${NetworkCheckReply.decode(reply).findings.length}`);
      return { data, respond } as unknown as Msg;
    };
    async function* messages(): AsyncGenerator<Msg> {
      yield question("first", "b");
      yield question("second", "b");
      yield question("third", "c");
      yield question("fourth", "c");
    }
    const connection = {
      subscribe: () => Object.assign(messages(), { unsubscribe: () => undefined }),
    } as unknown as NatsConnection;
    const ending = new AbortController();
    t.teardown(() => ending.abort());
    answerNetworkChecks(
      { clock: systemClock, log: silentLog, nodeId: "a", network },
      connection,
      ending.signal,
    );
    await turn();
    t.strictSame(
      checks.map(({ peers }) => peers),
      ["b"],
    );
    checks[0]?.end();
    await turn();
    t.strictSame(said, ["first 0", "second 0"]);
    t.strictSame(
      checks.map(({ peers }) => peers),
      ["b", "c"],
    );
    checks[1]?.end(new Error("it failed"));
    await turn();
    t.strictSame(said, ["first 0", "second 0"], "whose check failed hears nothing, and the log does");
  },
);
