import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { createApiServer } from "../../../runtime/api-server.ts";
import { silentLog } from "../../../runtime/log.ts";
import { type ContainerDeps, containerRoutes } from "../../../worker/api/container-routes.ts";
import { containerReadRoutes } from "../../../worker/api/container-read-routes.ts";
import { printInspected } from "../../../worker/api/container-print.ts";
import type { RouteContext } from "../../../worker/api/request.ts";
import type { ContainerRecord, ContainerState } from "../../../worker/engine/engine.ts";
import { VirtualClock } from "../../sim/clock.ts";
import { startedRecord } from "../containers/record.ts";

const ids = ["a", "b", "c"].map((letter) => letter.repeat(64));
const stopped: ContainerState = {
  state: "stopped",
  startedAtMs: 0,
  exit: { exitCode: 0, atMs: 0, oomKilled: false, error: "" },
};

/** Routes over three containers that have ended; `remove` is the test's. */
function fixture(remove: (id: string) => Promise<void>) {
  const records = ids.map((id) => ({
    id,
    name: id.slice(0, 3),
    status: stopped,
    labels: {},
    createdAtMs: 0,
  }));
  const engine = { list: async () => records, files: { diskBytes: async () => 5 } };
  const containers = {
    engine,
    record: (id: string) => startedRecord(id, {}),
    isRestarting: () => false,
    remove,
  };
  const { app, versionOf } = createApiServer({
    log: silentLog,
    bodyLimitBytes: 1_000,
    bodies: "stream",
    trailingSlash: "ignored",
  });
  const ending = new AbortController().signal;
  const deps = { clock: new VirtualClock(), log: silentLog, engine, containers, ending, versionOf };
  const context = { ending, versionOf, publishPruned: () => undefined } as unknown as RouteContext;
  containerRoutes(app, deps as unknown as ContainerDeps, context);
  containerReadRoutes(app, deps as unknown as ContainerDeps, context);
  t.teardown(() => app.close());
  return async (method: "GET" | "POST" | "DELETE", url: string): Promise<[number, unknown]> => {
    const { statusCode, payload } = await app.inject({ method, url });
    return [statusCode, payload === "" ? "" : JSON.parse(payload)];
  };
}

t.test("a prune passes over what somebody else removes or starts meanwhile", async (t) => {
  const [gone, started, left] = ids;
  const ask = fixture(async (id) => {
    if (id === gone) throw new ClusterError("not-found", "No such container");
    if (id === started) throw new ClusterError("conflict", "container is running");
  });
  t.strictSame(await ask("POST", "/containers/prune"), [
    200,
    { ContainersDeleted: [left], SpaceReclaimed: 5 },
  ]);
});

t.test("one prune at a time", async (t) => {
  let go = (): void => undefined;
  let begun = (): void => undefined;
  const gate = new Promise<void>((resolve) => (go = resolve));
  const hasBegun = new Promise<void>((resolve) => (begun = resolve));
  const ask = fixture(() => {
    begun();
    return gate;
  });
  const first = ask("POST", "/containers/prune");
  await hasBegun;
  t.strictSame(await ask("POST", "/containers/prune"), [
    409,
    { message: "a prune operation is already running" },
  ]);
  go();
  t.equal((await first)[0], 200);
  t.equal((await ask("POST", "/containers/prune"))[0], 200, "and another one after it");
});

t.test("the removal of a link removes no container", async (t) => {
  const removed: string[] = [];
  const ask = fixture(async (id) => void removed.push(id));
  const message = "Conflict, cannot remove the default link name of the container";
  t.strictSame(await ask("DELETE", "/containers/aaa?link=1&force=1"), [500, { message }]);
  t.strictSame(removed, []);
  t.equal((await ask("DELETE", "/containers/aaa?link=0"))[0], 204);
  t.equal((await ask("DELETE", "/containers/nosuch?link=1"))[0], 404);
});

t.test("what every object has is no action", async (t) => {
  const ask = fixture(async () => undefined);
  for (const name of ["toString", "constructor", "hasOwnProperty", "__proto__"]) {
    t.equal((await ask("POST", `/containers/aaa/${name}`))[0], 404, `POST ${name}`);
    t.equal((await ask("GET", `/containers/aaa/${name}`))[0], 404, `GET ${name}`);
  }
});

t.test("that something inside was killed for its memory is told while the container runs on", (t) => {
  const record = {
    id: ids[0],
    name: "one",
    args: ["sh"],
    env: [],
    labels: {},
    mounts: [],
    resources: {},
    network: { kind: "none" },
    createdAtMs: 0,
    status: { state: "running", pid: 1, startedAtMs: 0, oomKilled: true },
  } as unknown as ContainerRecord;
  const view = { record, isRestarting: false, execIds: [], health: undefined, ports: [], exposed: [] };
  t.match(printInspected({ ...view, endpoints: [], sandbox: undefined }, "1.41"), {
    State: { OOMKilled: true },
  });
  t.end();
});
