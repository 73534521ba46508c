import t from "tap";
import type { Client } from "../../cli/client.ts";
import { follow } from "../../cli/progress.ts";

const cause = "update rolled back due to failure or early termination of task t9: task: non-zero exit (1)";

t.test("a rollback is told with its cause, also once it is over", async (t) => {
  const states = [
    { State: "updating", Message: "update in progress" },
    { State: "rollback_started", Message: cause },
    { State: "rollback_completed", Message: "rollback completed" },
  ];
  const service = { ID: "s1", Spec: { Mode: { Replicated: { Replicas: 1 } }, UpdateConfig: { Monitor: 1 } } };
  const running = { ID: "t1", Slot: 1, DesiredState: "running", Status: { State: "running" } };
  let looks = 0;
  const client: Client = {
    get<T>(path: string) {
      if (path === "/nodes") return Promise.resolve([] as T);
      // Its new task is what has not come up, until the rollback is over.
      if (path === "/tasks") return Promise.resolve((looks < states.length ? [] : [running]) as T);
      const UpdateStatus = states[Math.min(looks++, states.length - 1)];
      return Promise.resolve({ ...service, UpdateStatus } as T);
    },
    post: () => Promise.reject(new Error("nothing is to be changed")),
    delete: () => Promise.reject(new Error("nothing is to be removed")),
    stream: () => Promise.reject(new Error("no stream is expected")),
  };
  const shown: (readonly string[])[] = [];
  await follow(client, "s1", (lines) => shown.push(lines));
  t.notMatch(shown[0], [/rollback/], "not before");
  t.equal(shown[1]?.at(-1), `rollback: ${cause}`);
  t.strictSame(shown.at(-1)?.slice(-3), [
    `rollback: ${cause}`,
    "verify: Service s1 converged",
    "rollback: rollback completed",
  ]);
});
