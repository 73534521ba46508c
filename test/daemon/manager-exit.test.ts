import t from "tap";
import { afterManagerExit } from "../../daemon/manager-exit.ts";
import { describeFailure, RemovedError } from "../../manager/failure.ts";
import { ClusterError } from "../../model/errors.ts";

const joined = { managerJoined: true };
const joining = { managerJoined: false };
const damaged = describeFailure(new ClusterError("data-loss", "segment 3 is damaged"));
const denied = describeFailure(new ClusterError("permission-denied", "promote it first"));
const leaderless = describeFailure(new ClusterError("no-leader", "none"));
const removed = describeFailure(new RemovedError());

const cases = [
  { name: "a crash", stored: joined, failure: undefined, next: "restart" },
  { name: "a lost leader", stored: joined, failure: leaderless, next: "restart" },
  { name: "a damaged log", stored: joined, failure: damaged, next: "leave" },
  {
    name: "a manager that was removed and may be wanted again",
    stored: joined,
    failure: removed,
    next: "rejoin",
  },
  { name: "a newcomer that is no manager at the moment", stored: joining, failure: denied, next: "restart" },
  { name: "a newcomer with a damaged log", stored: joining, failure: damaged, next: "leave" },
  { name: "a member that is denied", stored: joined, failure: denied, next: "leave" },
  { name: "a node that left", stored: undefined, failure: removed, next: "leave" },
] as const;

for (const { name, stored, failure, next } of cases) {
  t.test(name, (t) => {
    t.equal(afterManagerExit(stored, failure), next);
    t.end();
  });
}
