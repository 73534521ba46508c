import { mkdtempSync, rmSync } from "node:fs";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { ClusterError, outcomeUnknownText } from "../../../model/errors.ts";
import type { NodeId, ServiceId, TaskId } from "../../../model/ids.ts";
import type { ApiDeps } from "../../../manager/api/deps.ts";
import { errorReply, noLeaderReply } from "../../../manager/api/error.ts";
import { leadershipLost } from "../../../manager/raft/requests.ts";
import { leaderWaitMs } from "../../../manager/api/forward.ts";
import { requestDeadlineMs } from "../../../manager/api/server.ts";
import type { ForwardRequest } from "../../../proto/gen/shoal/control.ts";
import type { LogLine } from "../../../proto/telemetry.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { settle, VirtualClock } from "../../sim/clock.ts";
import { id } from "../../sim/objects.ts";
import { ask, idOf, makeHarness, type Harness } from "./harness.ts";
import { plainService } from "./specs.ts";

interface Served extends Harness {
  readonly open: (line: string, body?: string, headers?: Record<string, string>) => Promise<IncomingMessage>;
}

async function serve(
  t: { teardown(handler: () => Promise<void>): void },
  options: Partial<Parameters<typeof makeHarness>[0]> = {},
): Promise<Served> {
  const harness = await makeHarness({ clock: systemClock, ...options });
  const folder = mkdtempSync(join(tmpdir(), "shoal-api-"));
  const socketPath = join(folder, "manager.sock");
  await harness.api.listen(socketPath);
  t.teardown(async () => {
    await harness.api.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return {
    ...harness,
    open: (line, body = "", headers = {}) =>
      new Promise((resolve, reject) => {
        const [method, path] = line.split(" ");
        const sent = httpRequest(
          { socketPath, method, path, headers: { ...headers, "content-length": Buffer.byteLength(body) } },
          resolve,
        );
        sent.on("error", reject);
        sent.end(body);
      }),
  };
}

async function bytes(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function text(response: IncomingMessage): Promise<string> {
  return (await bytes(response)).toString("utf8");
}

/** Lets real input and output happen until something was called. */
async function until(happened: () => boolean): Promise<void> {
  while (!happened()) await new Promise((resolve) => setImmediate(resolve));
}

t.test("answers carry the headers that clients negotiate by, errors included", async (t) => {
  const { open } = await serve(t);
  for (const line of ["GET /v1.50/nodes", "GET /nodes", "GET /v1.24/nope", "GET /%ZZ", "GET /v9.9/nodes"]) {
    const response = await open(line);
    t.match(
      response.headers,
      {
        "content-type": "application/json",
        "api-version": "1.50",
        ostype: "linux",
        "docker-experimental": "false",
        server: /^Docker\//,
      },
      line,
    );
    t.type(JSON.parse(await text(response)), "object");
  }
  const old = await open("GET /v1.20/nodes");
  t.equal(old.statusCode, 400);
  t.match(old.headers["content-type"], "text/plain");
  t.match(await text(old), "client version 1.20 is too old. Minimum supported API version is 1.24");
});

const line = (change: Partial<LogLine>): LogLine => ({
  taskId: id<TaskId>("t1"),
  serviceId: id<ServiceId>("s1"),
  nodeId: id<NodeId>("n1"),
  stream: "stdout",
  atNs: "1700000000000000001",
  line: Buffer.from("hello\n"),
  ...change,
});

t.test("a log line is one frame: header, timestamp, details, text", async (t) => {
  const { open, logLines, logCalls, api } = await serve(t);
  await ask({ api }, "POST /services/create", plainService("web"));
  logLines.push(line({}), line({ stream: "stderr", line: Buffer.from("no break") }));
  const response = await open(
    "GET /v1.50/services/web/logs?stdout=1&stderr=1&timestamps=1&details=1&tail=5&since=10m&follow=0",
  );
  t.equal(response.headers["content-type"], "application/vnd.docker.multiplexed-stream");
  const body = await bytes(response);
  const prefix = `2023-11-14T22:13:20.000000001Z com.docker.swarm.node.id=${id("n1")},com.docker.swarm.service.id=${id("s1")},com.docker.swarm.task.id=${id("t1")} `;
  const first = `${prefix}hello\n`;
  t.strictSame([...body.subarray(0, 8)], [1, 0, 0, 0, 0, 0, 0, first.length]);
  t.equal(body.subarray(8, 8 + first.length).toString(), first);
  t.equal(body[8 + first.length], 2);
  t.equal(body.subarray(16 + first.length).toString(), `${prefix}no break\n`);
  t.match(logCalls, [{ options: { stdout: true, stderr: true, follow: false, tail: 5, sinceMs: Number } }]);
  const old = await open("GET /v1.41/services/web/logs?stdout=1");
  t.equal(old.headers["content-type"], "application/vnd.docker.raw-stream");
  old.destroy();
});

t.test("headers of a followed stream come before its first line, and leaving ends it", async (t) => {
  let ended = (): void => {};
  const end = new Promise<void>((resolve) => (ended = resolve));
  const { open, api, deps } = await serve(t);
  await ask({ api }, "POST /services/create", plainService("web"));
  const waiting = deps as { logs: ApiDeps["logs"] };
  waiting.logs = async function* (_selector, _options, signal) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    ended();
    yield* [];
  };
  const response = await open("GET /services/web/logs?stdout=1&follow=1");
  t.equal(response.statusCode, 200);
  response.destroy();
  await end;
});

t.test("a failure amid the lines comes as a frame of its own, which the client prints", async (t) => {
  const { open, api, deps } = await serve(t);
  await ask({ api }, "POST /services/create", plainService("web"));
  const failing = deps as { logs: ApiDeps["logs"] };
  failing.logs = async function* () {
    yield line({});
    throw new ClusterError("unavailable", "node n1 is not available");
  };
  const body = await bytes(await open("GET /services/web/logs?stdout=1"));
  const rest = body.subarray(8 + "hello\n".length);
  t.equal(rest[0], 3);
  t.equal(rest.subarray(8).toString(), "node n1 is not available");
});

t.test("events: kept ones by since, new ones as they come", async (t) => {
  const { open, api } = await serve(t);
  const id = idOf(await ask({ api }, "POST /services/create", plainService("web")));
  const past = await text(
    await open(
      `GET /events?since=1&until=${Date.now() / 1000}&filters=${encodeURIComponent('{"type":["service"]}')}`,
    ),
  );
  const event = JSON.parse(past) as object;
  t.match(event, {
    Type: "service",
    Action: "create",
    Actor: { ID: id, Attributes: { name: "web" } },
    scope: "swarm",
  });
  t.match(past, /"timeNano":\d{19}}/, "nanoseconds are exact integers");
  const live = await open("GET /events");
  t.equal(live.headers["content-type"], "application/json");
  const next = new Promise<Buffer>((resolve) => live.once("data", resolve));
  await ask(
    { api },
    "POST /services/web/update?version=2",
    plainService("web", { Mode: { Replicated: { Replicas: 5 } } }),
  );
  t.match(JSON.parse((await next).toString()), {
    Action: "update",
    Actor: { Attributes: { "replicas.old": "1", "replicas.new": "5" } },
  });
  live.destroy();
});

t.test("a follower passes writes on whole, and answers reads itself", async (t) => {
  const seen: ForwardRequest[] = [];
  let barriers = 0;
  const { open } = await serve(t, {
    cluster: { isLeader: () => false, readBarrier: async () => void (barriers += 1) },
    forward: async (request) => {
      seen.push(request);
      return {
        status: 201,
        headers: { "content-type": "application/json" },
        body: Buffer.from('{"ID":"x"}\n'),
      };
    },
  });
  const answer = await open("POST /v1.44/configs/create?a=b", '{"Name":"c"}', {
    "content-type": "application/json",
    "x-registry-auth": "e30=",
    cookie: "no",
  });
  t.equal(answer.statusCode, 201);
  t.equal(answer.headers["content-type"], "application/json");
  t.equal(await text(answer), '{"ID":"x"}\n');
  t.match(seen, [
    {
      method: "POST",
      url: "/v1.44/configs/create?a=b",
      headers: { "content-type": "application/json", "x-registry-auth": "e30=" },
    },
  ]);
  t.equal(seen[0]?.headers["cookie"], undefined);
  t.equal(seen[0]?.body.toString(), '{"Name":"c"}');
  t.equal((await open("GET /nodes")).statusCode, 200);
  t.equal(barriers, 1);
  t.equal(seen.length, 1);
});

t.test("a data key is rotated on the manager that is asked, without a leader too", async (t) => {
  const { open } = await serve(t, {
    cluster: { isLeader: () => false, leaderId: () => undefined, rotateDataKey: async () => 7 },
  });
  const answer = await open("POST /shoal/v1/data-key/rotate");
  t.equal(answer.statusCode, 200);
  t.match(JSON.parse(await text(answer)), { KeyID: 7 });
});

t.test("a request that was passed on is not passed on again", async (t) => {
  const { api } = await serve(t, { cluster: { isLeader: () => false } });
  const request = { method: "POST", url: "/configs/create", headers: {}, body: Buffer.alloc(0) };
  await t.rejects(api.inject(request), { code: "no-leader" });
});

t.test("a short time without a leader is waited out", async (t) => {
  const clock = new VirtualClock();
  let tries = 0;
  const { open } = await serve(t, {
    clock,
    cluster: { isLeader: () => false, leaderAddress: () => (tries++ < 3 ? undefined : "10.9.0.2:2377") },
    forward: async () => ({ status: 200, headers: {}, body: Buffer.alloc(0) }),
  });
  const answer = open("DELETE /services/web");
  await until(() => {
    void clock.advance(25);
    return tries >= 4;
  });
  t.equal((await answer).statusCode, 200);
});

t.test("no leader at all: the text that clients know, for reads and writes", async (t) => {
  for (const request of ["GET /nodes", "POST /configs/create"]) {
    const clock = new VirtualClock();
    let waited = false;
    const noLeader = (): never => {
      waited = true;
      throw new ClusterError("no-leader", "lost");
    };
    const { open } = await serve(t, {
      clock,
      cluster: {
        isLeader: () => false,
        leaderAddress: () => (waited = true) as unknown as undefined,
        readBarrier: async () => noLeader(),
      },
      forward: async () => noLeader(),
    });
    const answer = open(request);
    await until(() => waited);
    await settle();
    await clock.advance(leaderWaitMs + 50);
    const response = await answer;
    t.equal(response.statusCode, 500);
    t.strictSame(JSON.parse(await text(response)), { message: noLeaderReply });
  }
});

t.test("a write under way when the leader is lost is not shown as one that was never begun", async (t) => {
  for (const reason of [leadershipLost(), new ClusterError("no-leader", outcomeUnknownText)]) {
    t.match(errorReply(reason).body.message, /whether it took effect is not known/);
  }
});

t.test("a request that takes too long ends with a clear answer", async (t) => {
  const clock = new VirtualClock();
  let waiting = false;
  const { open } = await serve(t, {
    clock,
    cluster: {
      readBarrier: () => {
        waiting = true;
        return new Promise(() => {});
      },
    },
  });
  const answer = open("GET /nodes");
  await until(() => waiting);
  await clock.advance(requestDeadlineMs);
  const response = await answer;
  t.equal(response.statusCode, 500);
  t.match(await text(response), "context deadline exceeded");
});
