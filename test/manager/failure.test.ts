import t from "tap";
import { describeFailure, RemovedError } from "../../manager/failure.ts";
import { ClusterError } from "../../model/errors.ts";

const cases = [
  {
    name: "damaged data stays damaged",
    reason: new ClusterError("data-loss", "segment 3 is damaged"),
    code: "data-loss",
    retry: false,
  },
  {
    name: "a removed manager stays removed",
    reason: new RemovedError(),
    code: "failed-precondition",
    retry: false,
  },
  {
    name: "a lost leader comes back",
    reason: new ClusterError("no-leader", "none"),
    code: "no-leader",
    retry: true,
  },
  { name: "a port may become free", reason: system("EADDRINUSE"), code: "unavailable", retry: true },
  { name: "a disk may be emptied", reason: system("ENOSPC"), code: "resource-exhausted", retry: true },
  {
    name: "a file system may be mounted writable again",
    reason: system("EROFS"),
    code: "unavailable",
    retry: true,
  },
  { name: "anything else", reason: new TypeError("x is not a function"), code: "internal", retry: true },
] as const;

for (const { name, reason, code, retry } of cases) {
  t.test(name, (t) => {
    const failure = describeFailure(reason);
    t.match(failure, { kind: "failed", code, retry });
    t.ok(failure.message.includes(reason.message));
    t.end();
  });
}

function system(code: string): Error {
  return Object.assign(new Error(`${code}: it did not work`), { code });
}
