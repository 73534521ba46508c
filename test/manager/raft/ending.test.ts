import t from "tap";
import { endAll } from "../../../manager/raft/ending.ts";

t.test("what cannot be ended keeps nothing else open, and is told", async (t) => {
  const ended: string[] = [];
  const told: unknown[] = [];
  const failure = new Error("the disk is gone");
  await endAll(
    [
      () => Promise.reject(failure),
      async () => void ended.push("listener"),
      () => {
        throw failure;
      },
      () => void ended.push("port"),
    ],
    (error) => told.push(error),
  );
  t.strictSame(ended, ["listener", "port"]);
  t.strictSame(told, [failure, failure]);
});
